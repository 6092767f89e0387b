"""Filter: numbers, what is shown of a round and what is not, and the messages that carry it."""

from __future__ import annotations

from typing import Any

from support.seekers import SEARCH, resources, rounds, runtime, seeker, source

from agentinfer_lg.compression.view import Compaction
from agentinfer_lg.context import Context
from agentinfer_lg.nodes.filter import Board, filter_results
from agentinfer_lg.nodes.seeker.recall import Recalled
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.state import Observation, SeekerState, Source

HERON = source("heron", "Heron Point Light was lit in 1871.")
GULL = source("gull", "Gull Rock Light was lit in 1902.")
LONG = " ".join(f"Row {row} of the oil store book is about trimming." for row in range(200))


def _observation(
    tool: str = "web_search",
    *sources: Source,
    id: str = "c-0",
    text: str = "",
    ok: bool = True,
    **arguments: Any,
) -> Observation:
    call: Any = {"id": id, "tool": tool, "arguments": arguments}
    return Observation(call=call, text=text, sources=list(sources), ok=ok, seconds=0.1)


def _state(*observations: Observation, known: tuple[Source, ...] = (), **more: Any) -> SeekerState:
    pending = [item["call"] for item in observations]
    return seeker(*known, observations=list(observations), pending=pending, **more)


async def _filtered(state: SeekerState, **knobs: Any) -> dict[str, Any]:
    return await filter_results(state, runtime(search_filter="off", **knobs), resources=resources())


# The node


async def test_numbers_follow_the_calls_however_they_raced() -> None:
    first, second = _observation("web_search", HERON, id="c-0"), _observation("web_search", GULL, id="c-1")
    state = seeker(pending=[first["call"], second["call"]], observations=[second, first])
    update = await _filtered(state)
    assert update["numbers"] == ["heron", "gull"]
    assert [message.tool_call_id for message in update["messages"]] == ["c-0", "c-1"]
    assert update["messages"][0].content == "Results:\n[1] Heron: Heron Point Light was lit in 1871."
    assert update["messages"][1].id == "c-1-result"
    assert update["observations"] is None, "the next round begins with none"
    (record,) = update["rounds"]
    assert list(record["shown"]) == ["heron", "gull"]
    assert record["new_evidence"]


async def test_nothing_found() -> None:
    (message,) = (await _filtered(_state(_observation())))["messages"]
    assert message.content == PROMPTS["en"].results.format(results=PROMPTS["en"].no_results)


async def test_follow_up_queries_are_noted_with_the_message() -> None:
    update = await _filtered(_state(_observation("web_search", HERON, leads=["Ada Winter"])))
    assert update["messages"][0].artifact == {"leads": ["Ada Winter"]}
    plain = await _filtered(_state(_observation("web_search", HERON, leads=[])))
    assert plain["messages"][0].artifact is None


async def test_an_answer_is_proposed_as_it_is() -> None:
    answer = _observation("finish", text="1871", answer="1871", sources=("heron",))
    update = await _filtered(_state(answer, known=(HERON,)))
    assert update["messages"][0].content == "1871"
    assert update["proposal"] == {"answer": "1871", "sources": ["heron"], "accepted": True}
    assert update["rounds"][0]["accepted"]


async def test_a_refused_answer_is_no_failure_of_a_tool() -> None:
    update = await _filtered(_state(_observation("finish", ok=False, answer="x")))
    assert not update["tool_error"]
    assert not update["proposal"]["accepted"]
    assert (await _filtered(_state(_observation("crawl", ok=False))))["tool_error"]


async def test_the_verifier_looks_on() -> None:
    state = _state(_observation("web_search", HERON))
    update = await _filtered(state)
    assert update["stall"] == ""
    again = _state(
        _observation("web_search", HERON), verifier=update["verifier"], messages=rounds((SEARCH, ""))
    )
    assert "no new evidence" in (await _filtered(again, stall_limit=1))["stall"]
    assert (await _filtered(again, stall_limit=1, verifier=False))["stall"] == ""


# The board


def _board(*known: Source, **more: Any) -> Board:
    values = {"pruned": more.pop("pruned", ()), "again": more.pop("again", None)}
    return Board(seeker(*known), Context(**more), **values)


def test_what_is_seen_already_is_pointed_at() -> None:
    board = _board(HERON)
    assert board.show(_observation("web_search", HERON, GULL)) == (
        "[1] Heron (see above)\n[2] Gull: Gull Rock Light was lit in 1902."
    )
    more = source("heron", *HERON["passages"], "Ada Winter kept it.")
    assert board.show(_observation("web_search", more)) == "[1] Heron: Ada Winter kept it."
    assert list(board.shown) == ["gull", "heron"]


def test_the_budget_of_a_round() -> None:
    board = _board(max_observation_tokens=300)
    text = board.show(_observation("web_search", source("book", LONG), HERON))
    assert text.startswith("[1] Book: Row 0")
    assert "Heron" not in text, "nothing is left for it"
    assert board.numbers == ["book"]
    assert not board.added["book"]["read"], "it was cut short"


def test_a_page_that_was_read_counts_as_read() -> None:
    board = _board(max_observation_tokens=300)
    board.show(_observation("crawl", source("book", LONG, read=True)))
    assert board.added["book"]["read"]


def test_the_answer_to_a_question_is_shown_once() -> None:
    answer = source("heron", "In 1871.")
    assert _board().show(_observation("document_qa", answer, text="In 1871.")) == "[1] Heron: In 1871."


def test_what_was_pruned_keeps_number_and_title() -> None:
    board = _board(pruned=[HERON])
    assert board.left_out(_observation("crawl")) == [], "it belongs to the search"
    assert board.left_out(_observation("web_search", GULL)) == ["[1] Heron"]
    assert board.left_out(_observation("web_search", GULL)) == [], "said once"
    assert board.added["heron"]["passages"] == []


def test_what_is_recalled_comes_after_the_first_search() -> None:
    board = _board(HERON, again=Recalled(1, "[1] Heron: the original"))
    assert board.recalled(_observation("crawl")) == ""
    assert board.recalled(_observation("web_search")) == "[1] Heron: the original"
    assert board.recalled(_observation("web_search")) == ""


def _compacted() -> SeekerState:
    """A seeker whose only result stands in notes."""
    messages = rounds((SEARCH, "Results:\n[1] Heron: Heron Point Light was lit in 1871."))
    messages[-1].id = "result"
    notes = {"facts": [], "details": [], "leads": [], "dead_ends": [], "numbers": [1]}
    swap = Compaction(
        ticket="t", upto="result", folded="", text="notes", turn=1, tokens_before=0, tokens_after=0
    )
    return seeker(HERON, messages=messages, compression={"swap": swap, "notes": notes})


def test_what_stands_in_notes_is_pointed_at_or_read_again() -> None:
    board = Board(_compacted(), Context())
    assert board.show(_observation("web_search", HERON)) == "[1] Heron (see the notes)"
    assert board.show(_observation("crawl", HERON)) == "[1] Heron: Heron Point Light was lit in 1871."
    again = Board(_compacted(), Context(), again=Recalled(1, "[1] Heron: the original"))
    assert again.show(_observation("web_search", HERON)) == "", "its text follows"
