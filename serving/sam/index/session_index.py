"""What finds finished sessions that resemble a session.

An index holds the sessions of one tenant under integer keys. The calls take from microseconds to, for an endpoint, its
timeout, so they belong off the decode path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agentinfer_lg.serving.sam.types import IntArray


@dataclass(frozen=True, slots=True)
class Similar:
    """A session that resembles the query."""

    key: int
    similarity: float
    """From 0 to 1."""


class SessionIndex(Protocol):
    """Finds similar sessions of one tenant; may be called from any thread."""

    def add(self, key: int, tokens: IntArray) -> None:
        """Add a session, or replace the one with this key."""
        ...

    def remove(self, key: int) -> None:
        """Remove a session; nothing happens if the key is unknown."""
        ...

    def similar(self, tokens: IntArray, *, k: int) -> list[Similar]:
        """Return at most `k` sessions that have something in common with `tokens`, the most similar first."""
        ...
