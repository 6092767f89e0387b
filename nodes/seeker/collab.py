"""AgentCollab in a seeker: what controller and verifier are given of its state."""

from __future__ import annotations

from collections.abc import Sequence

from agentinfer_lg.collab.controller import CollabSettings
from agentinfer_lg.collab.verifier import (
    RoundEvidence,
    VerifierState,
    normalise_action,
    objects_already,
    observe,
)
from agentinfer_lg.context import Context
from agentinfer_lg.llm.protocol import gives_answer
from agentinfer_lg.state import Observation, SeekerState


def controller_settings(state: SeekerState, context: Context) -> CollabSettings:
    """Return the settings of the seeker's controller: knobs of the run, and its share of the budget."""
    return CollabSettings.from_context(
        context,
        warmup_steps=context.seeker_warmup_steps,
        max_large_steps=state["budget"]["large_steps"],
        agent=state["task"]["id"],
    )


def verify_round(
    state: SeekerState, context: Context, observations: Sequence[Observation]
) -> tuple[VerifierState, str]:
    """Return what the verifier remembers after the round, and its objection, which is empty if it has none.

    Args:
        state: With the step of the round as its last message.
        context: Knobs of the run.
        observations: What the tools of the round returned.
    """
    return observe(
        _before(state),
        _round(state, observations),
        repeat_limit=context.repeat_limit,
        stall_limit=context.stall_limit,
    )


def no_progress_already(state: SeekerState, context: Context) -> bool:
    """Whether the verifier will object to the step that was just made, whatever its tools return."""
    return context.verifier and objects_already(
        _before(state), _round(state, ()), repeat_limit=context.repeat_limit
    )


def _before(state: SeekerState) -> VerifierState:
    return VerifierState.from_json(state["verifier"]) if state.get("verifier") else VerifierState()


def _round(state: SeekerState, observations: Sequence[Observation]) -> RoundEvidence:
    actions = [call for call in state["pending"] if not gives_answer(call["tool"])]
    return RoundEvidence(
        actions=tuple(normalise_action(call["tool"], call["arguments"]) for call in actions),
        evidence=tuple(
            text for item in observations for source in item["sources"] for text in source["passages"]
        ),
        thought=str(state["messages"][-1].content),
        errors=sum(not item["ok"] for item in observations),
    )
