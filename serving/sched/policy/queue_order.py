"""The order of the waiting requests: by their score, which the shadow price decides together with what is cached.

Source: AgentInfer, Algorithm 3. All times are in seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.policy.cache_hits import CacheHits
from agentinfer_lg.serving.sched.policy.cached_context import PrefixCache
from agentinfer_lg.serving.sched.policy.price import Pressure, PriceSettings, ShadowPrice
from agentinfer_lg.serving.sched.policy.request_info import RequestInfo
from agentinfer_lg.serving.sched.policy.score import ScoreWeights, request_score
from agentinfer_lg.serving.sched.policy.tuner import PriceTuner

_PRICE_STEP = 0.02
"""Change of the price, as a share of the largest, from which on scores are computed again."""


class QueueOrder:
    """Scores waiting requests, and follows the price that their scores depend on."""

    def __init__(self, config: SchedConfig, cache: PrefixCache) -> None:
        """Order requests for an engine.

        Args:
            config: Settings of AgentSched.
            cache: Its prefix cache.
        """
        self._cache = cache
        self._key = _by_arrival if config.order == "fcfs" else _by_score
        self._weights = ScoreWeights(hit=config.hit_weight, need=config.need_weight, wait=config.wait_weight)
        self._price = ShadowPrice(_price_settings(config))
        self._tuner = PriceTuner(self._price.settings) if config.tuning == "adaptive" else None
        self._scored_price = math.nan
        self.hits = CacheHits(cache)
        """What the cache holds of the waiting prompts."""
        self.pressure = Pressure(free=0, hit=0, need=0)
        """What waiting requests ask of the cache at present."""

    @property
    def price(self) -> float:
        """The shadow price of a block."""
        return self._price.value

    @property
    def price_share(self) -> float:
        """The shadow price, as a share of its maximum."""
        return self._price.value / self._price.settings.max_price

    def rest(self, *, now: float) -> None:
        """Note that nobody waits."""
        self.pressure = Pressure(free=self._cache.free, hit=0, need=0)
        self._price.update(self.pressure, now=now)

    def rate(self, waiting: Sequence[RequestInfo], *, now: float) -> None:
        """Bring the price up to date, and the scores of waiting requests that depend on it.

        Args:
            waiting: At least one.
            now: The time.
        """
        self.hits.look(waiting)
        price = self._follow(waiting, now)
        largest = self._price.settings.max_price
        changed = not abs(price - self._scored_price) <= _PRICE_STEP * largest
        if changed:
            self._scored_price = price
        for info in waiting:
            if changed or info.score != info.score:
                info.score = self._score(info, largest)

    def ordered(self, waiting: Sequence[RequestInfo]) -> list[RequestInfo]:
        """Return rated requests, the first one to start first; those that must come first stand before all others."""
        return sorted(waiting, key=self._key)

    def started(self, info: RequestInfo, *, hit_tokens: int, wait_share: float) -> None:
        """Learn from a request that was let in.

        Args:
            info: The request.
            hit_tokens: Tokens of its prompt that were cached.
            wait_share: How long it waited, as a share of the bound.
        """
        if self._tuner is not None:
            known = info.session.tokens if info.session and info.session.ended else 0
            known = min(known, info.request.num_tokens - 1)
            self._tuner.observe_start(known=known, hit=hit_tokens, wait_share=wait_share)

    def _follow(self, waiting: Sequence[RequestInfo], now: float) -> float:
        """Measure the pressure, and return the price."""
        free = self._cache.free
        need = sum(info.need_blocks for info in waiting)
        self.pressure = Pressure(free=free, hit=min(free, self.hits.distinct(waiting)), need=need)
        price = self._price.update(self.pressure, now=now)
        if self._tuner is not None:
            self._tuner.observe_price(price)
            self._price.settings = self._tuner.adjust(now=now)
        return price

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
