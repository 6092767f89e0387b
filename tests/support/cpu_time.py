"""Whether work takes no more time than it may: a check against quadratic work, on machines that do other things too."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

__all__ = ("takes_less",)

_ATTEMPTS = 3


def takes_less(seconds: float, work: Callable[[], object]) -> bool:
    """Whether one of a few attempts needs less than `seconds` of this thread's CPU time.

    Other threads, and collections of the garbage that other tests left, do not count.
    """
    return any(_seconds(work) < seconds for _ in range(_ATTEMPTS))


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()
    began = time.thread_time()
    try:
        work()
    finally:
        gc.enable()
    return time.thread_time() - began
