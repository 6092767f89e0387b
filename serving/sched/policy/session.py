"""A session as the scheduler knows it: one growing context, when it was last used, and when it is expected back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentinfer_lg.serving.sched.policy.cached_context import CachedContext

Key = tuple[str, str]
"""Tenant and session id: the same id of two tenants is two sessions."""
UNNAMED = "\0"
"""Begins the keys of sessions without an id; no id of a client begins so."""
NEXT = "\1"
"""Begins the keys of contexts that were prefilled ahead of time, to take the place of their session's own."""
Hashes = Sequence[Any]
"""Hashes of the full blocks of a prompt, as vLLM computes them."""


@dataclass(slots=True, eq=False)
class Session:
    """One growing context."""

    key: Key
    live: int = 0
    """Its requests that have not ended."""
    calls: int = 0
    """Its requests so far."""
    tokens: int = 0
    """Length of its context, cached or not."""
    context: CachedContext = field(default_factory=CachedContext)
    """What its last request left in the cache."""
    tail: Any = None
    """Hash of the last full block of that context; a prompt that contains it goes on from there."""
    tail_index: int = -1
    """Place of that block in the context."""
    kind: str = ""
    """What its last request was for."""
    hint: float | None = None
    """Expected gap, as its agent told it with the last request."""
    ended: float = 0.0
    """When its last request ended."""
    away: bool = False
    """It was away for so long that it counts as not coming back."""
    worthless_until: float = 0.0
    """Its context was not worth keeping, and is not looked at again before then."""
    pinned_until: float = 0.0
    """Its context is pinned by force until then; 0: it is not."""

    @property
    def idle(self) -> bool:
        """Whether it has a context in the cache and no request."""
        return not self.live and len(self.context) > 0

    @property
    def unnamed(self) -> bool:
        """Whether it is known by its prompt only; most of those never come back."""
        return self.key[1].startswith(UNNAMED)

    @property
    def ahead(self) -> bool:
        """Whether it is a context that was prefilled ahead of time for another session."""
        return self.key[1].startswith(NEXT)

    def continues(self, hashes: Hashes) -> bool:
        """Whether a prompt with these block hashes extends the context."""
        return 0 <= self.tail_index < len(hashes) and hashes[self.tail_index] == self.tail
