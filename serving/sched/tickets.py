"""What the scheduler remembers of a request from its arrival to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.sessions import Session

__all__ = ("Ticket",)


@dataclass(slots=True, eq=False)
class Ticket:
    """A request and what is known about it. Lengths in blocks, times in seconds."""

    request: Any
    hints: SessionHints
    session: Session | None
    arrival: float
    hit: int = 0
    """Blocks of its prompt that are cached."""
    need: int = 0
    """New blocks that it needs."""
    total: int = 0
    """Blocks of its prompt."""
    score: float = 0.0
    forced: bool = False
    """It comes first, because it has waited long enough or has been preempted."""
