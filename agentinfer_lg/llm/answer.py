"""What a server answered to a chat completion, read from any of the forms that servers use.

An answer is one JSON object, or a stream of pieces (asked for or not). Every field may be missing, null or of another type
than OpenAI's; nothing here trusts it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentinfer_lg.llm.connection import Received
from agentinfer_lg.text import well_formed

_MOST_CALLS: Final = 20
_CUT: Final = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
_THOUGHT_FIELDS: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
_THOUGHT_PARTS: Final = frozenset({"thinking", "reasoning", "reasoning_content", "redacted_thinking"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCall:
    """A tool call as it arrived."""

    name: str
    arguments: dict[str, Any] | None  # Any: JSON values of a model
    """None: they could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tokens as the server counted them; None where it did not."""

    prompt: int | None = None
    cached: int | None = None
    output: int | None = None
    thoughts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A chat completion."""

    text: str = ""
    """With thoughts that are written in the text."""
    thoughts: str = ""
    """Those that came in a field of their own."""
    calls: tuple[WrittenCall, ...] = ()
    finish: str = ""
    """Why the model stopped: `stop`, `length`, `tool_calls`, `content_filter`, ..., as the server says."""
    counts: Counts = field(default_factory=Counts)
    refusal: str = ""
    """What the model said in place of an answer."""

    @property
    def is_cut(self) -> bool:
        """Whether the server says that the tokens were used up."""
        return self.finish.lower() in _CUT


def read_answer(received: Received) -> Answer | None:
    """Return the completion in an answer; None where there is none."""
    value = received.value
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        value = join_pieces(received.text.splitlines())
    if not isinstance(value, Mapping):
        return None
    choice = _first(value.get("choices"))
    message = choice.get("message")
    if not isinstance(message, Mapping):
        # Ollama's own form has no choices; some proxies pass it on.
        message = value.get("message") if isinstance(value.get("message"), Mapping) else None
    if message is None:
        legacy = choice.get("text")
        message = {"content": legacy} if isinstance(legacy, str) else None
    if message is None:
        return None
    text, inner = read_content(message.get("content"))
    thoughts = next((item for name in _THOUGHT_FIELDS if (item := _text(message.get(name)))), "") or inner
    return Answer(
        text=well_formed(text),
        thoughts=well_formed(thoughts),
        calls=_calls(message),
        finish=str(
            choice.get("finish_reason")
            or choice.get("native_finish_reason")
            or value.get("done_reason")
            or ""
        ),
        counts=_counts(value),
        refusal=_text(message.get("refusal")),
    )


def why_unreadable(received: Received) -> str:
    """Return what is wrong with an answer that holds no completion."""
    value = received.value
    if not received.body.strip():
        return "the server's answer is empty"
    if isinstance(value, Mapping) and "choices" in value and not value["choices"]:
        return "the server's answer has no choices"
    return "the server's answer holds no message" if value is not None else "the server's answer is no JSON"


def join_pieces(lines: Iterable[str]) -> dict[str, Any] | None:
    """Return the completion that a stream of pieces makes up; None where there is no piece.

    Args:
        lines: Of server-sent events, or one JSON object each.
    """
    pieces = [piece for line in lines if (piece := _piece(line)) is not None]
    if not pieces:
        return None
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {}
    calls: dict[object, dict[str, Any]] = {}
    finish = ""
    for piece in pieces:
        for key in ("usage", "model", "error", "done_reason"):
            if piece.get(key):
                whole[key] = piece[key]
        choice = _first(piece.get("choices"))
        if choice.get("error"):
            whole["error"] = choice["error"]
        finish = str(choice.get("finish_reason") or finish)
        delta = choice.get("delta") or choice.get("message") or piece.get("message")
        if isinstance(delta, Mapping):
            _extend(message, calls, delta)
    if "error" in whole:
        return whole  # what came before it is no answer
    if calls:
        message["tool_calls"] = list(calls.values())
    if message:
        whole["choices"] = [{"message": message, "finish_reason": finish}]
    return whole


def _piece(line: str) -> Mapping[str, Any] | None:
    text = line.strip()
    text = text[5:].strip() if text.startswith("data:") else text
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _extend(message: dict[str, Any], calls: dict[object, dict[str, Any]], delta: Mapping[str, Any]) -> None:
    for name in ("content", "refusal", *_THOUGHT_FIELDS):
        piece = delta.get(name)
        if name == "content" and isinstance(piece, list):
            message[name] = [*(message.get(name) or []), *piece]
        elif isinstance(piece, str) and piece:
            before = message.get(name)
            message[name] = [*before, piece] if isinstance(before, list) else (before or "") + piece
    for position, call in enumerate(delta.get("tool_calls") or ()):
        if not isinstance(call, Mapping):
            continue
        index = call.get("index")
        key = index if isinstance(index, int) else call.get("id") or position
        own = calls.setdefault(key, {"function": {"name": "", "arguments": ""}})
        function = _mapping(call.get("function"))
        own["function"]["name"] = own["function"]["name"] or _text(function.get("name"))
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):
            own["function"]["arguments"] = dict(arguments)
        elif isinstance(arguments, str) and isinstance(own["function"]["arguments"], str):
            own["function"]["arguments"] += arguments


def _first(choices: object) -> Mapping[str, Any]:
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}


def read_content(content: object) -> tuple[str, str]:
    """Return the text and the thoughts of a content: a text, or a list of parts."""
    if isinstance(content, str):
        return content, ""
    texts, thoughts = [], []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and part.get("type") in _THOUGHT_PARTS:
            thought = part.get("thinking") or part.get("reasoning") or part.get("summary") or part.get("text")
            thoughts.append(_text(thought))
        elif isinstance(part, Mapping):
            texts.append(_text(part.get("text") or part.get("content")))
    return "".join(texts), "".join(thoughts)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text(item) for item in value)
    if isinstance(value, Mapping):
        return _text(value.get("text") or value.get("content") or value.get("summary"))
    return ""


def _calls(message: Mapping[str, Any]) -> tuple[WrittenCall, ...]:
    written = message.get("tool_calls")
    listed = written if isinstance(written, list) else []
    legacy = message.get("function_call")
    if not listed and isinstance(legacy, Mapping):
        listed = [{"function": legacy}]
    calls = []
    for item in listed[:_MOST_CALLS]:
        function = item.get("function") if isinstance(item, Mapping) else None
        call = function if isinstance(function, Mapping) else item
        if isinstance(call, Mapping) and isinstance(call.get("name"), str) and call["name"]:
            calls.append(WrittenCall(name=call["name"], arguments=_arguments(call.get("arguments"))))
    return tuple(calls)


def _arguments(value: object) -> dict[str, Any] | None:
    for _ in range(3):  # some servers encode them twice
        if isinstance(value, Mapping):
            return dict(value)
        if value is None or value == "":
            return {}
        if not isinstance(value, str):
            return None
        try:
            value = json.loads(value, strict=False)
        except (ValueError, RecursionError):
            return None
    return None


def _counts(value: Mapping[str, Any]) -> Counts:
    usage = value.get("usage")
    if not isinstance(usage, Mapping):
        usage = {
            "prompt_tokens": value.get("prompt_eval_count"),
            "completion_tokens": value.get("eval_count"),
        }
    prompt_details = _mapping(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    output_details = _mapping(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    return Counts(
        prompt=_count(usage, "prompt_tokens", "input_tokens"),
        output=_count(usage, "completion_tokens", "output_tokens"),
        cached=_first_count(
            _count(prompt_details, "cached_tokens"),
            _count(usage, "prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens"),
        ),
        thoughts=_first_count(_count(output_details, "reasoning_tokens"), _count(usage, "reasoning_tokens")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
            return int(value)
    return None


def _first_count(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
