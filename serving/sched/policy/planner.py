"""The planner of AgentSched: which waiting request comes first, which is held back, and which context is kept.

It knows requests by what the scheduler knows of them, running prompts by the tokens that they still need, and the cache
through a Protocol. It changes the order of eviction in the cache and nothing else; the scheduler does what it decides. All
times are in seconds of one monotonic clock. Source: AgentInfer, Algorithm 3; retention, admission and the bound on waits are
ours (docs/agentsched.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.policy.admission import admit
from agentinfer_lg.serving.sched.policy.cache_hits import CacheHits
from agentinfer_lg.serving.sched.policy.cached_context import CachedContext, PrefixCache
from agentinfer_lg.serving.sched.policy.context_retention import ContextRetention
from agentinfer_lg.serving.sched.policy.due_starts import DueStarts
from agentinfer_lg.serving.sched.policy.price import Pressure, PriceSettings, ShadowPrice
from agentinfer_lg.serving.sched.policy.request_info import Request, RequestInfo
from agentinfer_lg.serving.sched.policy.retention import GapModel, RetentionSettings
from agentinfer_lg.serving.sched.policy.score import ScoreWeights, request_score
from agentinfer_lg.serving.sched.policy.sessions import SessionTable
from agentinfer_lg.serving.sched.policy.speed import PrefillSpeed
from agentinfer_lg.serving.sched.policy.tuner import PriceTuner

_PRICE_STEP = 0.02
"""Change of the price, as a share of the largest, from which on scores are computed again."""


class Planner:
    """Plans the steps of one engine."""

    def __init__(self, config: SchedConfig, cache: PrefixCache) -> None:
        """Plan for an engine.

        Args:
            config: Settings of AgentSched.
            cache: Its prefix cache.
        """
        self._config, self._cache = config, cache
        self._weights = ScoreWeights(hit=config.hit_weight, need=config.need_weight, wait=config.wait_weight)
        self._price = ShadowPrice(_price_settings(config))
        self._tuner = PriceTuner(self._price.settings) if config.tuning == "adaptive" else None
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
        self._hits = CacheHits(cache)
        self._due = DueStarts(max_wait_seconds=config.max_wait_seconds, round_share=config.round_share)
        self.speed = PrefillSpeed()
        self._pressure = Pressure(free=0, hit=0, need=0)
        self._next_plan = 0.0
        self._scored_price = math.nan
        self._longest_wait = 0.0
        self._holds = 0
        self.held: set[str] = set()
        """Ids of the requests that should not start now."""
        self.coming = 0
        """Blocks that running prompts still need."""

    @property
    def price_share(self) -> float:
        """The shadow price, as a share of its maximum."""
        return self._price.value / self._price.settings.max_price

    def stats(self) -> dict[str, float]:
        """Return present values and counters, by the names of `vllm.series.TABLE`."""
        pressure = self._pressure
        return {
            "lambda": self._price.value,
            "pressure": pressure.ratio,
            "demand_blocks": pressure.need,
            "capacity_blocks": pressure.capacity,
            "hit_blocks": pressure.hit,
            "free_blocks": self._cache.free,
            "retained_blocks": self.retention.kept_blocks,
            "pinned_blocks": self.retention.pinned_blocks,
            "refreshes": self.retention.refreshes,
            "demotions": self.retention.demotions,
            "held": len(self.held),
            "holds": self._holds,
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
        self._pressure = Pressure(free=self._cache.free, hit=0, need=0)
        self._price.update(self._pressure, now=now)

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
        self._hits.look(waiting)
        self._update_price(waiting, now)
        if self._due.is_due(now):
            self._force_due(waiting, now)
        ordered = sorted(waiting, key=_by_arrival if self._config.order == "fcfs" else _by_score)
        self.held = self._held_back(ordered, running) if self._config.admission else set()
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
            self._count_coming(running)
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
        if self._tuner is not None:
            known = info.session.tokens if info.session and info.session.ended else 0
            known = min(known, info.request.num_tokens - 1)
            self._tuner.observe_start(known=known, hit=hit_tokens, wait_share=wait / self._due.bound)

    def preempted(self, info: RequestInfo) -> None:
        """Let a request that lost its blocks come first afterwards."""
        info.must, info.looked = True, -1
        self._next_plan = 0.0

    def gone(self, request_id: str) -> None:
        """Forget a request that ends."""
        self._hits.changed()
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

    def _update_price(self, waiting: Sequence[RequestInfo], now: float) -> None:
        """Bring the price up to date, and the scores that depend on it."""
        free = self._cache.free
        need = sum(info.need_blocks for info in waiting)
        self._pressure = Pressure(free=free, hit=min(free, self._hits.distinct(waiting)), need=need)
        price = self._price.update(self._pressure, now=now)
        if self._tuner is not None:
            self._tuner.observe_price(price)
            self._price.settings = self._tuner.adjust(now=now)
        largest = self._price.settings.max_price
        changed = not abs(price - self._scored_price) <= _PRICE_STEP * largest
        if changed:
            self._scored_price = price
        for info in waiting:
            if changed or info.score != info.score:
                info.score = self._score(info, largest)

    def _score(self, info: RequestInfo, max_price: float) -> float:
        return request_score(
            hit_blocks=info.hit_blocks,
            need_blocks=info.need_blocks,
            prompt_blocks=info.total_blocks,
            wait_seconds=-info.arrival,  # all waits grow alike: the order depends on arrivals only
            price=self._scored_price,
            max_price=max_price,
            weights=self._weights,
        )

    def _held_back(self, ordered: Sequence[RequestInfo], running: Sequence[int]) -> set[str]:
        """Return the ids of the requests that should not start now."""
        idle = not running
        long_running = self._count_coming(running)
        if self.retention.pinned_blocks and (idle or ordered[0].must):
            self.retention.unpin_for(self.coming + ordered[0].total_blocks + 1)
        free = self._cache.free - self.coming
        decisions = admit(
            ordered,
            free_blocks=free,
            spare_blocks=free - self.retention.kept_blocks - self._pressure.hit,
            long_blocks=max(1, int(self._config.long_prefill_tokens) // self._cache.block_size),
            long_running=long_running,
            idle=idle,
        )
        held = {info.request.request_id for info, may in zip(ordered, decisions, strict=True) if not may}
        self._holds += len(held - self.held)
        return held

    def _count_coming(self, running: Sequence[int]) -> bool:
        """Count the blocks that running prompts still need; return whether one of them is long."""
        self.coming, long_running = 0, False
        for left in running:
            if left > 1:
                self.coming += -(-left // self._cache.block_size)
                long_running = long_running or left > self._config.long_prefill_tokens
        return long_running


def _by_score(info: RequestInfo) -> tuple[bool, float]:
    return (not info.must, info.arrival if info.must else -info.score)


def _by_arrival(info: RequestInfo) -> tuple[bool, float]:
    return (not info.must, info.arrival)


def _price_settings(config: SchedConfig) -> PriceSettings:
    return PriceSettings(
        max_price=config.lambda_max,
        gain=config.gain,
        proportional=config.proportional,
        integral=config.integral,
        smoothing=config.smoothing,
        hysteresis=config.hysteresis,
    )
