"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ("wait_until",)


def wait_until(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    """Return as soon as the condition holds; an assertion fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
