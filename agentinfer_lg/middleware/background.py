"""An event loop in the background, for agents that are run with `invoke`: what it does goes on between their calls."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from langgraph.store.base import BaseStore, Op, Result

T = TypeVar("T")


class Background:
    """An event loop in a daemon thread, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for its result."""
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():  # threads do not survive a fork
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="agentinfer-background", daemon=True
                )
                self._thread.start()
            return self._loop

    def close(self) -> None:
        """Stop what runs, and the loop; the next `run` starts another one."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None or self._process != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(_stop(), loop)
        thread.join(timeout=5.0)
        if not thread.is_alive():
            loop.close()


BACKGROUND = Background()
"""The one of this process."""
atexit.register(BACKGROUND.close)


async def _stop() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=2.0)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    loop.stop()


async def in_thread(call: Callable[[], T]) -> T:
    """Run `call` in a thread of its own, which does not keep the process alive, unlike those of `asyncio.to_thread`."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(done: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(lambda: None if future.done() else done())

    def work() -> None:
        try:
            value = call()
        except Exception as error:
            failure = error  # `error` is gone when the loop looks at it
            tell(lambda: future.set_exception(failure))
        else:
            tell(lambda: future.set_result(value))

    threading.Thread(target=work, name="agentinfer-call", daemon=True).start()
    return await future


class ThreadStore(BaseStore):
    """The store of an agent that is run with `invoke`, used from the background: many stores are either sync or async."""

    __slots__ = ("_store",)

    def __init__(self, store: BaseStore) -> None:
        self._store = store

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Pass the operations on."""
        return self._store.batch(ops)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Pass the operations on, in a thread."""
        operations = list(ops)
        return await in_thread(lambda: self._store.batch(operations))
