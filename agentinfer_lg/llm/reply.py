"""What a model answered, as the agent uses it, and the ways in which a call can fail."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.endpoint_model import UNREADABLE
from agentinfer_lg.llm.request import THOUGHTS, ModelRequest, message_text
from agentinfer_lg.llm.shorten import prompt_tokens
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.text import well_formed

_MAX_CHARS_PER_TOKEN: Final = 20


class ContextOverflowError(EndpointError):
    """The prompt does not fit into the context window of the model."""


class RefusedRequestError(EndpointError):
    """The server is there and does not take this request: a field that it does not know, a feature that is off."""


class OutOfTimeError(EndpointError):
    """The seconds that the caller allowed are over; the endpoint may be fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call, as the server counted them (estimated where it does not)."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    thought_tokens: int = 0
    """Part of the output that is thoughts; estimated where the server does not count it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call as the server parsed it."""

    name: str
    arguments: dict[str, Any]  # Any: JSON values, validated where the tool is run


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answer of a model; empty text and no calls when the output could not be read."""

    text: str = ""
    """What may be seen: no thoughts, no markers of thoughts."""
    thoughts: str = ""
    """What the model thought, for servers that want it back; shown to nobody."""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    started: float = 0.0
    """Unix time in seconds at which it was asked for."""
    seconds: float = 0.0
    model: str = ""
    unreadable: str = ""
    """Why the answer of the server could not be read, empty when it could."""
    cut: bool = False
    """Whether it ends in its middle, after all that was tried."""
    retries: int = 0
    """Answers before this one that were cut."""
    retry_tokens: int = 0
    """Tokens of prompts and outputs of those answers."""
    counts_cached: bool = False
    """Whether the server tells how much of a prompt it had cached."""


def read_reply(answer: AIMessage, request: ModelRequest, *, seconds: float, model: str) -> Reply:
    """Return what a chat model answered.

    Args:
        answer: Its message, thoughts apart.
        request: What it was asked.
        seconds: That it took.
        model: Its name.
    """
    metadata = answer.response_metadata
    # A server that ignores max_tokens must not flood the transcript.
    text = well_formed(message_text(answer)[: request.max_tokens * _MAX_CHARS_PER_TOKEN]).strip()
    thoughts = str(answer.additional_kwargs.get(THOUGHTS) or "")
    calls = tuple(
        ToolCall(name=call["name"], arguments=dict(call["args"]))
        for call in answer.tool_calls
        if isinstance(call.get("args"), dict)
    )
    usage = _usage(answer, request.messages, text, thoughts)
    broken = bool(metadata.get("broken_calls"))
    cut = _is_cut(metadata, usage, request.max_tokens, has_answer=bool(text or calls))
    # Calls before the one that was cut are whole, but the step that they belong to is not.
    calls, cut = (() if cut and broken else calls), cut and (broken or not calls)
    return Reply(
        text=text,
        thoughts=thoughts,
        tool_calls=calls,
        usage=usage,
        started=time.time() - seconds,
        seconds=seconds,
        model=model,
        unreadable="" if text or calls else why_empty(metadata, thoughts=bool(thoughts), cut=cut),
        cut=cut,
        counts_cached=bool(metadata.get("counts_cached")),
    )


def _is_cut(metadata: Mapping[str, Any], usage: Usage, limit: int, *, has_answer: bool) -> bool:
    """Whether an answer ends because it used up its tokens."""
    if metadata.get("cut"):
        return True
    return not metadata.get("finish_reason") and usage.output_tokens >= limit and not has_answer


def why_empty(metadata: Mapping[str, Any], *, thoughts: bool, cut: bool) -> str:
    """Return why there is nothing to read in an answer.

    Args:
        metadata: Of the answer's message.
        thoughts: Whether it has thoughts.
        cut: Whether it was cut.
    """
    if reason := metadata.get(UNREADABLE):
        return str(reason)
    if metadata.get("broken_calls"):
        return "the tool call cannot be read" + (", for it was cut off" if cut else "")
    if str(metadata.get("finish_reason")) == "content_filter":
        return "the server's content filter left nothing of the answer"
    if thoughts:
        return (
            "the model used all its tokens for thinking" if cut else "the answer holds nothing but thoughts"
        )
    return "the answer was cut off before it began" if cut else "the answer is empty"


def _usage(answer: AIMessage, messages: Sequence[BaseMessage], text: str, thoughts: str) -> Usage:
    metadata = answer.usage_metadata
    thought_estimate = estimate_tokens(thoughts)
    if metadata is None:
        return Usage(
            prompt_tokens=prompt_tokens(messages),
            output_tokens=estimate_tokens(text) + thought_estimate,
            thought_tokens=thought_estimate,
        )
    counted = (metadata.get("output_token_details") or {}).get("reasoning")
    output = metadata["output_tokens"]
    return Usage(
        prompt_tokens=metadata["input_tokens"],
        cached_tokens=(metadata.get("input_token_details") or {}).get("cache_read") or 0,
        output_tokens=output,
        thought_tokens=counted if counted else _share(output, thought_estimate, estimate_tokens(text)),
    )


def _share(output: int, thoughts: int, text: int) -> int:
    """Return the part of `output` that goes to thoughts, by the estimates of both."""
    return round(output * thoughts / (thoughts + text)) if thoughts else 0
