"""The background thread: order, slow work, failures, the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from agentinfer_lg.serving.sam.index.builder import Builder


def test_jobs_run_in_order_and_drain_waits() -> None:
    builder = Builder()
    done: list[int] = []
    for number in range(100):
        builder.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    builder.drain()
    assert done == list(range(100))
    assert builder.waiting == 0
    builder.close()


def test_jobs_go_before_slow_work() -> None:
    builder = Builder()
    order: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def units() -> Iterator[None]:
        for number in range(3):
            begun.set()
            go.wait(10)
            order.append(f"unit {number}")
            yield

    builder.submit_slow(units())
    assert begun.wait(10)
    builder.submit(lambda: order.append("job"))
    go.set()
    builder.drain()
    assert order == ["unit 0", "job", "unit 1", "unit 2"]
    builder.close()


def test_a_failing_job_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    builder = Builder()
    done = threading.Event()

    def fail() -> None:
        raise ValueError("broken")

    def fail_slowly() -> Iterator[None]:
        yield
        raise ValueError("broken too")

    with caplog.at_level(logging.ERROR):
        builder.submit(fail)
        builder.submit_slow(fail_slowly())
        builder.submit(done.set)
        builder.drain()
    assert done.is_set()
    assert builder.failures == 2
    assert "background job failed" in caplog.text
    builder.close()


def test_close_does_what_waits_and_returns() -> None:
    builder = Builder()
    done: list[int] = []
    for number in range(50):
        builder.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    builder.close()
    assert done == list(range(50))
    builder.close()


def test_without_a_thread_jobs_run_at_once() -> None:
    builder = Builder(background=False)
    done: list[int] = []
    builder.submit(lambda: done.append(1))
    builder.submit_slow(iter([None, None]))
    assert done == [1]
    builder.drain()
    builder.close()


def test_idle_work_is_done_between_jobs() -> None:
    tidied = threading.Event()
    builder = Builder(idle=tidied.set)
    assert tidied.wait(10)
    builder.close()
