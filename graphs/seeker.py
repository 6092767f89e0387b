"""The Information Seeker: think, progress, act, filter, boundary, and round again until there is a finding."""

from __future__ import annotations

from typing import Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from agentinfer_lg.context import Context
from agentinfer_lg.graphs.binding import bind
from agentinfer_lg.nodes.act import act
from agentinfer_lg.nodes.boundary import boundary, goes_on
from agentinfer_lg.nodes.conclude import conclude
from agentinfer_lg.nodes.filter import filter_results
from agentinfer_lg.nodes.progress import progress
from agentinfer_lg.nodes.think import think
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import SeekerOutput, SeekerState


def seeker_builder(resources: Resources) -> StateGraph[SeekerState, Context, SeekerState, SeekerOutput]:
    """Return the seeker's graph, to be compiled as a sub-graph."""
    builder = StateGraph(SeekerState, context_schema=Context, output_schema=SeekerOutput)
    builder.add_node("think", bind(think, resources))
    builder.add_node("progress", bind(progress, resources))
    builder.add_node("act", bind(act, resources))
    builder.add_node("filter", bind(filter_results, resources))
    builder.add_node("boundary", bind(boundary, resources))
    builder.add_node("conclude", bind(conclude, resources))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", _after_think, ["progress", "conclude"])
    builder.add_conditional_edges("progress", _calls, ["act"])
    builder.add_edge("act", "filter")
    builder.add_edge("filter", "boundary")
    builder.add_conditional_edges("boundary", _after_boundary, ["think", "conclude"])
    builder.add_edge("conclude", END)
    return builder


def _after_think(state: SeekerState) -> Literal["progress", "conclude"]:
    return "progress" if state["pending"] else "conclude"


def _calls(state: SeekerState) -> list[Send]:
    """One task per tool call, so that each is checkpointed as soon as it is done."""
    payload: dict[str, Any] = {key: value for key, value in state.items() if key not in _NOT_FOR_ACT}
    return [Send("act", {**payload, "call": call}) for call in state["pending"]]


_NOT_FOR_ACT = frozenset({"observations", "findings", "checks", "escalations", "collab", "verifier"})


def _after_boundary(state: SeekerState) -> Literal["think", "conclude"]:
    return "think" if goes_on(state) else "conclude"
