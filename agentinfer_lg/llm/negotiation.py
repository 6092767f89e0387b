"""Ask a server until it answers: wait where it is busy, change the request where it refuses, and remember what helped."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from langchain_core.messages import AIMessage

from agentinfer_lg.llm.capabilities import Capabilities, Known
from agentinfer_lg.llm.connection import ConnectionLostError
from agentinfer_lg.llm.failure import Failure, ServerFailureError
from agentinfer_lg.llm.remedies import Remedy, find_remedies

Send = Callable[[Capabilities], Awaitable[AIMessage]]
"""Make the request as a server with these capabilities takes it."""

_MOST_REMEDIES: Final = 8
"""Per call."""
_MOST_WAIT: Final = 60.0
"""Seconds that a server may ask to wait; one that asks for more is over its quota."""
_FIRST_PAUSE: Final = 0.5
_LOADING: Final = re.compile(
    r"loading|warming|starting up|initiali[sz]ing|not ready|cold start|being loaded|加载", re.IGNORECASE
)
_LOADING_PAUSE: Final = 2.0


async def negotiate(
    send: Send,
    known: Known,
    *,
    retries: int,
    start_seconds: float,
    on_wait: Callable[[str], None] = lambda sentence: None,
) -> AIMessage:
    """Return the answer of a server.

    Args:
        send: Makes the request.
        known: What is known of the server; what helps is added to it.
        retries: Times that a request is made again because the server is busy or broke.
        start_seconds: Seconds that the server may take to load its model.
        on_wait: Told, in a sentence, what is waited for.

    Raises:
        ServerFailureError: The server refuses whatever is tried, or goes on failing.
        ConnectionLostError: It cannot be reached.
    """
    talk = _Talk(known)
    pauses = _Pauses(retries, start_seconds, on_wait)
    while True:
        try:
            answer = await send(talk.capabilities)
        except ServerFailureError as error:
            if talk.is_outdated():
                continue
            if talk.may_stumble(error.failure) and await pauses.wait(error.failure):
                continue
            if talk.amend(error.failure, error.body):
                continue
            if not await pauses.wait(error.failure):
                raise
        except ConnectionLostError:
            if not await pauses.wait(None):
                raise
        else:
            if answer.response_metadata.get("finish_reason") not in ("abort", "error") or not pauses.more():
                talk.keep()
                return answer


class _Talk:
    """The remedies of one call: those that changed what the server says stay, the others are taken back."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._kept: list[Remedy] = []
        self._trying: Remedy | None = None
        self._tried: set[str] = set()
        self._said = ""
        self._sent = known.capabilities
        self._outdated = 0
        self._stumbled = False

    @property
    def capabilities(self) -> Capabilities:
        """What to assume in the next request."""
        self._sent = self._known.capabilities
        return self._amended(self._sent)

    def _amended(self, capabilities: Capabilities) -> Capabilities:
        for remedy in (*self._kept, *([self._trying] if self._trying else [])):
            capabilities = remedy.change(capabilities)
        return capabilities

    def is_outdated(self) -> bool:
        """Whether other calls have learned, since the request was made, to make it in another way."""
        before, now = self._amended(self._sent), self._amended(self._known.capabilities)
        if before.form == now.form or self._outdated >= _MOST_REMEDIES:
            return False
        self._outdated += 1
        return True

    def may_stumble(self, failure: Failure) -> bool:
        """Whether the server may have failed by chance: once per call, the same request is made again first."""
        if failure.kind != "server" or self._stumbled or self._trying is not None:
            return False
        self._stumbled = True
        return True

    def amend(self, failure: Failure, body: Mapping[str, Any]) -> bool:
        """Choose what to change after a failure; False: there is nothing left to try."""
        if self._trying is not None:
            if _same(failure, self._said) or self._trying.blind:
                self._trying = None  # it did not help
            else:
                self._kept.append(self._trying)
                self._trying = None
        if len(self._tried) >= _MOST_REMEDIES:
            return False
        for remedy in find_remedies(failure, body, self._amended(self._sent)):
            if remedy.name not in self._tried:
                self._tried.add(remedy.name)
                self._trying, self._said = remedy, failure.words
                return True
        return False

    def keep(self) -> None:
        """Remember what helped."""
        for remedy in (*self._kept, *([self._trying] if self._trying else [])):
            self._known.learn(remedy.change, name=remedy.name, sentence=remedy.sentence)


def _same(failure: Failure, words: str) -> bool:
    """Whether a server says the same as before, but for numbers."""
    return re.sub(r"\d+", "0", failure.words) == re.sub(r"\d+", "0", words)


class _Pauses:
    """The times that a call waits before the same request is made again."""

    def __init__(self, retries: int, start_seconds: float, on_wait: Callable[[str], None]) -> None:
        self._left = retries
        self._made = 0
        self._start_seconds = start_seconds
        self._loading = 0.0
        self._on_wait = on_wait

    def more(self) -> bool:
        """Take one of the retries."""
        self._left -= 1
        return self._left >= 0

    async def wait(self, failure: Failure | None) -> bool:
        """Wait after a failure (None: the connection was lost); False: it is not worth it."""
        if failure is not None and failure.status == 503 and _LOADING.search(failure.words):
            return await self._wait_for_model(failure)
        if failure is not None and not failure.passes:
            return False
        asked = failure.retry_after if failure is not None else None
        if (asked is not None and asked > _MOST_WAIT) or not self.more():
            return False
        pause = (
            _FIRST_PAUSE * 2**self._made * (0.75 + random.random() / 2)
        )  # many at once must not come back at once
        self._made += 1
        if asked is not None and asked > 1.0:
            self._on_wait(f"the model server asks to wait {asked:.0f} s")
        await asyncio.sleep(min(8.0, pause) if asked is None else asked)
        return True

    async def _wait_for_model(self, failure: Failure) -> bool:
        if self._loading >= self._start_seconds:
            return False
        pause = min(failure.retry_after or _LOADING_PAUSE, 10.0)
        self._loading += pause
        self._on_wait(f"the model server says that it is not ready ({self._loading:.0f} s)")
        await asyncio.sleep(pause)
        return True
