"""What a drafted token must promise: the threshold of a draft, from the measured cost of verifying it.

Verifying one more token for each request of a batch makes the engine's step longer by a share c of it. With E tokens
emitted and D drafted per request and step, the engine emits at a rate of E / (1 + c D); one more drafted token pays if
the chance that it is reached and accepted is above c times that rate. Where verification is cheap (a small batch on an
accelerator) drafts are long; where it costs as much as decoding does (a large batch, a CPU) they fade out. The paper
switches speculation off beyond a fixed batch and context instead.

c is measured while serving: step times, by size of the batch, are fitted to drafted tokens and context lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

_FIRST_COST: Final = 0.03
"""Share of a step that verifying one token costs, for one request, before anything was measured."""
_LEAST_COST: Final = 0.001
_MOST_COST: Final = 4.0
_ENOUGH: Final = 32
"""Steps after which a batch size is believed."""
_FADE: Final = 0.998
_PRIOR: Final = 100.0
"""Weight of the assumed cost, in squared drafted tokens."""
_OUTLIER: Final = 3.0
"""A step that took that many times longer than usual did something else too."""
_REFIT: Final = 16
_FEATURES: Final = 4


class VerificationCost:
    """Marginal cost of verification, by batch size and context."""

    def __init__(self, fixed: float | None = None) -> None:
        """Start without measurements.

        Args:
            fixed: Always this cost, whatever is observed.
        """
        self._fixed = fixed
        self._fits: dict[int, _Fit] = {}

    def observe(self, *, seconds: float, requests: int, drafted: int, context: int) -> None:
        """Note one step that did nothing but decode.

        Args:
            seconds: Its time.
            requests: Size of the batch.
            drafted: Drafted tokens that it verified, in all.
            context: Tokens of context, in all.
        """
        if self._fixed is None and requests > 0 and seconds > 0:
            self._fits.setdefault(_size_class(requests), _Fit()).add(seconds, requests, drafted, context)

    def marginal(self, *, requests: int, context: int) -> float:
        """Return c: what verifying one more token of each request adds to a step, as a share of the step.

        Args:
            requests: Size of the batch.
            context: Tokens of context, in all.
        """
        if self._fixed is not None:
            return self._fixed
        size = _size_class(max(requests, 1))
        for known in sorted(self._fits, key=lambda other: (abs(other - size), other)):
            fit = self._fits[known]
            if fit.steps >= _ENOUGH:
                # The cost of a step that computes more is at worst in proportion to the batch.
                return _clip(fit.cost_per_token(context / max(requests, 1)) * requests)
        return _clip(_FIRST_COST * requests)

    def due_for_trial(self, *, requests: int) -> bool:
        """Return whether drafts should be made although they do not seem to pay: now and then, ever more seldom.

        Without a trial, a cost that was once overrated would never be measured again.
        """
        if self._fixed is not None:
            return False
        fit = self._fits.setdefault(_size_class(max(requests, 1)), _Fit())
        fit.asked += 1
        return fit.asked % 4096 == 0 or (fit.asked >= 8 and fit.asked & (fit.asked - 1) == 0)

    def measured(self) -> dict[int, float]:
        """Return c for each batch size (power of two) that is known well, without the part of the context."""
        fits = tuple(self._fits.items())  # asked by the thread of the metrics while steps go on
        known = {size: fit for size, fit in fits if fit.steps >= _ENOUGH}
        return {
            1 << size: _clip(fit.cost_per_token(fit.context) * (1 << size))
            for size, fit in sorted(known.items())
        }


@dataclass(slots=True)
class _Fit:
    """Least squares of step time over (1, drafted, context, drafted x context per request), contexts in thousands."""

    steps: int = 0
    asked: int = 0
    seconds: float = 0.0
    """Usual time of a step."""
    context: float = 0.0
    """Usual context of a request."""
    squares: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((_FEATURES, _FEATURES)))
    products: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(_FEATURES))
    weights: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(_FEATURES))
    requests: float = 1.0

    def add(self, seconds: float, requests: int, drafted: int, context: int) -> None:
        if self.steps >= _ENOUGH and seconds > _OUTLIER * self.seconds:
            return
        share = max(0.02, 1 / (self.steps + 1))
        self.seconds += share * (seconds - self.seconds)
        self.context += share * (context / requests - self.context)
        self.requests += share * (requests - self.requests)
        features = np.array([1.0, drafted, context / 1000, drafted * context / requests / 1000])
        self.squares *= _FADE
        self.products *= _FADE
        self.squares += np.outer(features, features)
        self.products += features * seconds
        self.steps += 1
        if self.steps == _ENOUGH or self.steps % _REFIT == 0:
            self._solve()

    def _solve(self) -> None:
        ridge = np.diag([1e-6, _PRIOR, 1e-3, _PRIOR])
        assumed = np.array([0.0, _FIRST_COST * self.seconds, 0.0, 0.0])
        self.weights = np.linalg.solve(self.squares + ridge, self.products + ridge @ assumed)

    def cost_per_token(self, context: float) -> float:
        """Return the share of a step that one more drafted token costs, at `context` tokens per request."""
        thousands = context / 1000
        base = self.weights[0] + self.weights[2] * thousands * self.requests
        more = self.weights[1] + self.weights[3] * thousands
        return float(more / base) if base > 0.2 * self.seconds else float(more / max(self.seconds, 1e-9))


class DraftRate:
    """Tokens emitted and drafted per request and step, of late."""

    def __init__(self) -> None:
        self._steps, self._emitted, self._drafted = 20.0, 40.0, 60.0

    def note(self, *, steps: int, emitted: int, drafted: int) -> None:
        """Add the outcome of `steps` drafts."""
        fade = 0.999**steps
        self._steps = self._steps * fade + steps
        self._emitted = self._emitted * fade + emitted
        self._drafted = self._drafted * fade + drafted

    def threshold(self, cost: float) -> float:
        """Return the least chance of acceptance at which a token is worth `cost`."""
        emitted, drafted = self._emitted / self._steps, self._drafted / self._steps
        return cost * emitted / (1 + cost * drafted)


def _size_class(requests: int) -> int:
    """Return n for batches of up to 2**n requests."""
    return (requests - 1).bit_length()


def _clip(cost: float) -> float:
    return min(max(cost, _LEAST_COST), _MOST_COST)
