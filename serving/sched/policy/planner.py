"""The planner of AgentSched: which waiting request comes first, which is held back, and which context is kept.

It knows requests by what the scheduler knows of them, running prompts by the tokens that they still need, and the cache
through a Protocol. It changes the order of eviction in the cache and nothing else; the scheduler does what it decides. All
times are in seconds of one monotonic clock. Source: AgentInfer, Algorithm 3; retention, admission and the bound on waits are
ours (docs/agentsched.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.policy.cached_context import CachedContext, PrefixCache
from agentinfer_lg.serving.sched.policy.context_retention import ContextRetention
from agentinfer_lg.serving.sched.policy.due_starts import DueStarts
from agentinfer_lg.serving.sched.policy.held_requests import HeldRequests
from agentinfer_lg.serving.sched.policy.queue_order import QueueOrder
from agentinfer_lg.serving.sched.policy.request_info import Request, RequestInfo
from agentinfer_lg.serving.sched.policy.retention import GapModel, RetentionSettings
from agentinfer_lg.serving.sched.policy.sessions import SessionTable
from agentinfer_lg.serving.sched.policy.speed import PrefillSpeed


class Planner:
    """Plans the steps of one engine."""

    def __init__(self, config: SchedConfig, cache: PrefixCache) -> None:
        """Plan for an engine.

        Args:
            config: Settings of AgentSched.
            cache: Its prefix cache.
        """
        self._config, self._cache = config, cache
        gaps = GapModel(default_seconds=config.default_gap_seconds, max_seconds=config.max_gap_seconds)
        self._sessions = SessionTable(gaps, max_gap_seconds=config.max_gap_seconds)
        self.retention = ContextRetention(
            cache,
            self._sessions,
            gaps,
            RetentionSettings(horizon_seconds=config.keep_seconds),
            reserve_share=config.reserve_share,
            pin_share=config.hard_pin_share if config.retention == "hard" else 0.0,
        )
        self.retains = config.retention != "off" and cache.simple
        """Whether contexts are kept."""
        self._order = QueueOrder(config, cache)
        self._due = DueStarts(max_wait_seconds=config.max_wait_seconds, round_share=config.round_share)
        self.speed = PrefillSpeed()
        self._next_plan = 0.0
        self._longest_wait = 0.0
        self._held = HeldRequests(cache, self.retention, long_tokens=config.long_prefill_tokens)

    @property
    def held(self) -> set[str]:
        """Ids of the requests that should not start now."""
        return self._held.ids

    @property
    def coming(self) -> int:
        """Blocks that running prompts still need."""
        return self._held.coming

    @property
    def price_share(self) -> float:
        """The shadow price, as a share of its maximum."""
        return self._order.price_share

    def stats(self) -> dict[str, float]:
        """Return present values and counters, by the names of `vllm.series.TABLE`."""
        pressure = self._order.pressure
        return {
            "lambda": self._order.price,
            "pressure": pressure.ratio,
            "demand_blocks": pressure.need,
            "capacity_blocks": pressure.capacity,
            "hit_blocks": pressure.hit,
            "free_blocks": self._cache.free,
            "retained_blocks": self.retention.kept.blocks,
            "pinned_blocks": self.retention.pinned.blocks,
            "refreshes": self.retention.refreshes,
            "demotions": self.retention.demotions,
            "held": len(self.held),
            "holds": self._held.count,
            "forced_admissions": self._due.forced,
            "max_wait_seconds": self._longest_wait,
            "wait_bound_seconds": self._due.bound,
            "known_sessions": len(self._sessions),
        }

    def arrive(self, request: Request, hints: SessionHints, *, now: float) -> RequestInfo:
        """Take in a request, and return what is known of it.

        Args:
            request: The request.
            hints: What its agent tells.
            now: The time.
        """
        session = self._sessions.begin(hints, request.block_hashes, tokens=request.num_tokens, now=now)
        if session is not None:
            self.retention.changed(session, price=self.price_share, now=now)
        self._next_plan = 0.0
        return RequestInfo(request, hints, session, now)

    def value_contexts(self, *, now: float) -> None:
        """Decide anew which idle contexts are kept, if that is due."""
        if self.retains:
            self.retention.value_all(price=self.price_share, now=now)

    def rest(self, *, now: float) -> None:
        """Note that nobody waits."""
        self.held.clear()
        self._order.rest(now=now)

    def is_due(self, *, now: float, idle: bool) -> bool:
        """Whether the queue is to be put in order in this step; with many waiting requests not every step is planned."""
        return idle or now >= self._next_plan

    def order(
        self, waiting: Sequence[RequestInfo], running: Sequence[int], *, now: float
    ) -> list[RequestInfo]:
        """Return waiting requests, the first one to start first, and decide which are held back.

        Args:
            waiting: At least one.
            running: For each running request the tokens of its text that are not in the cache yet.
            now: The time.
        """
        began = time.perf_counter()
        self._order.rate(waiting, now=now)
        if self._due.is_due(now):
            self._force_due(waiting, now)
        ordered = self._order.ordered(waiting)
        if self._config.admission:
            self._held.decide(ordered, running, hit_blocks=self._order.pressure.hit)
        if self._config.overhead_share:
            self._next_plan = now + (time.perf_counter() - began) / self._config.overhead_share
        return ordered

    def protect(self, first: Iterable[RequestInfo], running: Sequence[int]) -> None:
        """Move kept contexts out of the way of the blocks that are about to be taken.

        All blocks of prompts that run or are about to start count, not only those of the next step: then one context gives way
        as a whole, not several in part.

        Args:
            first: Waiting requests that are about to start.
            running: As in `order`.
        """
        if self.retains:
            self._held.count_coming(running)
            starting = sum(info.need_blocks for info in first)
            self.retention.protect(self.coming + starting + len(running))

    def started(self, info: RequestInfo, *, hit_tokens: int, now: float) -> None:
        """Learn from a request that was let in.

        Args:
            info: The request.
            hit_tokens: Tokens of its prompt that were cached.
            now: The time.
        """
        wait = now - info.arrival
        self._longest_wait = max(self._longest_wait, wait)
        self._order.started(info, hit_tokens=hit_tokens, wait_share=wait / self._due.bound)

    def preempted(self, info: RequestInfo) -> None:
        """Let a request that lost its blocks come first afterwards."""
        info.must, info.looked = True, -1
        self._next_plan = 0.0

    def gone(self, request_id: str) -> None:
        """Forget a request that ends."""
        self._order.hits.changed()
        self.held.discard(request_id)

    def left(self, info: RequestInfo, context: CachedContext, *, now: float) -> int:
        """Take over what a request left in the cache; return the blocks that it gave up of its session's old context.

        Args:
            info: The request, which has ended.
            context: What it left.
            now: The time.
        """
        session, given_up = info.session, 0
        dead = context if info.hints.final else CachedContext()
        if session is not None:
            hashes, tokens = info.request.block_hashes, info.request.num_tokens
            dead = self._sessions.end(session, info.hints, context, hashes, tokens=tokens, now=now)
        if self.retains:
            given_up = self.retention.give_up(dead)
            if session is not None:
                self.retention.pin(session, price=self.price_share, now=now)
                self.retention.changed(session, price=self.price_share, now=now)
        self._next_plan = 0.0
        return given_up if info.hints.supersedes else 0

    def _force_due(self, waiting: Sequence[RequestInfo], now: float) -> None:
        self._due.force(
            waiting,
            now=now,
            context_tokens=self._sessions.tokens(now=now),
            cache_tokens=self._cache.total * self._cache.block_size,
            block_size=self._cache.block_size,
            tokens_per_second=self.speed.tokens_per_second,
        )
