"""What a model at an endpoint can do and how it must be asked: learned, and remembered in one place.

The first request assumes a server that does everything OpenAI's does. What the server refuses, and what its answers show, is
written down here, so that no later request pays for it again. `agentinfer doctor` and the agent read the same record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

GuideForm = Literal["regex", "json_schema", "object_schema", "json_object", "none"]
"""How the form of an output can be prescribed; `object_schema` is llama.cpp's: a JSON object with a schema beside it."""
SystemForm = Literal["system", "developer", "folded"]
"""Role of the instructions; folded: they begin the first message of the user."""
ToolResultForm = Literal["tool", "text"]
"""Tool calls and results with their own roles, or as plain text."""
EmptyContent = Literal["null", "empty", "space"]
"""Content of a message that has only tool calls."""
QuietForm = Literal["template", "effort", "switch", "none"]
"""How a model is asked not to think: by the arguments of its chat template, `reasoning_effort`, or `/no_think`."""
ThoughtPlace = Literal["", "hidden", "field", "inline", "unopened"]
"""Where thoughts arrive: nowhere, only in the usage, in a field, in the text, or in the text without an opening marker."""

_ROOM_FACTOR = 2
_LEAST_ROOM = 1024
_PLAIN_ANSWERS = 3
"""Whole answers without a thought that show a model which does not think."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What is known of one model at one endpoint."""

    window: int | None = None
    """Tokens of prompt and output together."""
    most_output: int | None = None
    """Most output tokens that the server lets a request ask for."""
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Parameter that limits the output."""
    refused: frozenset[str] = frozenset()
    """Parameters that are not sent any more."""
    guide: GuideForm = "json_schema"
    """Strictest form of guided output that works."""
    system: SystemForm = "system"
    alternating: bool = False
    """Whether the roles of user and assistant must alternate."""
    short_ids: bool = False
    """Whether ids of tool calls must be nine letters and digits."""
    tool_results: ToolResultForm = "tool"
    empty_content: EmptyContent = "null"
    streams_only: bool = False
    """Whether the server answers only as a stream."""
    wants_thoughts: bool = False
    """Whether messages with tool calls must give back the thoughts that led to them."""
    thought_place: ThoughtPlace = ""
    thought_tokens: int = 0
    """Most tokens of thoughts seen in one answer."""
    quiet: QuietForm = "template"
    """How to ask for no thinking; the forms before it did not work."""
    plain_answers: int = 0
    """Whole answers in which no thought was seen; counted while the model might think."""
    called_tools: bool = False
    """Whether a native tool call has been seen."""

    @property
    def thinks(self) -> bool:
        """Whether the model was seen thinking."""
        return self.thought_tokens > 0

    @property
    def never_thinks(self) -> bool:
        """Whether enough whole answers came without a thought."""
        return not self.thinks and self.plain_answers >= _PLAIN_ANSWERS

    @property
    def thinking_room(self) -> int:
        """Tokens to allow for thoughts, on top of what is to be visible."""
        return max(_LEAST_ROOM, _ROOM_FACTOR * self.thought_tokens) if self.thinks else 0

    @property
    def form(self) -> Capabilities:
        """The part that decides how a request is written."""
        return replace(
            self,
            window=None,
            thought_place="",
            thought_tokens=int(self.thinks),
            called_tools=False,
            plain_answers=0,
        )

    def sends(self, parameter: str) -> bool:
        """Whether `parameter` may be sent."""
        return parameter not in self.refused


Change = Callable[[Capabilities], Capabilities]
"""Something that was learned."""


@dataclass(slots=True)
class Known:
    """The record of one model at one endpoint; calls that run at the same time share it."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    lessons: dict[str, str] = field(default_factory=dict)
    """What was learned by refusals: a name, and a sentence for people."""

    def learn(self, change: Change, *, name: str = "", sentence: str = "") -> None:
        """Apply a change.

        Args:
            change: What is known now.
            name: Of the lesson, if people are to hear of it.
            sentence: What they hear.
        """
        self.capabilities = change(self.capabilities)
        if name:
            self.lessons.setdefault(name, sentence)

    def saw_thoughts(self, tokens: int, place: ThoughtPlace) -> None:
        """Remember thoughts of an answer."""
        most = max(tokens, self.capabilities.thought_tokens)
        self.capabilities = replace(self.capabilities, thought_tokens=most, thought_place=place)
