"""Sessions as the scheduler knows them: which requests belong together, what they left in the cache, when they return."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.cache import Block, CachedContext
from agentinfer_lg.serving.sched.retention import GapModel

__all__ = ("Session", "SessionTable")

_MOST = 4096
"""Sessions remembered; the ones that were away longest are forgotten first."""

Key = tuple[str, str]
"""Tenant and session id: the same id of two tenants is two sessions."""


@dataclass(slots=True, eq=False)
class Session:
    """One growing context."""

    key: Key
    live: int = 0
    """Its requests that have not ended."""
    tokens: int = 0
    """Length of its context, cached or not."""
    context: CachedContext = field(default_factory=CachedContext)
    """What its last request left in the cache."""
    kind: str = ""
    """What its last request was for."""
    hint: float | None = None
    """Expected gap, as its agent told it with the last request."""
    ended: float = 0.0
    """When its last request ended."""
    pinned_until: float = 0.0
    """Its context is pinned by force until then; 0: it is not."""

    @property
    def idle(self) -> bool:
        """Whether it has a context in the cache and no request."""
        return not self.live and len(self.context) > 0


class SessionTable:
    """All sessions that may return, and which blocks are theirs."""

    def __init__(self, gaps: GapModel, *, max_gap_seconds: float) -> None:
        self._gaps = gaps
        self._max_gap = max_gap_seconds
        self._sessions: OrderedDict[Key, Session] = OrderedDict()  # the one that was away longest first
        self._owners: dict[int, dict[Session, Any]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def tokens(self, *, now: float) -> int:
        """Return the tokens of all contexts together, cached or not, of sessions that are here or expected back.

        Args:
            now: Monotonic time in seconds.
        """
        oldest = now - self._max_gap
        return sum(session.tokens for session in self._sessions.values() if session.live or session.ended >= oldest)

    def get(self, key: Key) -> Session | None:
        """Return the session of that key, if it is known."""
        return self._sessions.get(key)

    def begin(self, hints: SessionHints, *, tokens: int, now: float) -> Session | None:
        """Note that a request arrived; None if it belongs to no session that could return.

        Args:
            hints: Of the request.
            tokens: Length of its prompt.
            now: Monotonic time in seconds.
        """
        if not hints.session_id:
            return None
        key = (hints.tenant, hints.session_id)
        session = self._sessions.get(key)
        if session is None:
            if hints.final:
                return None
            session = self._sessions[key] = Session(key)
            self._forget_oldest()
        elif not session.live:
            self._gaps.observe(session.kind, now - session.ended)
        session.live += 1
        session.tokens = max(session.tokens, tokens)
        return session

    def end(
        self, session: Session, hints: SessionHints, context: CachedContext, *, now: float
    ) -> CachedContext:
        """Note that a request of a session ended, and return what its session does not need any more.

        Args:
            session: The session.
            hints: Of the request.
            context: What the request leaves in the cache.
            now: Monotonic time in seconds.
        """
        session.live -= 1
        session.ended, session.kind, session.hint = now, hints.role, hints.tool_seconds
        before = session.context
        self._disown(session)
        self._sessions.move_to_end(session.key)
        if hints.final:
            if not session.live:
                del self._sessions[session.key]
            return _beyond(before, context)
        session.context = context
        for block, held in zip(context.blocks, context.hashes, strict=True):
            self._owners.setdefault(block.block_id, {})[session] = held
        return _beyond(before, context) if hints.supersedes else CachedContext()

    def abandon(self, session: Session) -> None:
        """Note that a request ended without leaving anything, such as an aborted one."""
        session.live -= 1

    def drop_context(self, session: Session) -> None:
        """Forget what a session has in the cache, and the session too unless a request of it is there."""
        self._disown(session)
        if not session.live:
            self._sessions.pop(session.key, None)

    def owners(self, block: Block) -> list[Session]:
        """Return the sessions whose context contains what a block holds at present."""
        owners = self._owners.get(block.block_id)
        if not owners:
            return []
        return [session for session, held in owners.items() if held == block.block_hash]

    def _disown(self, session: Session) -> None:
        for block in session.context.blocks:
            owners = self._owners.get(block.block_id)
            if owners is not None:
                owners.pop(session, None)
                if not owners:
                    del self._owners[block.block_id]
        session.context = CachedContext()

    def _forget_oldest(self) -> None:
        for session in list(self._sessions.values()) if len(self._sessions) > _MOST else ():
            if not session.live:
                self.drop_context(session)
                return


def _beyond(before: CachedContext, after: CachedContext) -> CachedContext:
    """The part of a former context that is not in the present one."""
    kept = {block.block_id for block in after.blocks}
    pairs = [
        (block, held) for block, held in zip(before.blocks, before.hashes, strict=True) if block.block_id not in kept
    ]
    return CachedContext([block for block, _ in pairs], [held for _, held in pairs])
