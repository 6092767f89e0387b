"""Which idle sessions are worth their blocks: when they will be back, against what it would cost to compute them again."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """Settings of retention."""

    horizon_seconds: float = 30.0
    """At the highest price, a short context is kept while it is expected back within this time."""
    attention_tokens: float = 32_768.0
    """Context at which attention costs as much as everything else; a long context is dearer to compute again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleContext:
    """A context whose session is waiting for a tool."""

    tokens: int
    """Length of the cached context."""
    remaining_seconds: float
    """Expected time until the session's next request."""


class GapModel:
    """Learns how long sessions stay away, by kind of request and by what their agent expects.

    An agent expects about the same gap whenever it uses the same tool, so its hint stands for the tool, and what is learned
    corrects it. Sessions that never come back count as an endless gap.
    """

    _KEPT = 128
    _LEAST = 4

    def __init__(self, *, default_seconds: float, max_seconds: float) -> None:
        """Learn gaps.

        Args:
            default_seconds: Expected gap as long as nothing is known.
            max_seconds: A session that stays away longer counts as not coming back.
        """
        self._default = default_seconds
        self._max = max_seconds
        self._sorted: dict[Hashable, list[float]] = {}
        self._recent: dict[Hashable, deque[float]] = {}

    def observe(self, kind: str, seconds: float, *, hint: float | None = None) -> None:
        """Learn that a session came back, or will not.

        Args:
            kind: What it had asked for, such as the role of its request.
            seconds: How long it was away; infinite if it will not come back.
            hint: The gap that its agent expected.
        """
        key = _bucket(kind, hint)
        ordered = self._sorted.setdefault(key, [])
        recent = self._recent.setdefault(key, deque())
        if len(recent) == self._KEPT:
            ordered.remove(recent.popleft())
        gap = max(0.0, seconds) if seconds <= self._max else math.inf
        recent.append(gap)
        insort(ordered, gap)

    def remaining(self, kind: str, *, elapsed: float, hint: float | None = None) -> float:
        """Return the expected time until a session that has been away for `elapsed` seconds is back.

        Args:
            kind: What it had asked for.
            elapsed: Time since its last request ended.
            hint: The gap that its agent expects.
        """
        ordered = self._sorted.get(_bucket(kind, hint), [])
        if len(ordered) >= self._LEAST:
            later = len(ordered) - bisect_right(ordered, elapsed)
            if later:
                return ordered[len(ordered) - later + later // 2] - elapsed + 0.05
        else:
            expected = self._default if hint is None else hint
            if elapsed < expected:
                return expected - elapsed + 0.05
        return max(elapsed, 0.05)  # overdue: the longer it has been away, the longer it will be


def _bucket(kind: str, hint: float | None) -> Hashable:
    """Hints within a factor of two are the same tool."""
    return (kind, None) if hint is None else (kind, round(math.log2(hint + 0.5)))


def recompute_tokens(tokens: int, settings: RetentionSettings) -> float:
    """Return the cost of computing a context, in tokens of a short one."""
    return tokens * (1.0 + tokens / (2.0 * settings.attention_tokens))


def worth(context: IdleContext, settings: RetentionSettings) -> float:
    """Return the cost that keeping one token of the context saves per second of keeping it."""
    if context.tokens <= 0:
        return 0.0
    return recompute_tokens(context.tokens, settings) / context.tokens / (context.remaining_seconds + 0.5)


def keep_seconds(tokens: int, *, price: float, settings: RetentionSettings) -> float:
    """Return for how long a context of `tokens` may be expected to stay away and still be kept.

    Args:
        tokens: Its length.
        price: Shadow price of a block as a share of the largest, from 0 to 1.
        settings: Settings of retention.
    """
    share = recompute_tokens(tokens, settings) / max(tokens, 1)
    return settings.horizon_seconds * share / max(price, 0.01)
