"""Stall: the external verifier looks at a round of the seeker, and before the tools run at what is there already."""

from __future__ import annotations

from collections.abc import Sequence

from agentinfer_lg.collab.verifier import (
    RoundEvidence,
    VerifierState,
    normalise_action,
    objects_already,
    observe,
)
from agentinfer_lg.context import Context
from agentinfer_lg.state import Observation, SeekerState


def observe_round(
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


def stalls_already(state: SeekerState, context: Context) -> bool:
    """Whether the verifier will object to the step that was just made, whatever its tools return."""
    return context.verifier and objects_already(
        _before(state), _round(state, ()), repeat_limit=context.repeat_limit
    )


def _before(state: SeekerState) -> VerifierState:
    return VerifierState.from_json(state["verifier"]) if state.get("verifier") else VerifierState()


def _round(state: SeekerState, observations: Sequence[Observation]) -> RoundEvidence:
    return RoundEvidence(
        actions=tuple(
            normalise_action(call["tool"], call["arguments"])
            for call in state["pending"]
            if call["tool"] != "finish"
        ),
        evidence=tuple(
            text for item in observations for source in item["sources"] for text in source["passages"]
        ),
        thought=str(state["messages"][-1].content),
        errors=sum(not item["ok"] for item in observations),
    )
