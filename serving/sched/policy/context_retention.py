"""Which context is evicted: those of idle sessions stay while that pays, and those that nobody will use again go first."""

from __future__ import annotations

from collections.abc import Mapping

from agentinfer_lg.serving.sched.policy.cached_context import Block, CachedContext, PrefixCache
from agentinfer_lg.serving.sched.policy.kept_contexts import Kept, KeptContexts
from agentinfer_lg.serving.sched.policy.pinned_contexts import PinnedContexts
from agentinfer_lg.serving.sched.policy.retention import (
    GapModel,
    IdleContext,
    RetentionSettings,
    keep_seconds,
    worth,
)
from agentinfer_lg.serving.sched.policy.session import Session
from agentinfer_lg.serving.sched.policy.sessions import SessionTable

_NOTHING = object()


class ContextRetention:
    """Decides which idle contexts are kept and which are evicted, and puts the blocks in that order."""

    _SECONDS = 0.25
    """Time between two valuations of all sessions."""
    _SECONDS_EACH = 0.001
    """The same, per session: valuing one takes about 10 us, so that all take 1% of the time at most."""
    _WORTHLESS_SECONDS = 2.0
    """Time between two valuations of a context that was not worth keeping: of thousands of sessions most are gone."""

    def __init__(
        self,
        cache: PrefixCache,
        sessions: SessionTable,
        gaps: GapModel,
        settings: RetentionSettings,
        *,
        reserve_share: float,
        pin_share: float,
    ) -> None:
        """Keep contexts.

        Args:
            cache: Where they are.
            sessions: Whose they are.
            gaps: Tells when a session will be back.
            settings: Settings of retention.
            reserve_share: Share of the cache that is never kept for idle sessions.
            pin_share: Most of the cache that may be pinned by force; 0: nothing is.
        """
        self._cache = cache
        self._sessions = sessions
        self._gaps = gaps
        self._settings = settings
        self.kept = KeptContexts(int(cache.total * (1.0 - reserve_share)))
        """The idle contexts that are worth keeping at present."""
        self.pinned = PinnedContexts(cache, room=int(cache.total * pin_share))
        """Those that are held by force."""
        self._valued = -1.0
        self._seconds = self._SECONDS
        self.refreshes = 0
        """Contexts moved out of the way of eviction."""
        self.demotions = 0
        """Contexts given up."""

    def changed(self, session: Session, *, price: float, now: float) -> None:
        """Value a session that came, went or ended; the others keep their place until all are valued again.

        Args:
            session: The session.
            price: Shadow price of a block as a share of the largest.
            now: Monotonic time in seconds.
        """
        self.kept.discard(session)
        if session.idle and session not in self.pinned:
            added = self._value(session, price, now)
            if added is not None:
                self.kept.add(added)

    def value_all(self, *, price: float, now: float) -> None:
        """Decide anew which idle contexts are worth keeping, if that is due.

        Args:
            price: Shadow price of a block as a share of the largest.
            now: Monotonic time in seconds.
        """
        if 0.0 <= now - self._valued < self._seconds:
            return
        self._valued = now
        self._sessions.expire(now=now)
        self.pinned.unpin_expired(now=now)
        found: list[Kept] = []
        looked = 0
        for session in self._sessions:
            if session.live or now < session.worthless_until or not session.idle or session.pinned_until:
                continue
            looked += 1
            kept = self._value(session, price, now)
            if kept is not None:
                found.append(kept)
            else:
                session.worthless_until = now + self._WORTHLESS_SECONDS
        self._seconds = max(self._SECONDS, looked * self._SECONDS_EACH)
        self.kept.replace(found)

    def _value(self, session: Session, price: float, now: float) -> Kept | None:
        blocks = session.context.shrink()
        tokens = blocks * self._cache.block_size
        remaining = self._remaining(session, now)
        if not blocks or remaining > keep_seconds(tokens, price=price, settings=self._settings):
            return None
        value = worth(IdleContext(tokens=tokens, remaining_seconds=remaining), self._settings)
        return Kept(value, blocks, session)

    def _remaining(self, session: Session, now: float) -> float:
        return self._gaps.remaining(session.kind, elapsed=now - session.ended, hint=session.hint)

    def protect(self, blocks: int) -> None:
        """Before blocks are allocated: move kept contexts out of the way, as far as there are others to take.

        Args:
            blocks: Blocks that may be taken from the front of the list of free ones.
        """
        if not len(self.kept) or blocks <= 0:
            return
        places = {kept.session: place for place, kept in enumerate(self.kept)}
        doomed: set[Session] = set()
        for block in self._cache.front(blocks):
            session = self._keeping(block, places)
            if session is not None:
                doomed.add(session)
        if not doomed:
            return
        spare = self._cache.free - self.kept.blocks
        for candidate in reversed(self.kept):  # where the spare does not do, the least worthy are given up
            if spare >= blocks:
                break
            spare += candidate.blocks
            doomed.discard(candidate.session)
        for candidate in reversed(self.kept):  # the most worthy last: it is then the last to be evicted
            if candidate.session in doomed:
                self._cache.refresh(candidate.session.context)
                self.refreshes += 1

    def _keeping(self, block: Block, places: Mapping[Session, int]) -> Session | None:
        """Return the most worthy of the kept sessions that a block belongs to: with it, the block is kept for all."""
        owners = self._sessions.owners.of(block)
        if not owners:
            return None
        held = block.block_hash
        if len(owners) == 1:  # nearly always
            ((session, then),) = owners.items()
            return session if then == held and session in places else None
        if len(owners) > len(places):  # a beginning that many share
            return next((session for session in places if owners.get(session, _NOTHING) == held), None)
        kept = [session for session, then in owners.items() if then == held and session in places]
        return min(kept, key=places.__getitem__, default=None)

    def give_up(self, context: CachedContext) -> int:
        """Let a context that nobody will use again be evicted first, and return how many blocks that are.

        What other sessions share with it stays where it is.
        """
        pairs = zip(context.blocks, context.hashes, strict=True)
        alone = [(block, held) for block, held in pairs if not self._sessions.owners.has(block)]
        count = self._cache.demote([block for block, _ in alone], [held for _, held in alone])
        self.demotions += bool(count)
        return count

    def pin(self, session: Session, *, price: float, now: float) -> None:
        """Hold the context of an idle session by force, if it is worth that and there is room.

        Args:
            session: The session, just become idle.
            price: Shadow price of a block as a share of the largest.
            now: Monotonic time in seconds.
        """
        if session.ahead:
            return  # it may be forgotten at any time, and would leave its pins behind
        if not self.pinned.has_room(len(session.context)) or not session.idle:
            return
        if self._value(session, price, now) is not None:
            self.pinned.pin(session, until=now + 2.0 * self._remaining(session, now) + 1.0)
