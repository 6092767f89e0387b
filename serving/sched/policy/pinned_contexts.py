"""The idle contexts that are held by force, up to a share of the cache (retention `hard`)."""

from __future__ import annotations

from agentinfer_lg.serving.sched.policy.cached_context import PrefixCache
from agentinfer_lg.serving.sched.policy.session import Session


class PinnedContexts:
    """Contexts that cannot be evicted until they are let go."""

    def __init__(self, cache: PrefixCache, *, room: int) -> None:
        """Pin nothing yet.

        Args:
            cache: Where the contexts are.
            room: Most blocks that are pinned; 0: none.
        """
        self._cache = cache
        self._room = room
        self._pinned: dict[Session, None] = {}  # in the order of pinning
        self.blocks = 0
        """Blocks that are pinned; sessions may share some, and each counts once."""

    def __contains__(self, session: Session) -> bool:
        return session in self._pinned

    def has_room(self, blocks: int) -> bool:
        """Whether so many blocks more may be pinned."""
        return self._room > 0 and self.blocks + blocks <= self._room

    def pin(self, session: Session, *, until: float) -> None:
        """Hold the context of an idle session by force.

        Args:
            session: The session.
            until: Monotonic time in seconds after which it counts as expired.
        """
        self._cache.pin(session.context)
        self._pinned[session] = None
        self._count()
        session.pinned_until = until

    def unpin(self, session: Session) -> None:
        """Let go of a session's context, if it is pinned."""
        if session not in self._pinned:
            return
        del self._pinned[session]
        self._cache.unpin(session.context)
        self._count()
        session.pinned_until = 0.0

    def unpin_all(self) -> None:
        """Let go of everything."""
        for session in list(self._pinned):
            self.unpin(session)

    def unpin_for(self, blocks: int) -> None:
        """Let go of contexts, the one that is expected last first, until `blocks` blocks are free."""
        for session in sorted(self._pinned, key=lambda session: -session.pinned_until):
            if self._cache.free >= blocks:
                return
            self.unpin(session)

    def unpin_expired(self, *, now: float) -> None:
        """Let go of contexts whose session should have been back.

        Args:
            now: Monotonic time in seconds.
        """
        for session in [session for session in self._pinned if now >= session.pinned_until]:
            self.unpin(session)

    def _count(self) -> None:
        blocks = (block.block_id for session in self._pinned for block in session.context.blocks)
        self.blocks = len(set(blocks))
