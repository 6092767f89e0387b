"""Which idle sessions are worth their blocks: when they will be back, against what it would cost to compute them again."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ("GapModel", "IdleContext", "RetentionSettings", "keep_seconds", "worth")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """Settings of retention."""

    horizon_seconds: float = 60.0
    """At the highest price, a short context is kept while it is expected back within this time."""
    attention_tokens: float = 32_768.0
    """Context at which attention costs as much as everything else; a long context is dearer to compute again."""
    default_gap_seconds: float = 10.0
    """Expected gap of a session about which nothing is known."""
    max_gap_seconds: float = 300.0
    """Longer gaps are people who went away; they teach nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleContext:
    """A context whose session is waiting for a tool."""

    tokens: int
    """Length of the cached context."""
    remaining_seconds: float
    """Expected time until the session's next request."""


class GapModel:
    """Learns how long sessions stay away, for each kind of request; the last gaps of each kind are remembered."""

    _KEPT = 128
    _LEAST = 4

    def __init__(self, *, default_seconds: float, max_seconds: float) -> None:
        self._default = default_seconds
        self._max = max_seconds
        self._sorted: dict[Hashable, list[float]] = {}
        self._recent: dict[Hashable, deque[float]] = {}

    def observe(self, kind: Hashable, seconds: float) -> None:
        """Learn that a session came back.

        Args:
            kind: What it had asked for, such as the role of its request.
            seconds: How long it was away.
        """
        ordered = self._sorted.setdefault(kind, [])
        recent = self._recent.setdefault(kind, deque())
        if len(recent) == self._KEPT:
            oldest = recent.popleft()
            del ordered[bisect_right(ordered, oldest) - 1]
        gap = min(max(0.0, seconds), self._max)
        recent.append(gap)
        insort(ordered, gap)

    def remaining(self, kind: Hashable, *, elapsed: float, hint: float | None = None) -> float:
        """Return the expected time until a session that has been away for `elapsed` seconds is back.

        Args:
            kind: What it had asked for.
            elapsed: Time since its last request ended.
            hint: Expected gap as its agent told it, if it did.
        """
        if hint is not None and elapsed <= 1.5 * hint + 1.0:
            return max(hint - elapsed, 0.1 * hint, 0.05)
        ordered = self._sorted.get(kind, [])
        if hint is None and len(ordered) >= self._LEAST:
            later = ordered[bisect_right(ordered, elapsed) :]
            if later:
                return later[len(later) // 2] - elapsed + 0.05
        if hint is None and elapsed < self._default:
            return self._default - elapsed + 0.05
        return max(elapsed, 0.05)  # overdue: the longer it has been away, the longer it will be


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
