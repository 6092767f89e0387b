"""Figures of a replay: hit rates, completion times, waits, and how one policy compares with another on the same sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from agentinfer_lg.evals.common.bootstrap import Interval, paired_ratio
from agentinfer_lg.evals.sched.replay.belady import HitRates
from agentinfer_lg.evals.sched.replay.simulation import Sample, SimulationResult

Row = dict[str, float | int | str | None]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

BUCKETS: Mapping[str, tuple[float, float]] = {
    "4k": (0, 4_000),
    "32k": (4_000, 32_000),
    "long": (32_000, float("inf")),
}
"""Lengths of prompts in tokens, from and below, by which hit rates are told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is kept of a replay: one entry per request in arrays, and times in seconds."""

    prompt_tokens: IntArray
    hit_tokens: IntArray
    one_shot: BoolArray
    waits: FloatArray
    """From arrival to admission."""
    ttft: FloatArray
    """From arrival to the first token."""
    preemptions: int
    recomputed_tokens: int
    completion: dict[str, float]
    """Seconds from the beginning to the end of each session, tools included."""
    seconds: float
    """Of the whole replay."""
    steps: int
    samples: tuple[Sample, ...] = ()
    figures: dict[str, float] | None = None
    """The scheduler's own counters at the end."""
    bounds: HitRates | None = None
    """What other evictions reach at the same order."""
    attacked: BoolArray | None = None
    """Whether a request is of a session under attack; None: there is no attack."""
    attacked_sessions: frozenset[str] = frozenset()
    """Names of those sessions."""

    def row(self) -> Row:
        """Return the figures as a flat JSON object."""
        completion = np.array(list(self.completion.values()))
        hits = {
            f"hit_rate_{name}": self._hit_rate((self.prompt_tokens >= low) & (self.prompt_tokens < high))
            for name, (low, high) in BUCKETS.items()
        }
        bounds = asdict(self.bounds) if self.bounds else {}
        return {
            "hit_rate": self._hit_rate(np.ones(len(self.prompt_tokens), dtype=np.bool_)),
            **hits,
            "hit_rate_sessions": self._hit_rate(~self.one_shot),
            **{f"{name}_hit_rate": rate for name, rate in bounds.items()},
            **_spread("completion_s", completion),
            **_spread("ttft_s", self.ttft),
            **_spread("wait_s", self.waits),
            "preemptions": self.preemptions,
            "recomputed_tokens": self.recomputed_tokens,
            "calls": len(self.prompt_tokens),
            "sessions": len(self.completion),
            "replay_s": self.seconds,
            "steps": self.steps,
            **self._attack_figures(),
        }

    def _attack_figures(self) -> Row:
        """Tell sessions under attack and the stream that attacks them apart."""
        if self.attacked is None:
            return {}
        row: Row = {}
        for name, which in (("victim", self.attacked), ("stream", ~self.attacked)):
            seconds = [
                each
                for session, each in self.completion.items()
                if (session in self.attacked_sessions) == (name == "victim")
            ]
            waits = self.waits[which]
            row |= {
                f"{name}_mean_completion_s": float(np.mean(seconds)) if seconds else None,
                f"{name}_p99_wait_s": float(np.percentile(waits, 99)) if len(waits) else None,
                f"{name}_max_wait_s": float(waits.max()) if len(waits) else None,
            }
        return row

    def _hit_rate(self, which: BoolArray) -> float | None:
        return hit_rate(self.prompt_tokens[which], self.hit_tokens[which])


def measure(
    result: SimulationResult, *, bounds: HitRates | None = None, attacked: AbstractSet[str] = frozenset()
) -> Measured:
    """Keep what figures and plots need of a replay; the identities of blocks are dropped.

    Args:
        result: Of the replay.
        bounds: What other evictions reach at the same order.
        attacked: Names of the sessions under attack; empty: there is no attack.
    """
    calls = result.calls
    return Measured(
        prompt_tokens=np.array([call.prompt_tokens for call in calls], dtype=np.int64),
        hit_tokens=np.array([call.hit_tokens for call in calls], dtype=np.int64),
        one_shot=np.array([call.one_shot for call in calls], dtype=np.bool_),
        waits=np.array([call.admitted - call.arrival for call in calls]),
        ttft=np.array([call.first_token - call.arrival for call in calls]),
        preemptions=sum(call.preemptions for call in calls),
        recomputed_tokens=sum(call.recomputed_tokens for call in calls),
        completion={each.name: each.finished - each.started for each in result.sessions},
        seconds=result.seconds,
        steps=result.steps,
        samples=tuple(result.samples),
        figures=result.figures,
        bounds=bounds,
        attacked=np.array([call.session in attacked for call in calls], dtype=np.bool_) if attacked else None,
        attacked_sessions=frozenset(attacked),
    )


def pool(parts: Sequence[Measured]) -> Measured:
    """Join replays of the same policy at different seeds; samples are those of the first.

    Args:
        parts: At least one.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    return Measured(
        prompt_tokens=np.concatenate([part.prompt_tokens for part in parts]),
        hit_tokens=np.concatenate([part.hit_tokens for part in parts]),
        one_shot=np.concatenate([part.one_shot for part in parts]),
        waits=np.concatenate([part.waits for part in parts]),
        ttft=np.concatenate([part.ttft for part in parts]),
        preemptions=sum(part.preemptions for part in parts),
        recomputed_tokens=sum(part.recomputed_tokens for part in parts),
        completion={
            f"{seed}/{name}": seconds
            for seed, part in enumerate(parts)
            for name, seconds in part.completion.items()
        },
        seconds=sum(part.seconds for part in parts),
        steps=sum(part.steps for part in parts),
        samples=first.samples,
        figures=first.figures,
        bounds=_pooled_bounds(parts),
        attacked=None
        if first.attacked is None
        else np.concatenate([part.attacked for part in parts if part.attacked is not None]),
        attacked_sessions=frozenset(
            f"{seed}/{name}" for seed, part in enumerate(parts) for name in part.attacked_sessions
        ),
    )


def hit_rate(prompt_tokens: IntArray, hit_tokens: IntArray) -> float | None:
    """Return the share of prompt tokens found in the cache; None without prompts."""
    total = int(prompt_tokens.sum())
    return float(hit_tokens.sum()) / total if total else None


def completion_ratio(ours: Measured, other: Measured) -> Interval:
    """Return the ratio of the mean completion times on the same sessions.

    Args:
        ours: Numerator.
        other: Denominator.

    Raises:
        ValueError: The replays are not of the same sessions.
    """
    if ours.completion.keys() != other.completion.keys():
        msg = "completion times can only be compared on the same sessions"
        raise ValueError(msg)
    names = sorted(ours.completion)
    return paired_ratio([ours.completion[n] for n in names], [other.completion[n] for n in names])


def bound_covered(ours: Measured, other: Measured) -> float | None:
    """Share of the distance from another policy's hit rate to the best one at our own order that ours covers.

    Returns:
        1 at the bound, below 0 if the other policy hits more; None where the other one is as good as the bound.
    """
    if ours.bounds is None:
        return None
    here, there = (hit_rate(each.prompt_tokens, each.hit_tokens) for each in (ours, other))
    if here is None or there is None or ours.bounds.belady <= there:
        return None
    return (here - there) / (ours.bounds.belady - there)


def _pooled_bounds(parts: Sequence[Measured]) -> HitRates | None:
    """Rates weighted by prompt tokens."""
    known = [(part.bounds, int(part.prompt_tokens.sum())) for part in parts if part.bounds]
    if len(known) < len(parts):
        return None
    total = sum(tokens for _, tokens in known)
    return HitRates(
        lru=sum(bounds.lru * tokens for bounds, tokens in known) / total,
        belady=sum(bounds.belady * tokens for bounds, tokens in known) / total,
        unlimited=sum(bounds.unlimited * tokens for bounds, tokens in known) / total,
    )


def _spread(name: str, values: FloatArray) -> Row:
    if not len(values):
        return {}
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        f"mean_{name}": float(values.mean()),
        f"p50_{name}": float(p50),
        f"p95_{name}": float(p95),
        f"p99_{name}": float(p99),
        f"max_{name}": float(values.max()),
    }
