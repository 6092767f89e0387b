"""The view of a transcript after a swap: each prompt extends the one before, and every call keeps its result."""

from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    ToolMessage,
    convert_to_openai_messages,
)

from agentinfer_lg.compression.view import (
    STUB,
    Compaction,
    compressed_view,
    latest_tokens,
    message_tokens,
    split_rounds,
)
from agentinfer_lg.llm.protocol import Action, Step
from agentinfer_lg.llm.transcript import step_message, write_transcript
from agentinfer_lg.prompts import PROMPTS

Mode = Literal["native", "json"]
_PROMPTS = PROMPTS["en"]
_SEARCH = Action(tool="web_search", arguments={"queries": ["a"]})


def _stub(numbers: list[int]) -> str:
    return f"{numbers} in the notes"


def _transcript(sizes: list[list[int]], *, raw: bool = True) -> list[AnyMessage]:
    """A task, and per list a round with as many results, each of so many words."""
    messages: list[AnyMessage] = [HumanMessage("Question: q", id="task")]
    number = 0
    for turn, results in enumerate(sizes):
        step = step_message(
            Step(thought=f"thought {turn}", actions=(_SEARCH,) * len(results)),
            message_id=f"s-{turn}",
            raw=f'{{"thought": "{turn}"}}' if raw else None,
        )
        messages.append(step)
        for call, words in zip(step.tool_calls, results, strict=True):
            number += 1
            messages.append(
                ToolMessage(
                    f"Results:\n[{number}] title {number}: " + "word " * words,
                    tool_call_id=str(call["id"]),
                    name="web_search",
                    id=f"{call['id']}-result",
                )
            )
    return messages


def _swap(messages: list[AnyMessage], upto: int, folded: int = 0) -> Compaction:
    """A swap of the first `upto` rounds, of which the first `folded` are left out."""
    rounds = split_rounds(messages)
    return Compaction(
        ticket="t",
        upto=rounds[upto - 1].last_id,
        folded=rounds[folded - 1].last_id if folded else "",
        text="NOTES",
        turn=upto,
        tokens_before=0,
        tokens_after=0,
    )


_sizes = st.lists(st.lists(st.sampled_from([0, 5, 60]), min_size=1, max_size=3), min_size=1, max_size=6)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[AnyMessage], Compaction]:
    messages = _transcript(draw(_sizes), raw=draw(st.booleans()))
    upto = draw(st.integers(1, len(split_rounds(messages))))
    return messages, _swap(messages, upto, draw(st.integers(0, upto - 1)))


def _wire(view: list[AnyMessage], mode: Mode) -> list[Any]:
    wire = convert_to_openai_messages(write_transcript(view, mode=mode, prompts=_PROMPTS, question="q"))
    assert isinstance(wire, list)
    return wire


@pytest.mark.parametrize("reasoning", [True, False])
@pytest.mark.parametrize("mode", ["native", "json"])
@settings(deadline=None)
@given(case=_cases())
def test_until_the_next_swap_each_prompt_extends_the_one_before(
    mode: Mode, reasoning: bool, case: tuple[list[AnyMessage], Compaction]
) -> None:
    messages, swap = case
    rounds = split_rounds(messages)
    first = next(i for i, round_ in enumerate(rounds) if round_.last_id == swap["upto"])
    before: list[Any] = []
    for round_ in rounds[first:]:
        end = next(i for i, message in enumerate(messages) if message.id == round_.last_id) + 1
        wire = _wire(compressed_view(messages[:end], swap, stub=_stub, reasoning=reasoning), mode)
        assert wire[: len(before)] == before
        before = wire


@settings(deadline=None)
@given(_cases())
def test_steps_are_word_for_word_and_calls_keep_their_results(
    case: tuple[list[AnyMessage], Compaction],
) -> None:
    messages, swap = case
    copies = [message.model_copy(deep=True) for message in messages]
    view = compressed_view(messages, swap, stub=_stub)
    assert messages == copies
    rounds = split_rounds(messages)
    folded = next((i + 1 for i, r in enumerate(rounds) if r.last_id == swap["folded"]), 0)
    assert [m for m in view if isinstance(m, AIMessage)] == [round_.step for round_ in rounds[folded:]]
    calls = [call["id"] for m in view if isinstance(m, AIMessage) for call in m.tool_calls]
    assert [m.tool_call_id for m in view if isinstance(m, ToolMessage)] == calls
    assert view[0] == messages[0]
    assert [m.id for m in view if m.content == "NOTES"] == [swap["upto"]]
    after = [message.id for message in messages].index(swap["upto"])
    assert view[-len(messages[after + 1 :]) :] == messages[after + 1 :] or after + 1 == len(messages)
    assert all(isinstance(m, ToolMessage) for m in view if m.additional_kwargs.get(STUB))


@pytest.mark.parametrize("reasoning", [True, False])
@settings(deadline=None)
@given(case=_cases())
def test_json_alternates_and_nothing_private_is_sent(
    reasoning: bool, case: tuple[list[AnyMessage], Compaction]
) -> None:
    messages, swap = case
    view = compressed_view(messages, swap, stub=_stub, reasoning=reasoning)
    roles = [message["role"] for message in _wire(view, "json")]
    assert roles[:2] == ["system", "user"]
    assert set(roles[1:]) <= {"user", "assistant"}
    assert all(one != other for one, other in pairwise(roles))
    assert STUB not in str(_wire(view, "json")) + str(_wire(view, "native"))


@settings(deadline=None)
@given(_cases())
def test_no_call_is_open_in_the_native_form(case: tuple[list[AnyMessage], Compaction]) -> None:
    messages, swap = case
    wire = _wire(compressed_view(messages, swap, stub=_stub), "native")
    for position, message in enumerate(wire):
        calls = [call["id"] for call in message.get("tool_calls", ())]
        assert [m.get("tool_call_id") for m in wire[position + 1 : position + 1 + len(calls)]] == calls


def test_stubs_say_what_they_stand_for() -> None:
    messages = _transcript([[60], [0, 60], [60]])
    view = compressed_view(messages, _swap(messages, 2), stub=_stub)
    contents = [m.content for m in view if isinstance(m, ToolMessage)]
    assert contents[:3] == ["[1] in the notes", messages[4].content, "NOTES"]
    assert contents[3] == messages[-1].content
    assert message_tokens(view) < message_tokens(messages)
    wire = _wire(view, "json")
    asked = [_PROMPTS.next_step.format(question="q") in str(message["content"]) for message in wire]
    assert asked == [False, False, False, False, False, True, False, True], (
        "only after results that are still there"
    )


@pytest.mark.parametrize("upto", ["", "gone"])
def test_a_swap_whose_last_message_is_gone_changes_nothing(upto: str) -> None:
    messages = _transcript([[60], [60]])
    swap = _swap(messages, 1)
    swap["upto"] = upto
    assert compressed_view(messages, swap, stub=_stub) == messages
    assert compressed_view(messages, None, stub=_stub) == messages
    assert compressed_view([], swap, stub=_stub) == []


@pytest.mark.parametrize("folded", ["gone", "s-1-0-result", "s-2-0-result"])
def test_the_notes_are_never_folded(folded: str) -> None:
    messages = _transcript([[60], [60], [60]])
    swap = _swap(messages, 2)
    swap["folded"] = folded
    view = compressed_view(messages, swap, stub=_stub)
    assert [m.content for m in view].count("NOTES") == 1
    assert len(view) == len(messages)


def test_without_reasoning_the_notes_follow_the_task() -> None:
    messages = _transcript([[60], [60], [60]])
    view = compressed_view(messages, _swap(messages, 2), stub=_stub, reasoning=False)
    assert [m.content for m in view] == ["Question: q", "NOTES", "thought 2", messages[-1].content]


def test_what_came_after_the_last_step() -> None:
    messages = _transcript([[5], [60, 5]])
    assert latest_tokens(messages) == message_tokens(messages[-2:])
    assert latest_tokens(messages[:-2]) == 0
