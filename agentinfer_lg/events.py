"""Progress events: what a run streams (`stream_mode="custom"`) while it goes on.

Each event is one flat JSON object with `event` (its kind) and `agent` (`planner`, `seeker-1`, ..., `writer`), so that
parallel sub-agents can be told apart. Consumers ignore kinds and keys that they do not know.
"""

from __future__ import annotations

from typing import Literal

from langgraph.config import get_stream_writer
from typing_extensions import TypedDict

from agentinfer_lg.settings import Tier

EventKind = Literal[
    "plan",
    "model_start",
    "model_end",
    "tool_start",
    "tool_end",
    "filter",
    "recall",
    "distill_start",
    "distill_end",
    "swap",
    "progress",
    "escalation",
    "deescalation",
    "finding",
    "budget",
    "warning",
    "wait",
    "note",
    "report",
]


class Event(TypedDict, total=False):
    """One event; which keys are there depends on the kind."""

    event: EventKind
    agent: str
    turn: int
    tier: Tier
    role: str
    text: str
    """Thought, verdict reason, finding, sentence of a warning or note, or report."""
    tool: str
    arguments: dict[str, object]
    results: int
    ok: bool
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    thought_tokens: int
    """Part of the output tokens that is thoughts; missing where there are none."""
    seconds: float
    verdict: str
    stall: str
    cause: str
    ticket: str
    """Of a distillation; of a recall the number of the result."""
    tokens_before: int
    tokens_after: int
    removed: int
    """Lines that a check took out, or results that the filter pruned."""
    lag: int
    """Turns from the start of a distillation to its compaction."""
    plan: list[str]


def emit(kind: EventKind, agent: str, **values: object) -> None:
    """Stream one event; outside a running graph it is dropped."""
    try:
        writer = get_stream_writer()
    except (RuntimeError, KeyError):  # called by a test or a library user outside a graph
        return
    writer({"event": kind, "agent": agent, **values})
