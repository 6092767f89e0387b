"""What the granularity benchmark tells: accuracy per policy, and paired differences with intervals over sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from agentinfer_lg.evals.common.bootstrap import Interval, bootstrap, quotient, summed
from agentinfer_lg.evals.compression.granularity.run import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One policy on one set of tasks; shares are between 0 and 1."""

    set: str
    policy: str
    tasks: int
    sessions: int
    accuracy: float
    accuracy_low: float
    """95% bootstrap interval."""
    accuracy_high: float
    in_notes: float
    """Share of the details that the notes contain."""
    shown: float
    """Share that the model sees somewhere before it recalls."""
    recalls: float
    """Per task."""
    recalled_right: float
    """Share of the tasks in which a recall brought the detail back."""
    prompt_tokens: float
    """Mean of the call that answers."""
    step_tokens: float
    """Mean prompt tokens of the steps that could recall."""
    output_tokens: float
    removed: float
    """Lines removed per session, mean."""
    failures: int
    """Sessions whose notes were made without a model, or a part of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A policy against another on the same tasks, in points of accuracy."""

    set: str
    policy: str
    other: str
    tasks: int
    points: float
    low: float
    """95% bootstrap interval."""
    high: float
    won: int
    """Tasks that only `policy` got right."""
    lost: int
    """Tasks that only `other` got right."""


def figures(rows: Sequence[Row]) -> list[Figures]:
    """Return the figures by set and policy, and those of all sets together where there are several."""
    found = []
    for name, part in _sets(rows).items():
        for policy in dict.fromkeys(row.policy for row in part):
            own = [row for row in part if row.policy == policy]
            found.append(_figures(name, policy, own))
    return found


def difference(rows: Sequence[Row], policy: str, other: str) -> list[Difference]:
    """Return the paired differences of two policies by set; nothing where they have no task in common."""
    found = []
    for name, part in _sets(rows).items():
        by_task = {row.key: row.right for row in part}
        pairs = [
            (row.session, float(row.right) - by_task[row.session, row.probe, other])
            for row in part
            if row.policy == policy and (row.session, row.probe, other) in by_task
        ]
        if not pairs:
            continue
        mean = _mean(pairs)
        deltas = [delta for _, delta in pairs]
        found.append(
            Difference(
                set=name,
                policy=policy,
                other=other,
                tasks=len(pairs),
                points=100 * mean.value,
                low=100 * mean.low,
                high=100 * mean.high,
                won=sum(delta > 0 for delta in deltas),
                lost=sum(delta < 0 for delta in deltas),
            )
        )
    return found


def _sets(rows: Sequence[Row]) -> Mapping[str, Sequence[Row]]:
    names = list(dict.fromkeys(row.set for row in rows))
    parts: dict[str, Sequence[Row]] = {name: [row for row in rows if row.set == name] for name in names}
    return parts | {"all": rows} if len(names) > 1 else parts


def _figures(name: str, policy: str, rows: Sequence[Row]) -> Figures:
    sessions = {row.session: row for row in rows}
    accuracy = _mean((row.session, float(row.right)) for row in rows)
    mean: Callable[[Callable[[Row], float]], float] = lambda value: fmean(value(row) for row in rows)  # noqa: E731
    return Figures(
        set=name,
        policy=policy,
        tasks=len(rows),
        sessions=len(sessions),
        accuracy=accuracy.value,
        accuracy_low=accuracy.low,
        accuracy_high=accuracy.high,
        in_notes=mean(lambda row: row.in_notes),
        shown=mean(lambda row: row.shown),
        recalls=mean(lambda row: row.recalls),
        recalled_right=mean(lambda row: row.recalled_right),
        prompt_tokens=mean(lambda row: row.prompt_tokens),
        step_tokens=mean(lambda row: row.step_tokens),
        output_tokens=mean(lambda row: row.output_tokens),
        removed=fmean(row.removed for row in sessions.values()),
        failures=sum(bool(row.failure) for row in sessions.values()),
    )


def _mean(values: Iterable[tuple[str, float]]) -> Interval:
    """Mean with its interval: sessions are drawn, not tasks, since those of one share their notes."""
    return bootstrap(summed((session, (value, 1.0)) for session, value in values), quotient)
