"""The search filter: what a reply chooses, what words choose, and that nothing is lost."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from support.seekers import model, resources, seeker

from agentinfer_lg.context import Context
from agentinfer_lg.nodes.seeker.result_filter import choose_results, read_choice
from agentinfer_lg.resources import Resources


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("3, 1", [2, 0]),
        ("1", [0]),
        ("2, 2, 9, 0, 2", [1]),
        ("Results 4 and 2.", [3, 1]),
        ("2024", []),
        ("none", []),
        ("", []),
        ("-1", [0]),
        ("１, 2", [0, 1]),
    ],
)
def test_read_choice(text: str, chosen: list[int]) -> None:
    assert read_choice(text, 5) == chosen


@settings(deadline=None)
@given(st.text() | st.text("0123456789, "), st.integers(0, 50))
def test_any_reply_is_read(text: str, count: int) -> None:
    chosen = read_choice(text, count)
    assert len(set(chosen)) == len(chosen)
    assert all(0 <= position < count for position in chosen)


def _source(key: str, title: str, text: str) -> dict[str, Any]:
    return {"key": key, "uri": key, "title": title, "passages": [text], "read": False}


def _observation(tool: str, *sources: dict[str, Any], queries: tuple[str, ...] = ()) -> Any:
    call = {"id": "c", "tool": tool, "arguments": {"queries": list(queries)}}
    return {"call": call, "text": "", "sources": list(sources), "ok": True, "seconds": 0.0}


_STATE: Any = {
    "task": {"id": "seeker-1", "question": "Who lit the North Light?"},
    "language": "en",
    "turn": 0,
}
_LAMP = _source("a", "North Light", "Ada Winter lit it.")
_RAIN = _source("b", "Rain", "It rains on the pier.")
_OIL = _source("c", "Oil of the light", "Oil came from Spain.")


async def test_the_model_chooses_and_words_add_to_three() -> None:
    tide = _source("d", "Tide", "The tide is high.")
    found = _observation("web_search", _RAIN, tide, _OIL, _LAMP, queries=("keeper",))
    shared = resources(small=model("1"))
    context = Context(search_filter="model", search_keep=3)
    chosen = await choose_results([found], seeker(**_STATE), context, shared)
    keys = [source["key"] for source in chosen.observations[0]["sources"]]
    assert keys[0] == "b", "the choice of the model comes first"
    assert set(keys) == {"a", "b", "c"}
    assert [source["key"] for source in chosen.pruned] == ["d"]
    assert [record["method"] for record in chosen.records] == ["model"]
    assert [record["role"] for record in chosen.calls] == ["filter"]


async def test_words_choose() -> None:
    found = _observation("web_search", _RAIN, _OIL, _LAMP, queries=("North Light keeper",))
    read = _observation("crawl", _RAIN)
    again = _observation("web_search", _OIL, _RAIN)
    context = Context(search_filter="lexical", search_keep=2)
    chosen = await choose_results([found, read, again], _STATE, context, Resources())
    assert [[source["key"] for source in item["sources"]] for item in chosen.observations] == [
        ["a", "c"],
        ["b"],
        ["c"],
    ]
    assert [source["key"] for source in chosen.pruned] == ["b"]
    assert found["sources"] == [_RAIN, _OIL, _LAMP], "what was observed is not changed"
    [record] = chosen.records
    assert (record["method"], record["results"], record["pruned"]) == ("lexical", 3, 1)
    assert chosen.calls == []


async def test_a_title_that_a_query_spells_out_goes_before_a_text_that_mentions_all() -> None:
    shop = _source(
        "d", "Souvenirs, tours and more", "Who lit the North Light, who kept the North Light? Ask us."
    )
    part = _source("e", "North Light of Sutton", "Ada Winter lit it in 1871.")
    found = _observation("web_search", shop, _RAIN, part, queries=("who lit the North Light",))
    chosen = await choose_results(
        [found], _STATE, Context(search_filter="lexical", search_keep=1), Resources()
    )
    assert [source["key"] for source in chosen.observations[0]["sources"]] == ["e"]


def _step(*queries: str) -> AIMessage:
    call = {"name": "web_search", "args": {"queries": list(queries)}, "id": "c"}
    return AIMessage("", tool_calls=[call])


async def test_no_model_is_asked_about_a_search_made_before() -> None:
    state = {**_STATE, "messages": [_step("keeper North Light"), _step("North Light keeper")]}
    found = _observation("web_search", _RAIN, _OIL, _LAMP, queries=("North Light, keeper",))
    context = Context(search_filter="model", search_keep=2)
    chosen = await choose_results([found], state, context, Resources())  # which have no model
    assert [record["method"] for record in chosen.records] == ["lexical"]
    assert chosen.calls == []


@pytest.mark.parametrize(
    "knobs",
    [
        {"search_filter": "off", "search_keep": 1},
        {"search_filter": "lexical", "search_keep": 3},
        {"search_filter": "model", "search_keep": 3},
    ],
)
async def test_nothing_to_prune(knobs: dict[str, Any]) -> None:
    found = [_observation("web_search", _RAIN, _OIL, _LAMP)]
    chosen = await choose_results(found, _STATE, Context(**knobs), Resources())
    assert chosen.observations == found
    assert chosen.pruned == chosen.calls == chosen.records == []
    assert chosen.pruned == chosen.records == []
