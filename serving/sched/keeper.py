"""Keeps the contexts of idle sessions in the cache while that pays, and gives up those that nobody will use again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentinfer_lg.serving.sched.cache import BlockCache, CachedContext
from agentinfer_lg.serving.sched.retention import (
    GapModel,
    IdleContext,
    RetentionSettings,
    keep_seconds,
    worth,
)
from agentinfer_lg.serving.sched.sessions import Session, SessionTable

__all__ = ("Keeper", "KeeperCounts")


@dataclass(slots=True)
class KeeperCounts:
    """What was done to cached blocks since the start."""

    refreshes: int = 0
    """Contexts moved out of the way of eviction."""
    demotions: int = 0
    """Contexts given up."""


@dataclass(slots=True)
class _Kept:
    worth: float
    blocks: int
    session: Session


class Keeper:
    """Decides which idle contexts are kept, and sees to it that others are evicted before them."""

    _SECONDS = 0.25
    """Time between two valuations of all sessions."""

    def __init__(
        self,
        cache: BlockCache,
        sessions: SessionTable,
        gaps: GapModel,
        settings: RetentionSettings,
        *,
        reserve_share: float,
    ) -> None:
        self._cache = cache
        self._sessions = sessions
        self._gaps = gaps
        self._settings = settings
        self._reserve_share = reserve_share
        self._kept: list[_Kept] = []
        self._valued = -1.0
        self.counts = KeeperCounts()
        """What was done."""
        self.kept_blocks = 0
        """Blocks of the idle contexts that are worth keeping at present."""

    def changed(self) -> None:
        """Note that a session came, went or ended: the next valuation is due at once."""
        self._valued = -1.0

    def value_all(self, *, price: float, now: float) -> None:
        """Decide anew which idle contexts are worth keeping, if that is due.

        Args:
            price: Shadow price of a block as a share of the largest.
            now: Monotonic time in seconds.
        """
        if 0.0 <= now - self._valued < self._SECONDS:
            return
        self._valued = now
        found = [kept for session in self._sessions if session.idle and (kept := self._value(session, price, now))]
        found.sort(key=lambda kept: -kept.worth)
        room = int(self._cache.total * (1.0 - self._reserve_share))
        self._kept, self.kept_blocks = [], 0
        for kept in found:
            if self.kept_blocks + kept.blocks <= room:
                self._kept.append(kept)
                self.kept_blocks += kept.blocks

    def _value(self, session: Session, price: float, now: float) -> _Kept | None:
        blocks = session.context.shrink()
        tokens = blocks * self._cache.block_size
        remaining = self._gaps.remaining(session.kind, elapsed=now - session.ended, hint=session.hint)
        if not blocks or remaining > keep_seconds(tokens, price=price, settings=self._settings):
            return None
        value = worth(IdleContext(tokens=tokens, remaining_seconds=remaining), self._settings)
        return _Kept(value, blocks, session)

    def protect(self, blocks: int) -> None:
        """Before `blocks` blocks are allocated: move kept contexts out of the way, as far as there are others to take.

        Args:
            blocks: Blocks that may be taken from the front of the list of free ones.
        """
        if not self._kept or blocks <= 0:
            return
        kept = {kept.session for kept in self._kept}
        doomed: set[Session] = set()
        for block in self._cache.front(blocks):
            doomed.update(session for session in self._sessions.owners(block) if session in kept)
        if not doomed:
            return
        spare = self._cache.free - self.kept_blocks
        for candidate in reversed(self._kept):  # the least worthy are given up first, where the spare does not do
            if spare >= blocks:
                break
            spare += candidate.blocks
            doomed.discard(candidate.session)
        for candidate in reversed(self._kept):
            if candidate.session in doomed:
                self._cache.refresh(candidate.session.context)
                self.counts.refreshes += 1

    def give_up(self, context: CachedContext) -> None:
        """Let a context that nobody will use again be evicted first, except for what other sessions share with it."""
        if not len(context):
            return
        alone = [
            (block, held)
            for block, held in zip(context.blocks, context.hashes, strict=True)
            if not self._sessions.owners(block)
        ]
        if self._cache.demote([block for block, _ in alone], [held for _, held in alone]):
            self.counts.demotions += 1

    def kept_sessions(self) -> Sequence[Session]:
        """Return the idle sessions worth keeping at present, the most worthy first."""
        return [kept.session for kept in self._kept]
