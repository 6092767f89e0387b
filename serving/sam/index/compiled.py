"""The decorator of compiled functions: numba, without the GIL, kept on disk, and never stale.

Numba compiles a function anew when its own file has changed, but not when a function that it calls, or the layout of the
arrays that both use, has changed in another file. Code of two versions would then read each other's arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

_SOURCES = ("config.py", "index/automaton.py", "index/compiled.py", "draft/acceptance.py", "draft/step.py")
_changed = max(((Path(__file__).parents[1] / name).stat().st_mtime for name in _SOURCES), default=0.0)


def compiled(function: Callable[..., Any]) -> Any:  # Any: numba has no types
    """Compile at the first call, or load what an earlier process compiled of the same sources."""
    return _compile(function, inline="never")


def inlined(function: Callable[..., Any]) -> Any:
    """As `compiled`, for small functions that become part of their callers."""
    return _compile(function, inline="always")


def _compile(function: Callable[..., Any], *, inline: str) -> Any:
    dispatcher = njit(nogil=True, cache=True, inline=inline)(function)
    _forget_stale(Path(dispatcher.stats.cache_path), function)
    return dispatcher


def _forget_stale(folder: Path, function: Callable[..., Any]) -> None:
    stem = Path(function.__code__.co_filename).stem
    for index in folder.glob(f"{stem}.{function.__qualname__}-*.nbi"):
        with contextlib.suppress(OSError):  # another process was faster
            if index.stat().st_mtime < _changed:
                index.unlink()
