"""Tunes the shadow price while serving, by what it should prevent: contexts computed again, and long waits."""

from __future__ import annotations

from dataclasses import replace

from agentinfer_lg.serving.sched.policy.price import PriceSettings

_SECONDS = 20.0
"""Time between two adjustments."""
_FACTOR = 1.25
"""Of one adjustment."""
_RANGE = 4.0
"""Largest factor between the settings and what they started from."""
_MANY_MISSES = 0.1
"""Share of returning prompts' known tokens that had to be computed again, from which on the cache is kept too little."""
_LONG_WAITS = 0.5
"""Mean wait as a share of the bound, from which on it is kept too much."""
_MANY_TURNS = 4
"""Changes of the price's direction between two adjustments, from which on it answers too sharply."""


class PriceTuner:
    """Multiplies `max_price` and `gain` up and down within a range; an operator may leave both alone then."""

    def __init__(self, settings: PriceSettings) -> None:
        """Start from `settings`."""
        self._start = settings
        self.settings = settings
        """The present settings."""
        self._adjusted: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._known = self._missed = 0
        self._waits = 0
        self._wait_share = 0.0
        self._turns = 0
        self._price = 0.0
        self._direction = 0.0

    def observe_start(self, *, known: int, hit: int, wait_share: float) -> None:
        """Note that a request was let in.

        Args:
            known: Tokens of its prompt that its session had in the cache before.
            hit: Those that were still there.
            wait_share: How long it waited, as a share of the bound.
        """
        self._known += known
        self._missed += max(0, known - hit)
        self._waits += 1
        self._wait_share += min(1.0, wait_share)

    def observe_price(self, price: float) -> None:
        """Note the present price."""
        change = price - self._price
        if change * self._direction < 0:
            self._turns += 1
        self._direction = change or self._direction
        self._price = price

    def adjust(self, *, now: float) -> PriceSettings:
        """Return the settings, adjusted if that is due.

        Args:
            now: Monotonic time in seconds.
        """
        if self._adjusted is None:
            self._adjusted = now
        if now - self._adjusted < _SECONDS or not self._waits:
            return self.settings
        self._adjusted = now
        price = self._factor_of_price()
        gain = 1.0 / _FACTOR if self._turns >= _MANY_TURNS else 1.0 if price == 1.0 else _FACTOR
        self.settings = replace(
            self.settings,
            max_price=_within(self.settings.max_price * price, self._start.max_price),
            gain=_within(self.settings.gain * gain, self._start.gain),
        )
        self._clear()
        return self.settings

    def _factor_of_price(self) -> float:
        missed = self._missed / self._known if self._known else 0.0
        waited = self._wait_share / self._waits
        if missed > _MANY_MISSES and waited <= _LONG_WAITS:
            return _FACTOR
        if waited > _LONG_WAITS and missed <= _MANY_MISSES:
            return 1.0 / _FACTOR
        return 1.0


def _within(value: float, start: float) -> float:
    return min(start * _RANGE, max(start / _RANGE, value))
