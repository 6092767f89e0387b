"""The policy that a run really follows: that of its knobs, unless the models leave it nothing to choose."""

from __future__ import annotations

from agentinfer_lg.context import CollabPolicy, Context

ONE_MODEL_NOTE = "One model serves both tiers: no Progress Checks, no escalations."
"""What people are told of it, once."""


def effective_policy(policy: CollabPolicy, *, one_model: bool) -> CollabPolicy:
    """Return the policy that is followed.

    Where one model serves both tiers, a check could only call that model again, and a rescue would be its own. A fixed policy
    keeps its meaning: whoever sets one wants to compare.

    Args:
        policy: The knob.
        one_model: Whether both tiers are one model.
    """
    return "one-model" if one_model and policy == "agentcollab" else policy


def effective_context(context: Context, *, one_model: bool) -> Context:
    """Return the knobs of a run with the policy that is followed.

    Args:
        context: As the caller set them.
        one_model: Whether both tiers are one model.
    """
    policy = effective_policy(context.policy, one_model=one_model)
    return context if policy == context.policy else context.model_copy(update={"policy": policy})
