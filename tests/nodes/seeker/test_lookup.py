"""Looking up: one search for several queries, and what follow-up queries add to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support.seekers import SEARCH, Shelf, resources, rounds, seeker, source

from agentinfer_lg.context import Context
from agentinfer_lg.errors import ToolError
from agentinfer_lg.nodes.seeker import lookup
from agentinfer_lg.nodes.seeker.lookup import look_up, look_up_followups, source_of, with_followups
from agentinfer_lg.report.sources import source_key

KEPT = source("heron", "Heron Point Light is kept by the Aldern Trust.")
TRUST = Shelf(aldern="The Aldern Trust was founded in 1871.")


def test_a_source_has_the_key_of_its_address() -> None:
    found = source_of("a.md", "A", ["text"], read=True)
    assert found["key"] == source_key("a.md")


async def test_the_best_of_each_query_comes_first() -> None:
    shelf = Shelf(heron="1", gull="2", lamp="3")
    found = await look_up(shelf, ["heron gull", "lamp heron"], limit=2)
    assert [each["uri"] for each in found] == ["heron", "gull", "lamp"], "each once"
    assert [each["uri"] for each in await look_up(shelf, ["heron gull"], limit=1)] == ["heron"]


async def test_a_search_that_hangs_is_a_failed_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Shelf):
        async def search(self, queries: Sequence[str], *, limit: int) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr(lookup, "_SEARCH_SECONDS", 0.01)
    with pytest.raises(ToolError, match="did not answer within"):
        await look_up(Hanging(), ["heron"], limit=1)


async def test_a_new_search_is_made_as_it_is() -> None:
    state = seeker(KEPT, messages=rounds((SEARCH, "Results:"), (SEARCH, "")))
    assert await with_followups(state, Context(), ["otter medal"]) == (["otter medal"], [])


async def test_a_search_that_asks_nothing_new_gives_way_to_follow_up_queries() -> None:
    state = seeker(KEPT, messages=rounds((SEARCH, "Results:"), (SEARCH, "")))
    queries, followed = await with_followups(state, Context(), ["heron point", "point"])
    assert followed
    assert followed[0].startswith("Aldern Trust")
    assert queries == ["point", *followed], "what was searched for as it is, is not searched for again"
    assert await with_followups(state, Context(leads=False), ["heron point"]) == (["heron point"], [])


async def test_nothing_to_follow() -> None:
    state = seeker(source("rain", "Rain falls."), messages=rounds((SEARCH, "Results:"), (SEARCH, "")))
    assert await with_followups(state, Context(), ["heron point"]) == (["heron point"], [])
    assert await look_up_followups(state, Context(), resources(TRUST)) == ([], [])


async def test_what_follow_up_queries_find() -> None:
    found, followed = await look_up_followups(seeker(KEPT), Context(), resources(TRUST))
    assert [each["title"] for each in found] == ["Aldern"]
    assert followed[0].startswith("Aldern Trust")
    assert await look_up_followups(seeker(KEPT), Context(leads=False), resources(TRUST)) == ([], [])


async def test_what_is_known_is_not_found_again() -> None:
    known = source_of("aldern", "Lamp", ["The Aldern Trust was founded in 1871."], read=True)
    found, _ = await look_up_followups(seeker(KEPT, known), Context(), resources(TRUST))
    assert found == []


async def test_a_search_that_fails_finds_nothing() -> None:
    shelf = Shelf(aldern="The Aldern Trust was founded in 1871.")
    shelf.fails = True
    assert await look_up_followups(seeker(KEPT), Context(), resources(shelf)) == ([], [])
    assert shelf.queries, "it was made"
