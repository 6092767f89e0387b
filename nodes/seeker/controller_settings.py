"""The controller's settings for one seeker: knobs of the run, share of the budget."""

from __future__ import annotations

from agentinfer_lg.collab.controller import CollabSettings
from agentinfer_lg.context import Context
from agentinfer_lg.state import SeekerState


def controller_settings(state: SeekerState, context: Context) -> CollabSettings:
    """Return the settings of the seeker's controller."""
    return CollabSettings.from_context(
        context,
        warmup_steps=context.seeker_warmup_steps,
        max_large_steps=state["budget"]["large_steps"],
        agent=state["task"]["id"],
    )
