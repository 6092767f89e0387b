"""Conclude: a seeker's finding, whether it finished or something ran out."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.events import emit
from agentinfer_lg.llm.calling import seeker_caller
from agentinfer_lg.nodes.seeker.budget import seconds_left
from agentinfer_lg.nodes.seeker.compaction import settle
from agentinfer_lg.nodes.seeker.read_answer import Reading, answer_tier, is_unknown, read_answer
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import Finding, Proposal, SeekerState


async def conclude(state: SeekerState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Write down what was found.

    A seeker that was stopped before it answered reads once more what it has seen, if time is left; if no model
    answers, its sources remain and the report quotes them.
    """
    settled = await settle(state, runtime.context, resources, runtime.store)
    reading, failure = await _answer(state, runtime.context, resources)
    accepted = _accepted(state) is not None
    answer = "" if is_unknown(reading.answer) and not reading.sources else reading.answer
    finding = Finding(
        agent=state["task"]["id"],
        question=state["task"]["question"],
        answer=answer,
        sources=list(reading.sources),
        complete=bool(accepted and answer),
    )
    emit("finding", finding["agent"], text=answer, results=len(finding["sources"]), ok=finding["complete"])
    calls = [*settled.pop("calls", []), *reading.calls]
    update: dict[str, Any] = {**settled, "findings": [finding], "calls": calls}
    return update | ({"ran_out": [failure]} if failure else {})


async def _answer(state: SeekerState, context: Context, resources: Resources) -> tuple[Reading, str]:
    """Return the answer that was accepted, else what can be read, and why it could not."""
    if proposal := _accepted(state):
        return Reading(proposal["answer"], tuple(proposal["sources"])), ""
    nothing = Reading("", ())
    if not state.get("numbers") or seconds_left(state) <= 0:
        return nothing, ""
    tier = answer_tier(context, state.get("calls", []), large_tokens=state["budget"]["large_tokens"])
    caller, prompts = seeker_caller(state, context, resources), PROMPTS[state["language"]]
    try:
        return await read_answer(caller, prompts, state, context, tier=tier), ""
    except EndpointError as error:
        return nothing, str(error)


def _accepted(state: SeekerState) -> Proposal | None:
    proposal = state.get("proposal")
    return proposal if proposal and proposal["accepted"] else None
