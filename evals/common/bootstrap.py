"""The one bootstrap of all studies: 95% percentile intervals over independent items.

An item is what is drawn again: a question, a session, or a group of sessions on one task. What belongs to one item is alike, so
it is drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 5000
"""Bootstrap samples of every interval."""

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]
"""From sums over items, of shape [..., columns], to the figure, of shape [...]."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95% percentile interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Write it as `value (low to high)`, each by `spec`."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def bootstrap(
    items: FloatArray, statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return a figure of items with its interval.

    Args:
        items: One row per item, of shape [items, columns].
        statistic: Makes the figure of the sums of the columns; what is not finite is left out of the interval.
        resamples: Number of bootstrap samples.
        seed: Of the random numbers.

    Raises:
        ValueError: There are no items.
    """
    if not len(items):
        msg = "an interval needs at least one item"
        raise ValueError(msg)
    draws = np.random.default_rng(seed).integers(0, len(items), size=(resamples, len(items)))
    drawn = statistic(items[draws].sum(axis=1))
    low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
    return Interval(float(statistic(items.sum(axis=0))), float(low), float(high))


def paired_difference(
    ours: Sequence[float], other: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of `ours - other`; items are drawn with both of their values.

    Args:
        ours: One value per item.
        other: The other condition's value of the same items, in the same order.
        resamples: Number of bootstrap samples.
        seed: Of the random numbers.

    Raises:
        ValueError: The lengths differ, or there are no items.
    """
    both = _both(ours, other)
    return bootstrap(
        both, lambda sums: (sums[..., 0] - sums[..., 1]) / len(both), resamples=resamples, seed=seed
    )


def paired_ratio(
    ours: Sequence[float], other: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the sum of `ours` over the sum of `other`; items are drawn with both of their values.

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
    return bootstrap(both, quotient, resamples=resamples, seed=seed)


def quotient(sums: FloatArray) -> FloatArray:
    """Return the first column over the second; nan where the second is not above 0."""
    above = sums[..., 1] > 0
    return np.asarray(np.where(above, sums[..., 0], np.nan) / np.where(above, sums[..., 1], 1.0))


def summed(values: Iterable[tuple[Hashable, Sequence[float]]]) -> FloatArray:
    """Return the sums of rows that belong to one item, in the order in which items first occur.

    Args:
        values: The item of each row, and the row.
    """
    sums: dict[Hashable, FloatArray] = {}
    for item, row in values:
        array = np.asarray(row, dtype=np.float64)
        sums[item] = sums[item] + array if item in sums else array
    return np.stack(list(sums.values())) if sums else np.empty((0, 0))


def _both(ours: Sequence[float], other: Sequence[float]) -> FloatArray:
    if len(ours) != len(other) or not len(ours):
        msg = f"two conditions are compared on the same items: {len(ours)} against {len(other)}"
        raise ValueError(msg)
    return np.column_stack([np.asarray(ours, dtype=np.float64), np.asarray(other, dtype=np.float64)])
