"""The shadow price of a KV cache block: how dear memory is, from 0 (free) to its maximum (contended)."""

from __future__ import annotations

import math
from dataclasses import dataclass

_INTERVAL = 0.25
"""Seconds between two updates of the controller; steps of the engine are no clock, they take 10 ms or 2 s."""
_MOST_UPDATES = 40
"""Updates made up for after a pause; then the state has settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """What the waiting requests ask of the cache, in blocks (Algorithm 3)."""

    free: int
    """N: blocks that no running request holds."""
    hit: int
    """H: distinct cached blocks that waiting requests would use. The paper sums over requests; a prefix shared by many would
    then count once for each, and the price would stick at its maximum."""
    need: int
    """D: new blocks that waiting requests need."""

    @property
    def capacity(self) -> int:
        """U: free blocks beyond those that will be used as they are."""
        return max(0, self.free - self.hit)

    @property
    def ratio(self) -> float:
        """z: demand over capacity."""
        return self.need / (self.capacity + 1e-6) if self.need else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSettings:
    """Settings of the price; the paper's letters stand beside them."""

    max_price: float = 4.0
    """lambda_max."""
    gain: float = 4.0
    """k: how sharply the price answers to pressure around 1."""
    proportional: float = 0.3
    """k_P of the smoother."""
    integral: float = 0.02
    """k_I of the smoother."""
    smoothing: float = 0.3
    """beta: weight of the present pressure in the running mean."""
    hysteresis: float = 0.05
    """Deviations below this share of `max_price` change nothing."""


def price_at(ratio: float, settings: PriceSettings) -> float:
    """Return the price that belongs to a steady pressure `ratio` (z)."""
    exponent = min(60.0, max(-60.0, -settings.gain * (ratio - 1.0)))
    return settings.max_price / (1.0 + math.exp(exponent))


class ShadowPrice:
    """Follows the pressure smoothly: a running mean, then a PI controller with a dead band and a bounded integral."""

    def __init__(self, settings: PriceSettings) -> None:
        self._settings = settings
        self.value = 0.0
        """The present price (lambda), from 0 to `max_price`."""
        self.target = 0.0
        """The price that belongs to the running mean of the pressure."""
        self._integral = 0.0
        self._updated: float | None = None

    @property
    def settings(self) -> PriceSettings:
        """May be replaced while running; the price is then no higher than its new maximum."""
        return self._settings

    @settings.setter
    def settings(self, settings: PriceSettings) -> None:
        self._settings = settings
        self.value = min(self.value, settings.max_price)
        self.target = min(self.target, settings.max_price)

    def update(self, pressure: Pressure, *, now: float) -> float:
        """Take in the present pressure and return the price.

        Args:
            pressure: What is asked of the cache.
            now: Monotonic time in seconds.
        """
        if self._updated is None:
            self._updated = now - _INTERVAL
        due = int((now - self._updated) / _INTERVAL)
        if due > 0:
            self._updated = now if due > _MOST_UPDATES else self._updated + due * _INTERVAL
            wanted = price_at(pressure.ratio, self.settings)
            for _ in range(min(due, _MOST_UPDATES)):
                self._advance(wanted)
        return self.value

    def _advance(self, wanted: float) -> None:
        settings = self.settings
        self.target += settings.smoothing * (wanted - self.target)
        error = self.target - self.value
        if abs(error) <= settings.hysteresis * settings.max_price:
            self._integral = 0.0
            return
        if error * self._integral < 0:
            self._integral = 0.0  # a change of direction starts anew: what was summed up would overshoot
        self._integral += error
        step = settings.proportional * error + settings.integral * self._integral
        step = math.copysign(min(abs(step), abs(error)), error)  # never beyond the target: no oscillation
        self.value = min(settings.max_price, max(0.0, self.value + step))
