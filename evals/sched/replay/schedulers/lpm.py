"""Longest prefix match: the request of which most is in the prefix cache first.

Source: SGLang, `--schedule-policy lpm` (`srt/managers/schedule_policy.py`): sorted by matched tokens; first come, first served
while more than 128 requests wait; of requests that match next to nothing but begin alike, one is admitted and the others go
last, so that they find its blocks. With aging: pull request sgl-project/sglang#31723, `--lpm-aging-tokens-per-pass N`, which
sorts by matched tokens plus N for each pass that a request has waited.

Simplified: what is admitted together with running requests, and which request is preempted, is vLLM's choice; as in SGLang, the
first request that does not fit blocks those behind it.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from agentinfer_lg.evals.sched.replay.schedulers.base import Clock, RivalScheduler

MOST_WAITING = 128
"""With more, the order is first come, first served."""
LEAST_MATCH = 32
"""A match of at most so many tokens is none."""


class LongestPrefixMatch(RivalScheduler):
    """Admits by matched tokens, with or without aging."""

    def __init__(
        self,
        clock: Clock,
        parts: dict[str, Any],  # Any: objects of vLLM
        *,
        aging_tokens_per_pass: int = 0,
    ) -> None:
        """Make the scheduler.

        Args:
            clock: Tells the time.
            parts: As vLLM gives them.
            aging_tokens_per_pass: What a pass of waiting counts, in matched tokens.
        """
        super().__init__(clock, parts)
        self._aging = aging_tokens_per_pass
        self._waited: dict[str, int] = {}

    @override
    def arrange(self, waiting: list[Any], now: float) -> tuple[list[Any], list[Any]]:
        if len(waiting) > MOST_WAITING:
            return sorted(
                waiting, key=lambda request: (not self.was_preempted(request), self.arrival_order(request))
            ), []
        last = self._alike(waiting)
        return sorted(waiting, key=lambda request: self._key(request, request.request_id in last)), []

    @override
    def after_schedule(self, admitted: int) -> None:
        if not admitted or not self._aging:
            return
        for request in self.waiting:
            self._waited[request.request_id] = self._waited.get(request.request_id, 0) + 1

    @override
    def finished(self, request: Any, now: float) -> None:
        self._waited.pop(request.request_id, None)

    def _key(self, request: Any, last: bool) -> tuple[bool, int, int]:
        score = self.hit_tokens(request) + self._aging * self._waited.get(request.request_id, 0)
        return last, -score, self.arrival_order(request)

    def _alike(self, waiting: list[Any]) -> set[str]:
        """Return the requests that match nothing and begin like an earlier one that matches nothing either."""
        seen: set[Any] = set()
        found: set[str] = set()
        for request in sorted(waiting, key=self.arrival_order):
            if self.hit_tokens(request) > LEAST_MATCH or not request.block_hashes:
                continue
            if request.block_hashes[0] in seen:
                found.add(request.request_id)
            seen.add(request.block_hashes[0])
        return found
