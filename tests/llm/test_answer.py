"""Answers of servers, in all their forms."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.answer import Answer, join_pieces, read_answer
from agentinfer_lg.llm.connection import Received


def _read(body: Any) -> Answer | None:
    text = body if isinstance(body, str) else json.dumps(body)
    return read_answer(Received(status=200, headers={}, body=text.encode()))


def _message(message: Any, **more: Any) -> Answer:
    answer = _read({"choices": [{"message": message, "finish_reason": "stop", **more}]})
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    ("message", "text", "thoughts"),
    [
        ({"content": "a"}, "a", ""),
        ({"content": "a", "reasoning_content": "b"}, "a", "b"),
        ({"content": "a", "reasoning": "b"}, "a", "b"),
        ({"content": "a", "reasoning": "b", "reasoning_content": "b"}, "a", "b"),
        ({"content": None, "reasoning_content": "b"}, "", "b"),
        ({"content": [{"type": "thinking", "thinking": [{"text": "b"}]}, {"type": "text", "text": "a"}]}, "a", "b"),
        ({"content": [{"type": "text", "text": "a"}, "c"]}, "ac", ""),
        ({"content": 7}, "", ""),
    ],
)  # fmt: skip
def test_text_and_thoughts(message: Any, text: str, thoughts: str) -> None:
    answer = _message(message)
    assert (answer.text, answer.thoughts) == (text, thoughts)


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"q": "a"}', {"q": "a"}),
        ({"q": "a"}, {"q": "a"}),
        (json.dumps('{"q": "a"}'), {"q": "a"}),
        ("", {}),
        (None, {}),
        ('{"q": "a', None),
        ("[1]", None),
        (7, None),
    ],
)
def test_arguments_of_a_tool_call(arguments: Any, read: dict[str, Any] | None) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": arguments}}
    assert [(c.name, c.arguments) for c in _message({"content": "", "tool_calls": [call]}).calls] == [
        ("search", read)
    ]


def test_other_forms_of_calls() -> None:
    assert _message({"function_call": {"name": "f", "arguments": "{}"}}).calls[0].name == "f"
    assert _message({"tool_calls": [{"name": "f", "arguments": {}}]}).calls[0].name == "f"
    for nothing in (None, {}, "x", [None], [{"function": None}], [{"function": {"name": None}}]):
        assert _message({"content": "a", "tool_calls": nothing}).calls == ()


@pytest.mark.parametrize(
    ("usage", "prompt", "cached", "output", "thoughts"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, 5, None, 2, None),
        ({"prompt_tokens": 5.0, "completion_tokens": 2.0}, 5, None, 2, None),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}, 5, 4, 2, None),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_cache_hit_tokens": 3}, 5, 3, 2, None),
        ({"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}, 5, None, 2, 1),
        ({"input_tokens": 5, "output_tokens": 2}, 5, None, 2, None),
        (None, None, None, None, None),
        ({"prompt_tokens": None, "completion_tokens": True}, None, None, None, None),
    ],
)  # fmt: skip
def test_usage(usage: Any, prompt: Any, cached: Any, output: Any, thoughts: Any) -> None:
    answer = _read({"choices": [{"message": {"content": "a"}}], "usage": usage})
    assert answer is not None
    counts = answer.counts
    assert (counts.prompt, counts.cached, counts.output, counts.thoughts) == (
        prompt,
        cached,
        output,
        thoughts,
    )


def _piece(**delta: Any) -> str:
    return "data: " + json.dumps({"choices": [{"delta": delta}]})


def test_a_stream_is_joined_asked_for_or_not() -> None:
    lines = [
        ": ping",
        _piece(role="assistant", content=""),
        _piece(reasoning_content="th"),
        _piece(reasoning_content="ink"),
        _piece(content="Hel"),
        "",
        _piece(content="lo"),
        _piece(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a"'}}]),
        _piece(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
        _piece(tool_calls=[{"index": 1, "id": "2", "function": {"name": "g", "arguments": ""}}]),
        'data: {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}',
        'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}',
        "data: [DONE]",
    ]
    answer = _read("\n".join(lines))
    assert answer is not None
    assert (answer.text, answer.thoughts, answer.finish) == ("Hello", "think", "tool_calls")
    assert [(call.name, call.arguments) for call in answer.calls] == [("f", {"a": 1}), ("g", {})]
    assert (answer.counts.prompt, answer.counts.output) == (3, 4)


def test_lines_of_ollama_are_joined() -> None:
    lines = [
        {"message": {"content": "a"}},
        {"message": {"content": "b"}, "done": True, "done_reason": "stop"},
    ]
    answer = _read("\n".join(map(json.dumps, lines)))
    assert answer is not None
    assert (answer.text, answer.finish) == ("ab", "stop")


def test_an_error_within_a_stream_is_kept() -> None:
    whole = join_pieces(['data: {"error": {"message": "gone", "code": 503}}'])
    assert whole == {"error": {"message": "gone", "code": 503}}


@pytest.mark.parametrize(
    "body", ["", "nonsense", "{}", "[]", "null", '{"choices": []}', '{"choices": [null]}']
)
def test_nothing_to_read(body: str) -> None:
    assert _read(body) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "usage",
                    "delta",
                    "text",
                    "type",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(_JSON)
def test_nothing_breaks_the_reading(value: Any) -> None:
    _read(value)
    join_pieces([json.dumps(value), f"data: {json.dumps(value)}"])
