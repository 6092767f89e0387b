"""Sessions as the scheduler knows them: which requests belong together, what they left in the cache, when they return."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.policy.block_owners import BlockOwners
from agentinfer_lg.serving.sched.policy.cached_context import CachedContext
from agentinfer_lg.serving.sched.policy.retention import GapModel
from agentinfer_lg.serving.sched.policy.session import NEXT, UNNAMED, Hashes, Key, Session

_MOST = 4096
"""Sessions remembered; the ones that were away longest are forgotten first."""


class SessionTable:
    """All sessions that may return, and which blocks are theirs.

    Requests without a session id are told apart by their prompts: one that extends what an earlier one left behind goes
    on with that session.
    """

    def __init__(self, gaps: GapModel, *, max_gap_seconds: float) -> None:
        """Remember sessions.

        Args:
            gaps: Learns from their returns.
            max_gap_seconds: A session that stays away longer counts as not coming back.
        """
        self._gaps = gaps
        self._max_gap = max_gap_seconds
        self._sessions: OrderedDict[Key, Session] = OrderedDict()  # the one that was away longest first
        self.owners = BlockOwners()
        """Whose the cached blocks are."""
        self._tails: dict[tuple[str, Any], Session] = {}  # by tenant, of sessions without an id
        self._unnamed = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def tokens(self, *, now: float) -> int:
        """Return the tokens of all contexts together, cached or not, of sessions that are here or expected back.

        Of those that are away only the ones count that have come back before: a stream of requests that never do, and
        do not say so, must not look like many sessions.

        Args:
            now: Monotonic time in seconds.
        """
        oldest = now - self._max_gap
        return sum(
            session.tokens
            for session in self._sessions.values()
            if session.live or (session.calls > 1 and session.ended >= oldest)
        )

    def begin(self, hints: SessionHints, hashes: Hashes, *, tokens: int, now: float) -> Session | None:
        """Note that a request arrived; None if it belongs to no session that could return.

        Args:
            hints: Of the request.
            hashes: Of its prompt.
            tokens: Length of its prompt.
            now: Monotonic time in seconds.
        """
        session = self._find(hints, hashes)
        if session is None:
            return None
        if hints.supersedes:
            self._take_over((hints.tenant, NEXT + hints.session_id), now=now)
        if not session.live and session.ended and not session.away:
            self._gaps.observe(session.kind, now - session.ended, hint=session.hint)
        session.live += 1
        session.calls += 1
        session.away = False
        session.tokens = max(session.tokens, tokens)
        return session

    def _find(self, hints: SessionHints, hashes: Hashes) -> Session | None:
        if not hints.session_id:
            return self._find_unnamed(hints, hashes)
        if hints.role == "prewarm":  # the session goes on with its old context until a request supersedes it
            key = (hints.tenant, NEXT + hints.session_id)
            return self._sessions.get(key) or self._new(key)
        key = (hints.tenant, hints.session_id)
        session = self._sessions.get(key)
        if hints.final and (session is None or not session.continues(hashes)):
            return None  # a tool request of the session: it neither continues its context nor ends it
        return session or self._new(key)

    def _take_over(self, key: Key, *, now: float) -> None:
        """Forget a context that was prefilled ahead of time: the request that uses it is here."""
        ahead = self._sessions.get(key)
        if ahead is not None and not ahead.live:
            self._gaps.observe(ahead.kind, now - ahead.ended, hint=ahead.hint)
            self.drop_context(ahead)

    def _find_unnamed(self, hints: SessionHints, hashes: Hashes) -> Session | None:
        for block_hash in reversed(hashes) if self._tails else ():
            session = self._tails.get((hints.tenant, block_hash))
            if session is not None:
                return session
        if hints.final:
            return None
        self._unnamed += 1
        return self._new((hints.tenant, f"{UNNAMED}{self._unnamed}"))

    def _new(self, key: Key) -> Session:
        session = self._sessions[key] = Session(key)
        self._forget_oldest()
        return session

    def end(
        self,
        session: Session,
        hints: SessionHints,
        context: CachedContext,
        hashes: Hashes,
        *,
        tokens: int,
        now: float,
    ) -> CachedContext:
        """Note that a request of a session ended, and return what nobody needs any more.

        Args:
            session: The session.
            hints: Of the request.
            context: What the request leaves in the cache.
            hashes: Of its prompt and output.
            tokens: Length of its prompt and output.
            now: Monotonic time in seconds.
        """
        session.live -= 1
        session.ended, session.kind, session.hint = now, hints.role, hints.tool_seconds
        session.worthless_until = 0.0
        self._sessions.move_to_end(session.key)
        before = session.context
        if not len(context):
            return CachedContext()  # it never started: what the session had is still what it has
        self._disown(session)
        if hints.final and not session.live:
            del self._sessions[session.key]
            return context.joined(before)
        session.tokens = tokens
        session.context = context
        session.tail_index = min(len(context), len(hashes)) - 1
        session.tail = hashes[session.tail_index]
        if session.unnamed:
            self._tails[session.key[0], session.tail] = session
        self.owners.add(session)
        return before.beyond(context) if hints.supersedes else CachedContext()

    def expire(self, *, now: float) -> None:
        """Learn from sessions that did not come back.

        Args:
            now: Monotonic time in seconds.
        """
        for session in self._sessions.values():  # those away longest first
            if session.live or session.away:
                continue
            if now - session.ended < self._max_gap:
                return
            session.away = True
            self._gaps.observe(session.kind, float("inf"), hint=session.hint)

    def drop_context(self, session: Session) -> None:
        """Forget what a session has in the cache, and the session too unless a request of it is there."""
        self._disown(session)
        if not session.live:
            self._sessions.pop(session.key, None)

    def _disown(self, session: Session) -> None:
        self.owners.remove(session)
        tail = (session.key[0], session.tail)
        if self._tails.get(tail) is session:
            del self._tails[tail]
        session.context = CachedContext()
        session.tail, session.tail_index = None, -1

    def _forget_oldest(self) -> None:
        if len(self._sessions) <= _MOST:
            return
        for session in list(self._sessions.values()):
            if not session.live and session.ended:
                self.drop_context(session)
                return
