"""The background thread that builds automata, so that the decode path never does."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

_IDLE_SECONDS = 1.0
_logger = logging.getLogger(__name__)


class Builder:
    """Runs jobs in order, in one thread; slow work goes on in small units while no job waits."""

    def __init__(self, *, background: bool = True, idle: Callable[[], None] | None = None) -> None:
        """Start.

        Args:
            background: With False, each job runs at once in the thread that brings it.
            idle: Called about once a second, between jobs.
        """
        self._jobs: collections.deque[Callable[[], None]] = collections.deque()
        self._slow: collections.deque[Iterator[None]] = collections.deque()
        self._idle = idle
        self._wake = threading.Condition()
        self._busy = False
        self._closed = False
        self.failures = 0
        """Jobs that raised an error."""
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._run, name="agentinfer-sam", daemon=True)
            self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs not done yet."""
        return len(self._jobs) + self._busy

    def submit(self, job: Callable[[], None]) -> None:
        """Add a job."""
        if self._thread is None:
            self._attempt(job)
            return
        with self._wake:
            self._jobs.append(job)
            self._wake.notify_all()

    def submit_slow(self, units: Iterator[None]) -> None:
        """Add slow work: each `next` does a small unit of it."""
        if self._thread is None:
            self._attempt(lambda: collections.deque(units, maxlen=0))
            return
        with self._wake:
            self._slow.append(units)
            self._wake.notify_all()

    def drain(self) -> None:
        """Wait until nothing is left to do."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or not (self._jobs or self._slow or self._busy))

    def close(self, *, timeout: float = 5.0) -> None:
        """Do the jobs that wait, give up slow work, and end the thread."""
        with self._wake:
            self._closed = True
            self._slow.clear()
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        tidied = time.monotonic()
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._jobs or self._slow or self._closed, timeout=_IDLE_SECONDS)
                if self._closed and not self._jobs:
                    return
                job = self._jobs.popleft() if self._jobs else None
                units = self._slow[0] if self._slow and job is None else None
                self._busy = job is not None or units is not None
            if job is not None:
                self._attempt(job)
            elif units is not None:
                self._attempt(lambda units=units: self._advance(units))  # type: ignore[misc]  # bound now
            if self._idle is not None and time.monotonic() - tidied >= _IDLE_SECONDS:
                self._attempt(self._idle)
                tidied = time.monotonic()

    def _advance(self, units: Iterator[None]) -> None:
        finished = True
        try:
            for _ in units:
                finished = False
                return
        finally:
            if finished:
                with self._wake, contextlib.suppress(ValueError):
                    self._slow.remove(units)

    def _attempt(self, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception:  # one bad session must not end speculation for all others
            self.failures += 1
            _logger.exception("AgentSAM: a background job failed; the request goes on without drafts")
