"""The session-hint contract: what the agent tells the engine about each request.

Hints travel as flat scalars in the request field `vllm_xargs`, which vLLM hands to the scheduler and to the proposer.
They are sent only to servers that understand them (`EndpointSettings.hints`), because others may reject the field. An
engine that finds no hints falls back to what it can see; one that finds a hint of the wrong type or size ignores and
counts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

AgentRole = Literal["plan", "think", "progress", "distill", "filter", "qa", "write", "prewarm"]
"""What a request is for."""

MAX_TEXT = 1024
"""Most characters of a hint that is a text."""
MAX_NUMBER = 1_000_000_000
"""A hint that is a number is below it."""

_WIRE_NAMES = {
    "session_id": "session_id",
    "turn": "agent_turn",
    "role": "agent_role",
    "tool_seconds": "agent_tool_seconds",
    "output_tokens": "agent_output_tokens",
    "final": "agent_final",
    "supersedes": "agent_supersedes",
    "tenant": "agent_tenant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHints:
    """Hints of one request."""

    session_id: str = ""
    """Identity of the growing context; requests of one session extend each other's prompt."""
    turn: int = 0
    """Round of the agent, from 0."""
    role: AgentRole = "think"
    """What the request is for."""
    tool_seconds: float | None = None
    """Expected gap, in seconds, before this session's next request."""
    output_tokens: int | None = None
    """Expected number of generated tokens."""
    final: bool = False
    """Nothing will extend this prompt: its blocks may be released at once."""
    supersedes: bool = False
    """This prompt replaces the session's previous context beyond their common prefix."""
    tenant: str = ""
    """Namespace of the user; memory never crosses it."""

    def to_xargs(self) -> dict[str, str | int | float]:
        """Return the flat scalars to send as `vllm_xargs`; unset hints are left out."""
        xargs: dict[str, str | int | float] = {"agent_turn": self.turn, "agent_role": self.role}
        if self.session_id:
            xargs["session_id"] = self.session_id
        if self.tool_seconds is not None:
            xargs["agent_tool_seconds"] = round(float(self.tool_seconds), 3)
        if self.output_tokens is not None:
            xargs["agent_output_tokens"] = self.output_tokens
        xargs["agent_final"] = int(self.final)
        xargs["agent_supersedes"] = int(self.supersedes)
        if self.tenant:
            xargs["agent_tenant"] = self.tenant
        return xargs


@dataclass(frozen=True, slots=True)
class ParsedHints:
    """Result of `parse_hints`."""

    hints: SessionHints
    rejected: tuple[str, ...]
    """Wire names whose value had the wrong type or was out of range, and was ignored."""


def parse_hints(xargs: Mapping[str, object] | None) -> ParsedHints:
    """Read hints from the `vllm_xargs` of a request; never raises.

    Args:
        xargs: Extra arguments as the engine received them; other keys are left alone.
    """
    values: dict[str, object] = {}
    rejected: list[str] = []
    for field in fields(SessionHints):
        wire = _WIRE_NAMES[field.name]
        if xargs is None or wire not in xargs:
            continue
        value = _read(field.name, xargs[wire])
        if value is None:
            rejected.append(wire)
        else:
            values[field.name] = value
    return ParsedHints(SessionHints(**values), tuple(rejected))  # type: ignore[arg-type]  # checked by _read


def _read(name: str, value: object) -> object | None:
    """Return `value` as the field `name` wants it, or None if it cannot be."""
    match name:
        case "session_id" | "tenant":
            return value if isinstance(value, str) and len(value) <= MAX_TEXT else None
        case "role":
            return value if value in get_args(AgentRole) else None
        case "turn" | "output_tokens":
            return value if _is_int(value) and 0 <= value < MAX_NUMBER else None  # type: ignore[operator]
        case "tool_seconds":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return float(value) if number and 0 <= value < MAX_NUMBER else None  # type: ignore[arg-type, operator]
        case _:  # final, supersedes; vLLM turns a JSON bool into 0 or 1
            return bool(value) if isinstance(value, int) and value in (0, 1) else None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
