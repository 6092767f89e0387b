"""Transcripts: what a model saw once it sees again, to the letter, or the prefix cache is lost."""

import json
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    convert_to_openai_messages,
)

from agentinfer_lg.llm.protocol import READ_ANSWER, Action, Step, parse_step
from agentinfer_lg.llm.transcript import RAW, step_message, write_transcript
from agentinfer_lg.prompts import PROMPTS

Mode = Literal["native", "json"]
_PROMPTS = PROMPTS["en"]
_QUESTION = "When was it lit?"
_texts = st.text(max_size=30)
_actions = st.one_of(
    st.builds(
        lambda queries: Action(tool="web_search", arguments={"queries": queries}),
        st.lists(_texts, min_size=1, max_size=3),
    ),
    st.builds(
        lambda sources, urls: Action(tool="crawl", arguments={"sources": sources, "urls": urls}),
        st.lists(st.integers(1, 9), min_size=1, max_size=2),
        st.lists(_texts, max_size=2),
    ),
    st.builds(
        lambda source, question: Action(
            tool="document_qa", arguments={"source": source, "question": question}
        ),
        st.integers(1, 9),
        _texts,
    ),
    st.sampled_from([READ_ANSWER, Action(tool="finish", arguments={"answer": "1871", "sources": [1]})]),
)


@st.composite
def _rounds(draw: st.DrawFn) -> list[list[AnyMessage]]:
    """The messages of each round as the state gets them: a step, then the results of all its calls."""
    rounds: list[list[AnyMessage]] = [[HumanMessage(draw(_texts) + "?", id="seeker-1-task")]]
    for turn in range(draw(st.integers(0, 5))):
        actions = tuple(draw(st.lists(_actions, min_size=1, max_size=3)))
        raw = draw(st.none() | _texts.filter(bool))
        step = step_message(
            Step(thought=draw(_texts), actions=actions), message_id=f"seeker-1-{turn}", raw=raw
        )
        results = [
            ToolMessage(
                draw(_texts | st.just(_PROMPTS.next_step.format(question=_QUESTION))),
                tool_call_id=str(call["id"]),
                name=call["name"],
            )
            for call in step.tool_calls
        ]
        rounds += [[step], list(results)]
    return rounds


def _write(messages: list[AnyMessage], mode: Mode) -> list[BaseMessage]:
    return write_transcript(messages, mode=mode, prompts=_PROMPTS, question=_QUESTION)


def _wire(messages: list[BaseMessage]) -> list[Any]:
    wire = convert_to_openai_messages(messages)
    assert isinstance(wire, list)
    return wire


@pytest.mark.parametrize("mode", ["native", "json"])
@given(rounds=_rounds())
def test_a_longer_transcript_extends_a_shorter_one(mode: Mode, rounds: list[list[AnyMessage]]) -> None:
    # Think is called after a round's results, Progress after the step: every think prompt extends each earlier one,
    # and a progress prompt extends the think prompt of its step.
    messages: list[AnyMessage] = []
    thinks: list[list[Any]] = []
    for part in rounds:
        messages = [*messages, *part]
        wire = _wire(_write(messages, mode))
        for earlier in thinks:
            assert wire[: len(earlier)] == earlier
        if not isinstance(part[-1], AIMessage):
            thinks.append(wire)
    assert len(thinks) == len(rounds) // 2 + 1


@pytest.mark.parametrize("mode", ["native", "json"])
@given(rounds=_rounds())
def test_writing_changes_nothing_and_repeats_itself(mode: Mode, rounds: list[list[AnyMessage]]) -> None:
    messages = [message for part in rounds for message in part]
    before = [message.model_dump_json() for message in messages]
    assert _write(messages, mode) == _write(messages, mode)
    assert [message.model_dump_json() for message in messages] == before


@given(rounds=_rounds(), cut=st.integers(0, 12))
def test_no_call_is_open_on_the_wire(rounds: list[list[AnyMessage]], cut: int) -> None:
    messages = [message for part in rounds for message in part][: cut + 1]
    wire = _wire(_write(messages, "native"))
    for position, message in enumerate(wire):
        calls = [call["id"] for call in message.get("tool_calls", ())]
        following = [m.get("tool_call_id") for m in wire[position + 1 : position + 1 + len(calls)]]
        assert sorted(following, key=str) == sorted(calls), (
            "results follow their calls at once, each exactly once"
        )


@pytest.mark.parametrize("mode", ["native", "json"])
@given(rounds=_rounds())
def test_raw_stays_in_the_state(mode: Mode, rounds: list[list[AnyMessage]]) -> None:
    for message in _write([message for part in rounds for message in part], mode):
        assert RAW not in message.additional_kwargs
        assert message.name != "results"


@given(rounds=_rounds())
def test_json_mode_alternates(rounds: list[list[AnyMessage]]) -> None:
    roles = [message.type for message in _write([m for part in rounds for m in part], "json")]
    assert roles[:2] == ["system", "human"]
    assert all(role in ("human", "ai") for role in roles[1:])
    assert all(one != other for one, other in pairwise(roles)), "templates refuse it"


def _round(raw: str | None, *actions: Action, results: tuple[str, ...] = ()) -> list[AnyMessage]:
    step = step_message(Step(thought="t", actions=actions), message_id="seeker-1-0", raw=raw)
    calls = step.tool_calls[: len(results)]
    return [
        HumanMessage("Question: q"),
        step,
        *(ToolMessage(text, tool_call_id=str(call["id"])) for text, call in zip(results, calls, strict=True)),
    ]


_SEARCH = Action(tool="web_search", arguments={"queries": ["a", "b"]})
_READ = Action(tool="crawl", arguments={"sources": [2], "urls": []})


def test_what_the_model_wrote_is_replayed_to_the_letter() -> None:
    raw = '{"thought":"t" ,  "action":"search","query":"a"}'
    assert _write(_round(raw, _SEARCH), "json")[-1].content == raw
    native = _write(_round(raw, _SEARCH), "native")
    assert isinstance(native[2], AIMessage)
    assert native[2].content == "t"
    assert native[2].tool_calls[0]["args"] == {"queries": ["a", "b"]}


def test_open_calls_get_a_placeholder_each_until_the_result_is_there() -> None:
    messages = _write(_round(None, _SEARCH, _READ), "native")
    assert [message.content for message in messages[3:]] == ["(pending)", "(pending)"]
    done = _write(_round(None, _SEARCH, _READ, results=("one", "two")), "native")
    assert [message.content for message in done[3:]] == ["one", "two"]


def test_the_results_of_a_round_become_one_message() -> None:
    messages = _write(_round(None, _SEARCH, _READ, results=("one", "two")), "json")
    assert len(messages) == 4
    assert messages[-1].content == f"one\ntwo\n{_PROMPTS.next_step.format(question=_QUESTION)}"


@pytest.mark.parametrize(
    ("action", "written"),
    [
        (_SEARCH, {"action": "search", "query": "a; b"}),
        (_READ, {"action": "read", "source": 2}),
        (
            Action(tool="crawl", arguments={"sources": [], "urls": ["http://a.example"]}),
            {"action": "read", "url": "http://a.example"},
        ),
        (
            Action(tool="document_qa", arguments={"source": 1, "question": "为什么？"}),
            {"action": "ask", "source": 1, "question": "为什么？"},
        ),
        (READ_ANSWER, {"action": "answer"}),
    ],
)
def test_a_native_step_as_json(action: Action, written: dict[str, object]) -> None:
    text = str(_write(_round(None, action), "json")[-1].content)
    assert json.loads(text) == {"thought": "t", **written}
    assert "\\u" not in text
    assert parse_step(text).actions[0].tool == action.tool, (
        "the model sees the protocol that it is asked to write"
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_system_prompt_fits_mode_and_language(language: Literal["en", "zh"]) -> None:
    prompts = PROMPTS[language]
    for mode, text in (("native", prompts.seeker_native), ("json", prompts.seeker_json)):
        written = write_transcript([HumanMessage("q")], mode=mode, prompts=prompts, question="q")  # type: ignore[arg-type]
        assert written[0].type == "system"
        assert written[0].content == text


def test_ids_of_a_step() -> None:
    step = step_message(Step(thought="t", actions=(_SEARCH, _READ)), message_id="seeker-2-4", raw=None)
    assert step.id == "seeker-2-4"
    assert [call["id"] for call in step.tool_calls] == ["seeker-2-4-0", "seeker-2-4-1"]
    assert RAW not in step.additional_kwargs


def test_the_reading_of_an_answer_is_shown_as_a_finish_without_one() -> None:
    message = step_message(Step(thought="t", actions=(READ_ANSWER,)), message_id="seeker-1-0", raw=None)
    (call,) = message.tool_calls
    assert (call["name"], call["args"]) == ("finish", {"answer": "", "sources": []}), "models know no other"
