"""Background tasks: once, a few at a time, again after a failure, and none is left behind."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable

import pytest

from agentinfer_lg.compression.background import BackgroundTasks

_variable: contextvars.ContextVar[str] = contextvars.ContextVar("_variable", default="none")


async def _value() -> str:
    return _variable.get()


async def test_started_once() -> None:
    tasks, started = BackgroundTasks(), 0
    gate = asyncio.Event()

    async def work() -> int:
        nonlocal started
        started += 1
        await gate.wait()
        return started

    first = tasks.ensure("a", "n", work)
    assert tasks.ensure("a", "n", work) is first
    other = tasks.ensure("b", "n", work)
    assert other is not first
    await asyncio.sleep(0)
    assert tasks.running("a", "n")
    assert not tasks.running("a", "else")
    gate.set()
    assert await asyncio.gather(first, other) == [2, 2]
    assert not tasks.running("a", "n")
    assert tasks.ensure("a", "n", work) is first, "what ended well is not done again"
    assert started == 2


async def test_few_at_a_time() -> None:
    tasks, now, most = BackgroundTasks(limit=2), 0, 0

    async def work() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(3):
            await asyncio.sleep(0)
        now -= 1

    started = [tasks.ensure("a", str(i), work) for i in range(7)]
    assert tasks.running("a", "6"), "a job that waits its turn counts as running"
    await asyncio.gather(*started)
    assert most == 2


async def test_what_failed_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    tasks = BackgroundTasks()

    async def fail() -> None:
        raise ValueError("no luck")

    with caplog.at_level(logging.WARNING):
        first = tasks.ensure("a", "n", fail)
        await asyncio.wait({first})
        await asyncio.sleep(0)
    assert "ValueError: no luck" in caplog.text
    second = tasks.ensure("a", "n", _value)
    assert second is not first
    assert await second == "none"


async def test_the_context_of_the_starter_is_not_the_jobs() -> None:
    _variable.set("mine")
    assert await BackgroundTasks().ensure("a", "n", _value) == "none"


async def test_cancel_what_is_about_one_thing() -> None:
    tasks = BackgroundTasks()
    gate = asyncio.Event()
    mine = [tasks.ensure("a", name, gate.wait) for name in ("x", "warm-x-small", "y")]
    assert await tasks.cancel("a", about="x") == 2
    assert [task.cancelled() for task in mine] == [True, True, False]
    await tasks.cancel("a")


async def test_cancel() -> None:
    tasks = BackgroundTasks(limit=1)
    forever = asyncio.Event().wait
    mine = [tasks.ensure("a", str(i), forever) for i in range(3)]
    done = tasks.ensure("b", "done", _value)
    other = tasks.ensure("c", "n", forever)
    await asyncio.sleep(0)
    assert await tasks.cancel("a") == 3
    assert all(task.cancelled() for task in mine)
    assert await done == "none"
    assert await tasks.cancel("b") == 0
    assert await tasks.cancel("nobody") == 0
    assert tasks.running("c", "n")
    again = tasks.ensure("a", "0", _value)
    assert again not in mine
    assert await tasks.cancel("c") == 1
    assert other.cancelled()
    assert await again == "none"
    await tasks.cancel("a")
    assert not tasks._tasks, "nothing is kept of what was cancelled"


def test_every_event_loop_does_its_own() -> None:
    tasks = BackgroundTasks()

    async def once() -> str:
        tasks.ensure("a", "forever", asyncio.Event().wait)
        result: str = await tasks.ensure("a", "n", _value)
        return result

    for _ in range(3):
        assert asyncio.run(once()) == "none"
    assert not tasks.running("a", "forever"), "its event loop is gone"

    async def look() -> None:
        tasks.ensure("b", "n", _value)
        assert len(tasks._tasks) == 1
        await tasks.ensure("b", "n", _value)
        assert len(tasks._gates) == 1

    asyncio.run(look())


def test_cancelled_from_another_event_loop() -> None:
    tasks, ready = BackgroundTasks(), threading.Event()
    states: list[bool] = []

    async def elsewhere() -> None:
        task = tasks.ensure("a", "n", asyncio.Event().wait)
        await asyncio.sleep(0)
        ready.set()
        await asyncio.wait({task})
        states.append(task.cancelled())

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),), daemon=True)
    thread.start()
    assert ready.wait(10)

    async def here() -> int:
        work: Callable[[], Awaitable[object]] = asyncio.Event().wait
        tasks.ensure("a", "n", work)  # type: ignore[arg-type]  # a coroutine function
        await asyncio.sleep(0)
        return await tasks.cancel("a")

    assert asyncio.run(here()) == 2
    thread.join(10)
    assert states == [True]
