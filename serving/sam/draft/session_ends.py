"""How sessions end: out of the live ones, into the history, the memory and the sessions that can be found as similar."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from agentinfer_lg.serving.sam.draft.options import DrafterOptions
from agentinfer_lg.serving.sam.index.histories import Histories
from agentinfer_lg.serving.sam.index.live import LiveSession, LiveSessions
from agentinfer_lg.serving.sam.index.memory import SessionMemory
from agentinfer_lg.serving.sam.index.similar import SimilarSessions

_OUTPUTS_PREFIX: Final = "o:"
_SESSION_PREFIX: Final = "s:"
_OVERLAP_TOKENS: Final = 256
"""Tokens of what the history has already that are added again with a session's new text, so that no match is cut."""


class SessionEnds:
    """Ends sessions and saves them. All of it is done by the background thread."""

    def __init__(
        self,
        options: DrafterOptions,
        *,
        live: LiveSessions,
        histories: Histories,
        similar: SimilarSessions,
        memory: SessionMemory | None,
        submit_slow: Callable[[Iterator[None]], None],
    ) -> None:
        """Take care of sessions.

        Args:
            options: When a session ends, and how much is kept.
            live: Sessions that go on.
            histories: Where their text goes.
            similar: Where they can be found again.
            memory: Where they are saved; None: nowhere.
            submit_slow: Has work done in pieces by the background thread.
        """
        self._options = options
        self._live, self._histories, self._similar = live, histories, similar
        self._memory, self._submit_slow = memory, submit_slow
        self._inserted: collections.OrderedDict[tuple[str, str], int] = collections.OrderedDict()

    def end(self, live: LiveSession) -> None:
        """Move a session from the live ones to the history."""
        self._live.remove(live)
        self._save(live)
        if self._options.uses_history:
            key = (live.tenant, live.name)
            known = self._inserted.pop(key, 0)
            fresh = (
                live.tokens[max(0, known - _OVERLAP_TOKENS) :]
                if known < len(live.tokens)
                else live.tokens[:0]
            )
            text = self._histories.of(live.tenant).text
            self._submit_slow(self._histories.add_slowly(text, fresh))
            self._inserted[key] = len(live.tokens)
            while len(self._inserted) > self._options.similar_sessions:
                self._inserted.popitem(last=False)
        if self._options.top_k and len(live.tokens):
            self._similar.add(live.tenant, live.tokens, live.automaton)

    def make_room(self, tokens: int, *, keep: LiveSession) -> bool:
        """Make room for a prompt: sessions that wait longest for their next turn end early.

        Args:
            tokens: Of the prompt.
            keep: Does not end.

        Returns:
            Whether there is room.
        """
        excess = self._live.tokens + tokens - self._options.live_tokens
        for live in sorted(self._live, key=lambda live: live.used) if excess > 0 else ():
            if not live.running and live is not keep:
                excess -= live.automaton.tokens
                self.end(live)
            if excess <= 0:
                return True
        return excess <= 0

    def end_idle(self, seconds: float) -> None:
        """End the sessions that have been without a request for so long."""
        now = time.monotonic()
        for live in self._live:
            if not live.running and now - live.used >= seconds:
                self.end(live)

    def tidy(self) -> None:
        """End and save sessions that wait; called about once a second."""
        self.end_idle(self._options.idle_seconds)
        now = time.monotonic()
        for live in self._live:
            if not live.running and now - live.used > self._options.save_seconds:
                self._save(live)

    def save_all(self) -> None:
        """Write all live sessions to memory."""
        for live in self._live:
            self._save(live)

    def remember(self, memory: SessionMemory) -> Iterator[None]:
        """Read a memory into the history, the oldest session first."""
        stored = []
        for session in memory.sessions(max_tokens=self._options.history_tokens):
            stored.append(session)
            yield
        for session in reversed(stored):
            history = self._histories.of(session.tenant)
            is_output = session.session.startswith(_OUTPUTS_PREFIX)
            generations = history.outputs if is_output else history.text
            yield from self._histories.add_slowly(generations, session.tokens)
            if not is_output:
                name = session.session.removeprefix(_SESSION_PREFIX)
                self._inserted[session.tenant, name] = len(session.tokens)

    def _save(self, live: LiveSession) -> None:
        if self._memory is None or live.saved:
            return
        live.saved = True
        self._memory.put(tenant=live.tenant, session=_SESSION_PREFIX + live.name, tokens=live.tokens)
        if live.outputs:
            outputs = np.concatenate(live.outputs)
            self._memory.put(tenant=live.tenant, session=_OUTPUTS_PREFIX + live.name, tokens=outputs)
