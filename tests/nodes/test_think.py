"""Think: what a reply becomes, which actions are offered, and when reading comes first."""

from __future__ import annotations

from typing import Any

import pytest
from support.seekers import (
    SEARCH,
    broken,
    call_record,
    model,
    resources,
    rounds,
    runtime,
    seeker,
    source,
)

from agentinfer_lg.context import Context
from agentinfer_lg.llm.protocol import READ_ANSWER, Action
from agentinfer_lg.nodes.think import choices, reads_first, think
from agentinfer_lg.state import SeekerState

HERON = source("heron", "Heron Point Light was lit in 1871.")
RESCUE = {"tier": "large", "turn": 1, "messages": rounds((SEARCH, "Results:"))}


def _rescued(*sources: Any, steps: int = 0, **more: Any) -> SeekerState:
    state = seeker(*sources, **{**RESCUE, **more})
    state["collab"] |= {"tier": "large", "rescue_budget": 2, "rescue_steps": steps}
    return state


async def _think(text: str, state: SeekerState, **knobs: Any) -> dict[str, Any]:
    return await think(state, runtime(**knobs), resources=resources(small=model(text), large=model(text)))


def _pending(update: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(call["tool"], call["arguments"]) for call in update["pending"]]


FIRST: dict[str, Any] = {"messages": rounds()}
LATER: dict[str, Any] = {"messages": rounds((SEARCH, "Results:")), "turn": 1}


async def test_a_step_is_written_down_and_its_action_is_to_be_done() -> None:
    update = await _think('{"thought": "t", "action": "search", "query": "who"}', seeker(**LATER))
    (message,) = update["messages"]
    assert message.id == "seeker-1-1"
    assert message.content == "t"
    assert _pending(update) == [("web_search", {"queries": ["who"]})]
    assert update["pending"][0]["id"] == message.tool_calls[0]["id"] == "seeker-1-1-0"
    assert [record["role"] for record in update["calls"]] == ["think"]
    assert update["modes"] == {"small": "json"}


async def test_the_first_search_also_asks_the_task() -> None:
    update = await _think('{"thought": "t", "action": "search", "query": "who"}', seeker(**FIRST))
    assert _pending(update) == [("web_search", {"queries": ["who", "When was Heron Point Light lit?"]})]


async def test_an_answer_is_to_be_read() -> None:
    state = seeker(HERON, **LATER)
    update = await _think('{"known": "1871", "missing": "no", "action": "answer"}', state)
    assert _pending(update) == [("read_answer", {"sources": []})]
    (call,) = update["messages"][0].tool_calls
    assert (call["name"], call["args"]) == ("finish", {"answer": "", "sources": []})


@pytest.mark.parametrize(
    ("text", "known", "tool"),
    [
        ("I do not know.", False, "web_search"),
        ("It was lit in 1871.", True, "read_answer"),
        ("", True, "web_search"),
        ('{"action": "answer"}', False, "web_search"),
    ],
)
async def test_a_step_without_an_action_gets_one(text: str, known: bool, tool: str) -> None:
    update = await _think(text, seeker(*[HERON] * known, **LATER))
    ((done, _),) = _pending(update)
    assert done == tool


async def test_a_lost_endpoint_ends_the_seeker() -> None:
    update = await think(seeker(**FIRST), runtime(), resources=resources(small=broken()))
    assert update["pending"] == []
    assert "Broken" in update["ran_out"][0]
    assert "messages" not in update


async def test_the_other_model_steps_in_with_a_warning() -> None:
    shared = resources(large=model('{"thought": "t", "action": "search", "query": "who"}'))
    update = await think(seeker(**LATER), runtime(), resources=shared)
    assert _pending(update) == [("web_search", {"queries": ["who"]})]
    assert "large model goes on" in update["ran_out"][0]


async def test_time_is_over() -> None:
    state = seeker(calls=[call_record(seconds=601.0)], **FIRST)
    update = await _think("x", state, max_seconds=600)
    assert update["pending"] == []
    assert "max_seconds" in update["ran_out"][0]


# Choices


def test_before_anything_was_found_there_is_only_searching() -> None:
    possible = choices(seeker())
    assert (possible.search, possible.read, possible.answer, possible.results) == (True, (), False, False)


def test_what_is_shown_and_unread_can_be_read() -> None:
    many = [source(f"s{n}", "text") for n in range(14)]
    state = seeker(*many, source("done", "text", read=True), source("bare"), **LATER)
    assert choices(state).read == tuple(range(5, 15)), "the latest ones"


@pytest.mark.parametrize(("rounds_without_news", "search"), [(0, True), (1, False)])
def test_no_search_right_after_one_that_brought_nothing(rounds_without_news: int, search: bool) -> None:
    state = seeker(HERON, verifier={"stalled_rounds": rounds_without_news}, **LATER)
    assert choices(state).search is search


@pytest.mark.parametrize(
    "answer", [READ_ANSWER, Action(tool="finish", arguments={"answer": "x", "sources": []})]
)
def test_no_answer_right_after_one_that_was_refused(answer: Action) -> None:
    refused = rounds((SEARCH, "Results:"), (answer, "no"))
    assert not choices(seeker(HERON, messages=refused)).answer
    assert choices(seeker(HERON, **LATER)).answer


# Reading before thinking


async def test_a_rescue_begins_with_a_reading_and_asks_no_model() -> None:
    update = await think(_rescued(HERON), runtime(), resources=resources())
    assert _pending(update) == [("read_answer", {"sources": []})]
    (message,) = update["messages"]
    assert (message.id, message.content) == ("seeker-1-1", "")
    assert message.tool_calls[0]["name"] == "finish"
    assert "calls" not in update


@pytest.mark.parametrize(
    ("state", "knobs"),
    [
        (_rescued(HERON), {"rescue_reads": False}),
        (_rescued(HERON), {"policy": "random"}),
        (_rescued(HERON, tier="small"), {}),
        (_rescued(HERON, steps=1), {}),
        (_rescued(), {}),
        (_rescued(HERON, messages=rounds((READ_ANSWER, "no"))), {}),
        (seeker(HERON, **RESCUE), {}),
    ],
    ids=["off", "policy", "small", "second step", "nothing found", "just refused", "no rescue"],
)
def test_when_it_does_not(state: SeekerState, knobs: dict[str, Any]) -> None:
    assert reads_first(_rescued(HERON), Context())
    assert not reads_first(state, Context(**knobs))
