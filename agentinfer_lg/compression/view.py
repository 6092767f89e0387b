"""What the model sees of a transcript after a compaction.

The state keeps every message as it was: forks, time travel and recall need nothing else. What changes at a compaction is only
how the transcript is written: results that were distilled become stubs, and the notes stand where the last of them
stood. Everything else stays word for word, so until the next compaction each prompt extends the one before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from typing_extensions import TypedDict

from agentinfer_lg.llm.tokens import estimate_tokens

STUB: Final = "agentinfer_stub"
"""Key that marks a message as a stub; it does not reach the wire."""
_SHORT = 24
"""Tokens up to which a result stays as it is: a stub would hardly be shorter."""
_NUMBER = re.compile(r"^\[(\d{1,4})\] ", re.MULTILINE)


class Compaction(TypedDict):
    """What took the place of old results. Saved runs hold it."""

    ticket: str
    """The job that made the notes."""
    upto: str
    """Id of the last message that the notes stand for."""
    folded: str
    """Id of the last message that is left out with its thoughts; empty: none is."""
    text: str
    """The notes."""
    turn: int
    """First turn that saw them."""
    tokens_before: int
    tokens_after: int


@dataclass(frozen=True, slots=True)
class Round:
    """One step of the agent and the results that it got."""

    step: AIMessage
    results: tuple[ToolMessage, ...]

    @property
    def last_id(self) -> str:
        """Id of its last message."""
        return str((self.results[-1] if self.results else self.step).id)


def split_rounds(messages: Sequence[AnyMessage]) -> list[Round]:
    """Return the rounds of a transcript in order; messages of other kinds belong to none."""
    found: list[tuple[AIMessage, list[ToolMessage]]] = []
    for message in messages:
        if isinstance(message, AIMessage):
            found.append((message, []))
        elif isinstance(message, ToolMessage) and found:
            found[-1][1].append(message)
    return [Round(step, tuple(results)) for step, results in found]


def compressed_view(
    messages: Sequence[AnyMessage],
    compaction: Compaction | None,
    *,
    stub: Callable[[list[int]], str],
    reasoning: bool = True,
    numbers: Callable[[ToolMessage], list[int]] | None = None,
) -> list[AnyMessage]:
    """Return `messages` with the compaction applied; they themselves are not changed.

    Args:
        messages: The whole transcript.
        compaction: None, or one whose last message is gone, changes nothing.
        stub: Writes what stands for a distilled result, given the numbers in it.
        reasoning: Keep the agent's steps word for word; False leaves them out up to the notes (an ablation).
        numbers: Tells the numbers of the results in a tool message; None reads them from the beginnings of its lines.
    """
    positions = {message.id: position for position, message in enumerate(messages)}
    if compaction is None or compaction["upto"] not in positions:
        return list(messages)
    upto, folded = positions[compaction["upto"]], positions.get(compaction["folded"], -1)
    if folded >= upto:  # never so unless the state was edited: the notes must not go with the steps
        folded = -1
    start = next((i for i, message in enumerate(messages) if isinstance(message, AIMessage)), 0)
    if not reasoning:
        notes = HumanMessage(compaction["text"], id=f"notes-{compaction['ticket']}")
        return [*messages[:start], notes, *messages[upto + 1 :]]
    view: list[AnyMessage] = []
    for position, message in enumerate(messages):
        if start <= position <= folded:
            continue
        if position == upto:
            message = message.model_copy(update={"content": compaction["text"]})
        elif position < upto and isinstance(message, ToolMessage):
            message = _shortened(message, stub, numbers or _numbers)
        view.append(message)
    return view


def _numbers(message: ToolMessage) -> list[int]:
    return [int(number) for number in _NUMBER.findall(str(message.content))]


def _shortened(
    message: ToolMessage, stub: Callable[[list[int]], str], numbers: Callable[[ToolMessage], list[int]]
) -> ToolMessage:
    content = str(message.content)
    if estimate_tokens(content) <= _SHORT:
        return message
    content = stub(list(dict.fromkeys(numbers(message))))
    return message.model_copy(update={"content": content, "additional_kwargs": {STUB: True}})


def message_tokens(messages: Sequence[AnyMessage]) -> int:
    """Estimate the tokens of messages, with their tool calls and what a chat template adds."""
    return sum(
        estimate_tokens(str(message.content))
        + 8
        + sum(estimate_tokens(str(call["args"])) + 8 for call in getattr(message, "tool_calls", ()))
        for message in messages
    )


def latest_tokens(messages: Sequence[AnyMessage]) -> int:
    """Estimate the tokens of what came after the agent's last step."""
    latest = list(takewhile(lambda message: not isinstance(message, AIMessage), reversed(messages)))
    return message_tokens(latest)
