"""When to distill, when a swap pays, and which steps are left out at last."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from agentinfer_lg.compression.policy import (
    covered,
    expected_turns,
    fold_until,
    job_id,
    pays,
    shared_tokens,
    to_distill,
)
from agentinfer_lg.compression.view import Round, message_tokens, split_rounds


def _messages(rounds: list[list[str]]) -> list[AnyMessage]:
    messages: list[AnyMessage] = [HumanMessage("q", id="task")]
    for turn, results in enumerate(rounds):
        messages.append(AIMessage("thought " * 20, id=f"s-{turn}"))
        for position, text in enumerate(results):
            call_id = f"s-{turn}-{position}"
            messages.append(
                ToolMessage(text, tool_call_id=call_id, name="web_search", id=f"{call_id}-result")
            )
    return messages


def _rounds(*texts: str) -> list[Round]:
    return split_rounds(_messages([[text] for text in texts]))


_LONG = "word " * 200


def test_old_results_are_next() -> None:
    messages = _messages([[_LONG]] * 5)
    rounds = split_rounds(messages)
    assert to_distill(messages, done=0, keep_rounds=2, context_tokens=1500) == rounds[:3]
    assert to_distill(messages, done=1, keep_rounds=2, context_tokens=1500) == rounds[1:3]
    assert to_distill(messages, done=3, keep_rounds=2, context_tokens=1500) == []
    assert to_distill(messages, done=5, keep_rounds=0, context_tokens=1500) == []
    assert to_distill(messages, done=0, keep_rounds=9, context_tokens=1500) == []
    assert to_distill(messages, done=0, keep_rounds=2, context_tokens=100_000) == [], (
        "too little of the context"
    )
    assert to_distill([], done=0, keep_rounds=0, context_tokens=10) == []


def test_the_notes_stand_where_a_result_stood() -> None:
    messages = _messages([[_LONG], [_LONG], [], []])
    rounds = to_distill(messages, done=0, keep_rounds=0, context_tokens=500)
    assert [round_.last_id for round_ in rounds] == ["s-0-0-result", "s-1-0-result"]
    assert to_distill(_messages([[], []]), done=0, keep_rounds=0, context_tokens=1) == []


def test_covered() -> None:
    messages = _messages([["a", "b"], [], ["c"]])
    assert [covered(messages, name) for name in ("s-0-1-result", "s-1", "s-2-0-result")] == [1, 2, 3]
    assert [covered(messages, name) for name in ("", "gone", "s-0-0-result", "task")] == [0, 0, 0, 0]


@settings(deadline=None)
@given(st.lists(st.text(max_size=10), max_size=4), st.text(max_size=5), st.text(max_size=5))
def test_the_ticket_is_its_content(texts: list[str], question: str, earlier: str) -> None:
    ticket = job_id(question, earlier, _rounds(*texts))
    assert ticket == job_id(question, earlier, _rounds(*texts))
    assert len(ticket) == 24
    assert ticket != job_id(question + "x", earlier, _rounds(*texts))
    assert ticket != job_id(question, earlier + "x", _rounds(*texts))
    assert ticket != job_id(question, earlier, _rounds(*texts, ""))
    assert job_id("a", "bc", []) != job_id("ab", "c", [])
    assert job_id("q", "", _rounds("a", "bc")) != job_id("q", "", _rounds("ab", "c"))


def test_the_ticket_does_not_depend_on_ids_or_thoughts() -> None:
    one = _rounds("text")
    other = [
        Round(AIMessage("else", id="x"), (ToolMessage("text", tool_call_id="y", name="web_search", id="z"),))
    ]
    assert job_id("q", "", one) == job_id("q", "", other)
    assert job_id("\ud800", "", one)


@pytest.mark.parametrize(
    ("turn", "limit", "turns"), [(0, 12, 2), (1, 12, 2), (5, 12, 5), (9, 12, 3), (12, 12, 0), (20, 12, 0)]
)
def test_expected_turns(turn: int, limit: int, turns: int) -> None:
    assert expected_turns(turn, limit=limit) == turns


def test_pays() -> None:
    assert pays(saved=100, prefill=199, turns=2)
    assert not pays(saved=100, prefill=200, turns=2)
    assert not pays(saved=100, prefill=0, turns=0)
    assert not pays(saved=0, prefill=-1, turns=5)
    assert not pays(saved=-100, prefill=-1000, turns=5)


def test_shared_tokens() -> None:
    before = _messages([["a"], ["b"]])
    after = [*before[:2], before[2].model_copy(update={"content": "stub"}), *before[3:]]
    assert shared_tokens(before, after) == message_tokens(before[:2])
    assert shared_tokens(before, before[:3]) == message_tokens(before[:3])
    assert shared_tokens(before, []) == 0


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 400), st.data())
def test_folding_is_bounded_and_keeps_the_last(sizes: list[int], limit: int, data: st.DataObject) -> None:
    rounds = [
        Round(AIMessage("x" * 4 * size, id=f"s{i}"), (ToolMessage("r", tool_call_id=f"c{i}", id=f"r{i}"),))
        for i, size in enumerate(sizes)
    ]
    ids = [round_.last_id for round_ in rounds]
    before = data.draw(st.sampled_from(["", *ids[:-1]]))
    folded = fold_until(rounds, folded=before, limit=limit)
    assert folded in ("", *ids[:-1]), "the last one carries the notes"
    start = ids.index(folded) + 1 if folded else 0
    assert start >= (ids.index(before) + 1 if before else 0), "what is left out stays out"
    left = message_tokens([round_.step for round_ in rounds[start:]])
    assert left <= limit or start == len(rounds) - 1
    if folded != before and start < len(rounds) - 1:
        assert left <= limit // 2
        assert left + message_tokens([rounds[start - 1].step]) > limit // 2, "no more than needed"


def test_no_rounds_fold_nothing() -> None:
    empty: list[Any] = []
    assert fold_until(empty, folded="", limit=0) == ""
