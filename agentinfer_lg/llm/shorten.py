"""Make a prompt shorter, where it did not fit: the longest texts give up their middles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from langchain_core.messages import BaseMessage, SystemMessage

from agentinfer_lg.llm.request import message_text
from agentinfer_lg.llm.tokens import estimate_tokens

LEFT_OUT: Final = "\n[A part is left out here: it did not fit.]\n"
_HEAD_SHARE: Final = 0.6
_LEAST_TOKENS: Final = 60


def shorten(messages: Sequence[BaseMessage], *, tokens: int) -> list[BaseMessage]:
    """Return `messages` with an estimate of at most `tokens`, as far as that can be reached.

    Every text may keep the same length, and longer ones are cut to it. Of a cut text the beginning and the end stay, where
    instructions and questions are. Instructions of the system stay whole. Messages that fit are the same objects.

    Args:
        messages: A prompt.
        tokens: Its length afterwards.
    """
    sizes = [estimate_tokens(message_text(message)) for message in messages]
    fixed = sum(
        size for size, message in zip(sizes, messages, strict=True) if isinstance(message, SystemMessage)
    )
    level = _level(
        [
            size
            for size, message in zip(sizes, messages, strict=True)
            if not isinstance(message, SystemMessage)
        ],
        tokens - fixed,
    )
    return [
        message if isinstance(message, SystemMessage) or size <= level else _cut(message, level)
        for size, message in zip(sizes, messages, strict=True)
    ]


def prompt_tokens(messages: Sequence[BaseMessage]) -> int:
    """Return the estimated tokens of a prompt."""
    return sum(estimate_tokens(message_text(message)) for message in messages)


def _level(sizes: Sequence[int], tokens: int) -> int:
    """Return the length to which each text may come, so that together they have at most `tokens`."""
    left, ordered = tokens, sorted(sizes)
    for position, size in enumerate(ordered):
        share = left // (len(ordered) - position)
        if size > share:
            return max(_LEAST_TOKENS, share)
        left -= size
    return max(ordered, default=0)


def _cut(message: BaseMessage, tokens: int) -> BaseMessage:
    text = message_text(message)
    kept = int(len(text) * tokens / max(1, estimate_tokens(text))) - len(LEFT_OUT)
    if kept <= 0 or kept >= len(text):
        return message
    head = int(kept * _HEAD_SHARE)
    return message.model_copy(
        update={"content": f"{text[:head]}{LEFT_OUT}{text[len(text) - (kept - head) :]}"}
    )
