"""The histories of all tenants, within one limit; a tenant's text is never in another's history."""

from __future__ import annotations

import time
from collections.abc import Iterator

from agentinfer_lg.serving.sam.index.history import Generations, History, StepLock
from agentinfer_lg.serving.sam.types import IntArray

_PIECE = 4096
_OVERLAP = 64


class Histories:
    """What went before, by tenant. Written by the background thread alone."""

    def __init__(self, *, tokens: int, lock: StepLock) -> None:
        """Begin with nothing.

        Args:
            tokens: Most tokens of all tenants together.
            lock: Held by the decode path while it reads automata.
        """
        self._limit, self._lock = tokens, lock
        self._histories: dict[str, History] = {}
        self.build_seconds = 0.0
        """Time spent on adding text."""
        self.built_tokens = 0
        """Tokens added."""

    @property
    def tokens(self) -> int:
        """Tokens held; may be asked from any thread."""
        return sum(history.tokens for history in tuple(self._histories.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of all automata; may be asked from any thread."""
        return sum(history.nbytes for history in tuple(self._histories.values()))

    def of(self, tenant: str) -> History:
        """Return the history of a tenant, and note that it is used."""
        history = self._histories.get(tenant)
        if history is None:
            history = self._histories[tenant] = History(tokens=self._limit, lock=self._lock)
        history.used = time.monotonic()
        return history

    def add(self, generations: Generations, text: IntArray) -> None:
        """Add a text at once."""
        began = time.perf_counter()
        generations.add(text)
        self.build_seconds += time.perf_counter() - began
        self.built_tokens += len(text)

    def add_slowly(self, generations: Generations, text: IntArray) -> Iterator[None]:
        """Add a long text in pieces, between which requests can begin; pieces overlap, so that no match is cut."""
        for begin in range(0, len(text), _PIECE):
            self.add(generations, text[max(0, begin - _OVERLAP) : begin + _PIECE])
            yield
        self._bound()

    def _bound(self) -> None:
        """Keep all tenants together within the limit: the one that was away longest forgets first."""
        while len(self._histories) > 1 and self.tokens > self._limit:
            tenant, oldest = min(self._histories.items(), key=lambda item: item[1].used)
            oldest.drop_oldest()
            if not oldest.tokens:
                del self._histories[tenant]
