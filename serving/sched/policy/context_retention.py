"""Which context is evicted: those of idle sessions stay while that pays, and those that nobody will use again go first."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass

from agentinfer_lg.serving.sched.policy.cached_context import Block, CachedContext, PrefixCache
from agentinfer_lg.serving.sched.policy.retention import (
    GapModel,
    IdleContext,
    RetentionSettings,
    keep_seconds,
    worth,
)
from agentinfer_lg.serving.sched.policy.sessions import Session, SessionTable


@dataclass(slots=True)
class _Kept:
    worth: float
    blocks: int
    session: Session


_NOTHING = object()


def _by_worth(kept: _Kept) -> float:
    return -kept.worth


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
        self._room = int(cache.total * (1.0 - reserve_share))
        self._pin_room = int(cache.total * pin_share)
        self._kept: list[_Kept] = []
        self._pinned: dict[Session, None] = {}  # in the order of pinning
        self._valued = -1.0
        self._seconds = self._SECONDS
        self._first: dict[int, CachedContext] = {}  # by its first block, the most worthy that begins with it
        self.kept_blocks = 0
        """Blocks of the idle contexts that are worth keeping at present."""
        self.pinned_blocks = 0
        """Blocks that are pinned by force."""
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
        for place, kept in enumerate(self._kept):
            if kept.session is session:
                del self._kept[place]
                self.kept_blocks -= kept.blocks
                break
        if not session.idle or session in self._pinned:
            return
        added = self._value(session, price, now)
        if added is None:
            return
        if self.kept_blocks + self._own_blocks(added) > self._room:
            self._keep(sorted([*self._kept, added], key=_by_worth))
        elif added.blocks:
            insort(self._kept, added, key=_by_worth)
            self.kept_blocks += added.blocks

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
        self._unpin_expired(now)
        found: list[_Kept] = []
        looked = 0
        for session in self._sessions:
            if session.live or now < session.worthless_until or not session.idle or session in self._pinned:
                continue
            looked += 1
            kept = self._value(session, price, now)
            if kept is not None:
                found.append(kept)
            else:
                session.worthless_until = now + self._WORTHLESS_SECONDS
        self._seconds = max(self._SECONDS, looked * self._SECONDS_EACH)
        self._keep(sorted(found, key=_by_worth))

    def _keep(self, found: list[_Kept]) -> None:
        """Keep those that fit together, the most worthy first; what they share counts once."""
        self._kept, self.kept_blocks = [], 0
        self._first.clear()
        for kept in found:
            if self.kept_blocks + self._own_blocks(kept) > self._room:
                self._forget_first(kept)
            elif kept.blocks:
                self._kept.append(kept)
                self.kept_blocks += kept.blocks

    def _own_blocks(self, kept: _Kept) -> int:
        """Count the blocks of a context that the first one with the same beginning does not have."""
        context = kept.session.context
        if not context.blocks:  # it was evicted since it was valued
            kept.blocks = 0
            return 0
        other = self._first.setdefault(context.blocks[0].block_id, context)
        kept.blocks = len(context) - (0 if other is context else context.shared_with(other))
        return kept.blocks

    def _forget_first(self, kept: _Kept) -> None:
        context = kept.session.context
        if context.blocks and self._first.get(context.blocks[0].block_id) is context:
            del self._first[context.blocks[0].block_id]

    def _value(self, session: Session, price: float, now: float) -> _Kept | None:
        blocks = session.context.shrink()
        tokens = blocks * self._cache.block_size
        remaining = self._remaining(session, now)
        if not blocks or remaining > keep_seconds(tokens, price=price, settings=self._settings):
            return None
        value = worth(IdleContext(tokens=tokens, remaining_seconds=remaining), self._settings)
        return _Kept(value, blocks, session)

    def _remaining(self, session: Session, now: float) -> float:
        return self._gaps.remaining(session.kind, elapsed=now - session.ended, hint=session.hint)

    def protect(self, blocks: int) -> None:
        """Before blocks are allocated: move kept contexts out of the way, as far as there are others to take.

        Args:
            blocks: Blocks that may be taken from the front of the list of free ones.
        """
        if not self._kept or blocks <= 0:
            return
        places = {kept.session: place for place, kept in enumerate(self._kept)}
        doomed: set[Session] = set()
        for block in self._cache.front(blocks):
            session = self._keeping(block, places)
            if session is not None:
                doomed.add(session)
        if not doomed:
            return
        spare = self._cache.free - self.kept_blocks
        for candidate in reversed(self._kept):  # where the spare does not do, the least worthy are given up
            if spare >= blocks:
                break
            spare += candidate.blocks
            doomed.discard(candidate.session)
        for candidate in reversed(self._kept):  # the most worthy last: it is then the last to be evicted
            if candidate.session in doomed:
                self._cache.refresh(candidate.session.context)
                self.refreshes += 1

    def _keeping(self, block: Block, places: Mapping[Session, int]) -> Session | None:
        """Return the most worthy of the kept sessions that a block belongs to: with it, the block is kept for all."""
        owners = self._sessions.owners(block)
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
        alone = [(block, held) for block, held in pairs if not self._sessions.is_owned(block)]
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
        blocks = len(session.context)
        if session.ahead:
            return  # it may be forgotten at any time, and would leave its pins behind
        if not self._pin_room or self.pinned_blocks + blocks > self._pin_room or not session.idle:
            return
        kept = self._value(session, price, now)
        if kept is None:
            return
        self._cache.pin(session.context)
        self._pinned[session] = None
        self._count_pinned()
        session.pinned_until = now + 2.0 * self._remaining(session, now) + 1.0

    def unpin(self, session: Session) -> None:
        """Let go of a session's context, if it is pinned."""
        if session not in self._pinned:
            return
        del self._pinned[session]
        self._cache.unpin(session.context)
        self._count_pinned()
        session.pinned_until = 0.0

    def _count_pinned(self) -> None:
        """Sessions may share blocks; each counts once."""
        blocks = (block.block_id for session in self._pinned for block in session.context.blocks)
        self.pinned_blocks = len(set(blocks))

    def unpin_all(self) -> None:
        """Let go of everything that is pinned."""
        for session in list(self._pinned):
            self.unpin(session)

    def unpin_for(self, blocks: int) -> None:
        """Let go of pinned contexts, the one that is expected last first, until `blocks` blocks are free."""
        for session in sorted(self._pinned, key=lambda session: -session.pinned_until):
            if self._cache.free >= blocks:
                return
            self.unpin(session)

    def _unpin_expired(self, now: float) -> None:
        for session in [session for session in self._pinned if now >= session.pinned_until]:
            self.unpin(session)
