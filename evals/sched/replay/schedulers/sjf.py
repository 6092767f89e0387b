"""Shortest job first, by the tokens of the prompt or by those of them that are not in the prefix cache.

Source: the classic baseline of the AgentInfer paper (by prompt); ROCm/ATOM pull request 2158 (by uncached tokens, with
`--sjf-max-skip-steps`). As in the latter, two kinds of requests stand in front, in the order of their arrival: preempted ones,
and those that were passed over too often, which bounds how long a long prompt can starve. A request is passed over when another
one is admitted while it waits. As in vLLM, the first request that does not fit blocks those behind it.

Simplified: nothing.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import override

from agentinfer_lg.evals.sched.replay.schedulers.base import Clock, RivalScheduler


class ShortestJobFirst(RivalScheduler):
    """Admits the request with the least work first."""

    def __init__(
        self,
        clock: Clock,
        parts: dict[str, Any],  # Any: objects of vLLM
        *,
        by: Literal["prompt", "uncached"] = "prompt",
        max_skip_steps: int = 0,
    ) -> None:
        """Make the scheduler.

        Args:
            clock: Tells the time.
            parts: As vLLM gives them.
            by: What the length of a job is.
            max_skip_steps: How often a request may be passed over; 0: any number of times.
        """
        super().__init__(clock, parts)
        self._by = by
        self._max_skips = max_skip_steps
        self._skips: dict[str, int] = {}

    @override
    def arrange(self, waiting: list[Any], now: float) -> tuple[list[Any], list[Any]]:
        return sorted(waiting, key=self._key), []

    @override
    def after_schedule(self, admitted: int) -> None:
        if not admitted or not self._max_skips:
            return
        for request in self.waiting:
            self._skips[request.request_id] = self._skips.get(request.request_id, 0) + 1

    @override
    def finished(self, request: Any, now: float) -> None:
        self._skips.pop(request.request_id, None)

    def _key(self, request: Any) -> tuple[bool, int, int]:
        skipped = self._max_skips > 0 and self._skips.get(request.request_id, 0) >= self._max_skips
        first = skipped or self.was_preempted(request)
        return not first, 0 if first else self._length(request), self.arrival_order(request)

    def _length(self, request: Any) -> int:
        tokens = int(request.num_tokens)
        return tokens - self.hit_tokens(request) if self._by == "uncached" else tokens
