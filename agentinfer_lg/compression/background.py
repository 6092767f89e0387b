"""Work that goes on in the background while the agent goes on: started once, few at a time, never waited for.

The table of tasks is a cache and not the truth. What a task finds goes into the store under a content address. After a crash
the task is simply started again.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any

_log = logging.getLogger(__name__)

_CANCEL_SECONDS = 5.0


class BackgroundTasks:
    """Background tasks of a process, by name.

    Args:
        limit: Most tasks that run at the same time; the others wait their turn.
    """

    def __init__(self, *, limit: int = 4) -> None:
        self._limit = limit
        self._tasks: dict[tuple[str, str, asyncio.AbstractEventLoop], asyncio.Task[Any]] = {}
        self._gates: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    def ensure(
        self, owner: str, name: str, work: Callable[[], Coroutine[Any, Any, object]]
    ) -> asyncio.Task[Any]:
        """Start a task unless it runs or has ended well in this event loop, and return it.

        Args:
            owner: Whose task it is, for `cancel`.
            name: The same name is the same work.
            work: Makes the coroutine; called only if the task is started.
        """
        loop = asyncio.get_running_loop()
        self._forget()
        task = self._tasks.get((owner, name, loop))
        if task is None:
            # An empty context: callbacks and stream of the node that starts it are not those of the task.
            task = loop.create_task(
                self._run(loop, work), name=f"agentinfer-{name}", context=contextvars.Context()
            )
            task.add_done_callback(_note_failure)
            self._tasks[owner, name, loop] = task
        return task

    def running(self, owner: str, name: str) -> bool:
        """Whether that task has been started and has not ended."""
        return any(
            key[:2] == (owner, name) and not task.done() and not key[2].is_closed()
            for key, task in list(self._tasks.items())
        )

    async def cancel(self, owner: str, *, about: str = "") -> int:
        """Stop tasks of `owner` and return how many still ran; what they would have found can be found again.

        Args:
            owner: Whose tasks.
            about: A part of the names of those to stop; empty: all of them.
        """
        loop = asyncio.get_running_loop()
        mine = [self._tasks.pop(key) for key in list(self._tasks) if key[0] == owner and about in key[1]]
        running = [task for task in mine if not task.done() and not task.get_loop().is_closed()]
        here = [task for task in running if task.get_loop() is loop]
        for task in running:
            if task in here:
                task.cancel()
            else:  # a task belongs to the thread of its event loop
                task.get_loop().call_soon_threadsafe(task.cancel)
        if here:
            await asyncio.wait(here, timeout=_CANCEL_SECONDS)
        return len(running)

    async def _run(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, object]]
    ) -> object:
        gate = self._gates.setdefault(loop, asyncio.Semaphore(self._limit))
        async with gate:
            return await work()

    def _forget(self) -> None:
        """Drop what failed, so that it is tried again, and what belonged to an event loop that is gone."""
        for key, task in list(self._tasks.items()):
            failed = task.done() and (task.cancelled() or task.exception() is not None)
            if failed or task.get_loop().is_closed():
                self._tasks.pop(key, None)
        for other in [gate for gate in list(self._gates) if gate.is_closed()]:
            self._gates.pop(other, None)


def _note_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("a background task failed and will be tried again: %s: %s", type(error).__name__, error)
