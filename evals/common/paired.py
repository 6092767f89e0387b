"""Two conditions on the same items: differences and ratios with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95% percentile interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Write it as `value (low to high)`, each by `spec`."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def paired_difference(
    ours: Sequence[float], other: Sequence[float], *, resamples: int = 5000, seed: int = 0
) -> Interval:
    """Return the mean of `ours - other`; items are resampled, each with both of its values.

    Args:
        ours: One value per item.
        other: The other condition's value of the same items, in the same order.
        resamples: Number of bootstrap samples.
        seed: Of the random numbers.

    Raises:
        ValueError: The lengths differ, or there are no items.
    """
    both = _both(ours, other)
    means = both[:, 0] - both[:, 1]
    drawn = means[_draws(len(both), resamples, seed)].mean(axis=1)
    return _interval(float(means.mean()), drawn)


def paired_ratio(
    ours: Sequence[float], other: Sequence[float], *, resamples: int = 5000, seed: int = 0
) -> Interval:
    """Return the sum of `ours` over the sum of `other`; items are resampled, each with both of its values.

    Args:
        ours: One value per item.
        other: The other condition's value of the same items, in the same order.
        resamples: Number of bootstrap samples.
        seed: Of the random numbers.

    Raises:
        ValueError: The lengths differ, or `other` sums to 0.
    """
    both = _both(ours, other)
    if both[:, 1].sum() <= 0:
        msg = "a ratio needs a denominator above 0"
        raise ValueError(msg)
    sums = both[_draws(len(both), resamples, seed)].sum(axis=1)
    kept = sums[sums[:, 1] > 0]
    return _interval(float(both[:, 0].sum() / both[:, 1].sum()), kept[:, 0] / kept[:, 1])


def _both(ours: Sequence[float], other: Sequence[float]) -> np.ndarray:
    if len(ours) != len(other) or not len(ours):
        msg = f"two conditions are compared on the same items: {len(ours)} against {len(other)}"
        raise ValueError(msg)
    return np.column_stack([np.asarray(ours, dtype=np.float64), np.asarray(other, dtype=np.float64)])


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, size=(resamples, count))


def _interval(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))
