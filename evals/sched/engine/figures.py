"""Prediction and measurement side by side: rows per scheduler, and how schedulers compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from agentinfer_lg.evals.sched.engine.run import Policy, Round
from agentinfer_lg.evals.sched.replay.figures import Measured, completion_ratio

FIGURES: Mapping[str, str] = {
    "hit_rate": "hit rate",
    "hit_rate_sessions": "hit rate of sessions",
    "mean_completion_s": "mean completion s",
    "p99_completion_s": "p99 completion s",
    "mean_ttft_s": "mean TTFT s",
    "p99_ttft_s": "p99 TTFT s",
    "max_ttft_s": "max TTFT s",
    "preemptions": "preemptions",
    "recomputed_tokens": "recomputed tokens",
    "replay_s": "whole run s",
}
"""Figures that are compared, and what people call them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One figure of one scheduler; medians over rounds."""

    policy: Policy
    figure: str
    predicted: float
    measured: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A scheduler against the first one, on the same sessions; medians over rounds."""

    policy: Policy
    completion_predicted: float
    """Ratio of the mean completion times."""
    completion_measured: float | None
    hit_points_predicted: float
    """Difference of the hit rates, in points."""
    hit_points_measured: float | None
    rounds: tuple[tuple[float, float | None], ...]
    """Predicted and measured ratio of the mean completion times, round by round."""


def side_by_side(rounds: Sequence[Round]) -> list[Side]:
    """Return every figure of every scheduler, predicted and measured."""
    return [
        Side(
            policy=policy,
            figure=figure,
            predicted=median(_figure(each.predicted, figure) for each in own),
            measured=median(done) if (done := [_figure(m, figure) for m in _measured(own)]) else None,
        )
        for policy, own in _by_policy(rounds).items()
        for figure in FIGURES
    ]


def compare(rounds: Sequence[Round]) -> list[Comparison]:
    """Compare each scheduler with the first one."""
    first, *others = _by_policy(rounds).items()
    return [_comparison(policy, own, first[1]) for policy, own in others]


def _comparison(policy: Policy, own: Sequence[Round], base: Sequence[Round]) -> Comparison:
    pairs = [(mine, theirs) for mine in own for theirs in base if mine.number == theirs.number]
    predicted = [completion_ratio(mine.predicted, theirs.predicted).value for mine, theirs in pairs]
    both = [(mine.measured, theirs.measured) for mine, theirs in pairs]
    measured = [completion_ratio(mine, theirs).value if mine and theirs else None for mine, theirs in both]
    done = [ratio for ratio in measured if ratio is not None]
    points = [_points(mine, theirs) for mine, theirs in both if mine and theirs]
    return Comparison(
        policy=policy,
        completion_predicted=median(predicted),
        completion_measured=median(done) if done else None,
        hit_points_predicted=median(_points(mine.predicted, theirs.predicted) for mine, theirs in pairs),
        hit_points_measured=median(points) if points else None,
        rounds=tuple(zip(predicted, measured, strict=True)),
    )


def _points(mine: Measured, theirs: Measured) -> float:
    return 100 * (_figure(mine, "hit_rate") - _figure(theirs, "hit_rate"))


def _figure(measured: Measured, name: str) -> float:
    return float(measured.row()[name] or 0.0)


def _measured(rounds: Sequence[Round]) -> list[Measured]:
    return [each.measured for each in rounds if each.measured is not None]


def _by_policy(rounds: Sequence[Round]) -> dict[Policy, list[Round]]:
    found: dict[Policy, list[Round]] = {}
    for each in rounds:
        found.setdefault(each.policy, []).append(each)
    return found
