"""Nobody waits for ever: who has waited too long comes first, and so does the oldest where those behind it would be late."""

from __future__ import annotations

from collections.abc import Sequence

from agentinfer_lg.serving.sched.policy.admission import wait_bound
from agentinfer_lg.serving.sched.policy.request_info import RequestInfo

_SECONDS = 0.1
"""Time between two looks at how long requests have waited."""


class DueStarts:
    """Lets requests come first in time."""

    def __init__(self, *, max_wait_seconds: float, round_share: float) -> None:
        """Bound waits.

        Args:
            max_wait_seconds: The bound while the engine is not overloaded.
            round_share: Share of a round of all sessions that the bound grows to.
        """
        self._max_wait, self._round_share = max_wait_seconds, round_share
        self._next_look = 0.0
        self.bound = max_wait_seconds
        """Wait in seconds after which a request comes first at present."""
        self.forced = 0
        """Requests that came first because they had waited too long."""

    def is_due(self, now: float) -> bool:
        """Whether it is time to look again."""
        return now >= self._next_look

    def force(
        self,
        waiting: Sequence[RequestInfo],
        *,
        now: float,
        context_tokens: int,
        cache_tokens: int,
        block_size: int,
        tokens_per_second: float,
    ) -> None:
        """Let the oldest request come first as soon as it, or one behind it, would otherwise start too late.

        Args:
            waiting: Requests that wait.
            now: Monotonic time in seconds.
            context_tokens: Tokens of all contexts that are here or expected back.
            cache_tokens: Tokens that the cache holds.
            block_size: Tokens per block.
            tokens_per_second: Speed of prefill; 0 while it is unknown.
        """
        self.bound = wait_bound(
            max_wait_seconds=self._max_wait,
            round_share=self._round_share,
            context_tokens=context_tokens,
            cache_tokens=cache_tokens,
            tokens_per_second=tokens_per_second,
        )
        self._next_look = now + min(_SECONDS, 0.01 * self.bound)
        seconds_per_block = block_size / tokens_per_second if tokens_per_second else 0.0
        start = now
        oldest: RequestInfo | None = None
        for info in sorted(waiting, key=lambda info: info.arrival):
            latest = info.arrival + self.bound
            if not info.must:
                oldest = oldest or info
                if start >= latest and not oldest.must:
                    self._force(oldest)
                if now >= latest and not info.must:
                    self._force(info)
            start += info.need_blocks * seconds_per_block

    def _force(self, info: RequestInfo) -> None:
        info.must = True
        self.forced += 1
