"""From samples to what is drawn and told: rates in a moving window, lambda, load."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, Self

import numpy as np

from agentinfer_lg.evals.agent.load.run import LoadCell
from agentinfer_lg.evals.common.metrics_page import ServerState
from agentinfer_lg.evals.common.server_samples import Sample

Column = tuple[float | None, ...]
"""One value per sample; None where it is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeries:
    """A cell over time. All servers are joined, but for lambda and pressure, of which each server has its own."""

    configuration: str
    n: int
    window_seconds: float
    times: tuple[float, ...]
    """Seconds since the start, one per sample."""
    finished: tuple[int, ...]
    """Questions answered so far."""
    qps: Column
    """Questions answered per second of the window that ends there; None before half a window, or half the run, has passed:
    the first answer alone would tower above all that follows."""
    hit_rate: Column
    """Share of the prompt tokens of the window that were in the prefix cache; None where none were looked up."""
    hit_rate_so_far: Column
    """The same since the start."""
    running: Column
    """Requests, as is the next one."""
    waiting: Column
    kv_usage: Column
    """Share of the KV cache that running requests hold; of the fuller server."""
    prices: Mapping[str, Column]
    """Lambda by tier; of servers with AgentSched only, as in the next one."""
    pressures: Mapping[str, Column]

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class HeldFigures:
    """A gauge over a time, each value weighted with the seconds that it held."""

    mean: float
    p95: float
    """It was no higher in 95% of the time."""
    highest: float

    @classmethod
    def of(cls, times: Sequence[float], values: Column) -> Self | None:
        """Join values that hold until the next sample; None where none is known.

        Args:
            times: Seconds, rising.
            values: One per time.
        """
        known, weights = _weighted(times, values)
        if not len(known):
            return None
        order = np.argsort(known)
        share = np.cumsum(weights[order]) / weights.sum()
        place = min(int(np.searchsorted(share, 0.95 - 1e-9)), len(known) - 1)
        return cls(
            mean=float(np.average(known, weights=weights)),
            p95=float(known[order][place]),
            highest=float(known.max()),
        )


@dataclass(frozen=True, slots=True)
class PriceFigures:
    """What lambda of one server did."""

    tier: str
    mean: float
    p95: float
    highest: float
    above_half: float
    """Share of the time in which it was above half of its maximum in this cell."""
    switches_per_minute: float
    """Times that it turned from rising to falling or back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """One configuration with N questions at the same time."""

    configuration: str
    n: int
    questions: int
    failures: int
    """Questions that ended in an error; they count neither for QPS nor for seconds."""
    seconds: float
    """Wall time of all."""
    qps: float
    """Questions answered per second."""
    end_to_end_s: float | None
    """Mean seconds from a question to its answer; None if all failed, as in the next one."""
    end_to_end_p95_s: float | None
    hit_rate: float | None
    """Share of the prompt tokens that were in the prefix cache, all servers together."""
    prices: tuple[PriceFigures, ...]
    """Of the servers with AgentSched, the one with the highest mean first."""
    preemptions: float
    waiting: float | None
    """Waiting requests of all servers, on average over time."""
    kv_usage: float | None
    """Share of the KV cache that running requests hold, of the fuller server, on average over time."""
    kv_usage_max: float | None
    gaps: int
    """Samples in which a server did not answer."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return asdict(self)


def load_series(cell: LoadCell, *, window_seconds: float) -> LoadSeries:
    """Return a cell over time.

    Args:
        cell: What was measured.
        window_seconds: Length of the moving window; it is shorter at the start, and longer where the last sample before it
            is further away.
    """
    samples = cell.samples
    times = [sample.time for sample in samples]
    tiers = _tiers(samples)
    queries, hits = (_counted(samples, tiers, name) for name in ("cache_queries", "cache_hits"))
    starts = [_window_start(times, place, window_seconds) for place in range(len(times))]
    complete = [all(tier in sample.servers for tier in tiers) for sample in samples]

    def qps(start: int, place: int) -> float | None:
        passed = times[place] - times[start]
        early = times[place] - times[0] < min(window_seconds, times[-1] - times[0]) / 2
        return None if early or not passed else (samples[place].finished - samples[start].finished) / passed

    def hit_rate(start: int, place: int) -> float | None:
        asked = queries[place] - queries[start]
        # vLLM counts both at once, but an engine that is started anew may be met in between
        return min(1.0, (hits[place] - hits[start]) / asked) if asked > 0 and complete[place] else None

    def states(name: str) -> list[list[float] | None]:
        return [
            [getattr(sample.servers[tier], name) for tier in tiers] if complete[place] and tiers else None
            for place, sample in enumerate(samples)
        ]

    def by_tier(name: str) -> dict[str, Column]:
        columns = {
            tier: tuple(_state(sample.servers.get(tier), name) for sample in samples) for tier in tiers
        }
        return {tier: column for tier, column in columns.items() if any(v is not None for v in column)}

    return LoadSeries(
        configuration=cell.configuration,
        n=cell.n,
        window_seconds=window_seconds,
        times=tuple(times),
        finished=tuple(sample.finished for sample in samples),
        qps=tuple(qps(start, place) for place, start in enumerate(starts)),
        hit_rate=tuple(hit_rate(start, place) for place, start in enumerate(starts)),
        hit_rate_so_far=tuple(hit_rate(0, place) for place in range(len(times))),
        running=tuple(None if values is None else sum(values) for values in states("running")),
        waiting=tuple(None if values is None else sum(values) for values in states("waiting")),
        kv_usage=tuple(None if values is None else max(values) for values in states("kv_usage")),
        prices=by_tier("price"),
        pressures=by_tier("pressure"),
    )


def load_rows(cells: Sequence[LoadCell]) -> list[LoadRow]:
    """Return one row per cell, in their order."""
    return [_row(cell) for cell in cells]


def _row(cell: LoadCell) -> LoadRow:
    series = load_series(cell, window_seconds=cell.seconds)
    tiers = _tiers(cell.samples)
    waits = [record["seconds"] for record in cell.questions if record["result"] is not None]
    waiting = HeldFigures.of(series.times, series.waiting)
    usage = HeldFigures.of(series.times, series.kv_usage)
    prices = [_price(tier, series.times, column) for tier, column in series.prices.items()]
    return LoadRow(
        configuration=cell.configuration,
        n=cell.n,
        questions=len(cell.questions),
        failures=len(cell.questions) - len(waits),
        seconds=cell.seconds,
        qps=len(waits) / cell.seconds if cell.seconds else 0.0,
        end_to_end_s=float(np.mean(waits)) if waits else None,
        end_to_end_p95_s=float(np.percentile(waits, 95)) if waits else None,
        hit_rate=next((rate for rate in reversed(series.hit_rate_so_far) if rate is not None), None),
        prices=tuple(sorted(filter(None, prices), key=lambda price: -price.mean)),
        preemptions=_counted(cell.samples, tiers, "preemptions")[-1] if cell.samples else 0.0,
        waiting=waiting.mean if waiting else None,
        kv_usage=usage.mean if usage else None,
        kv_usage_max=usage.highest if usage else None,
        gaps=sum(any(tier not in sample.servers for tier in tiers) for sample in cell.samples),
    )


def _price(tier: str, times: Sequence[float], column: Column) -> PriceFigures | None:
    figures = HeldFigures.of(times, column)
    if figures is None:
        return None
    known, weights = _weighted(times, column)
    moves = [after - before for before, after in pairwise(known) if after != before]
    turns = sum((one > 0) != (other > 0) for one, other in pairwise(moves))
    minutes = (times[-1] - times[0]) / 60
    return PriceFigures(
        tier=tier,
        mean=figures.mean,
        p95=figures.p95,
        highest=figures.highest,
        above_half=float(weights[known > figures.highest / 2].sum() / weights.sum()),
        switches_per_minute=turns / minutes if minutes else 0.0,
    )


def _weighted(times: Sequence[float], values: Column) -> tuple[np.ndarray, np.ndarray]:
    """Return the known values and the seconds until the sample after each; if there are none, all weigh the same."""
    known = [place for place, value in enumerate(values) if value is not None]
    ends = [*times[1:], *times[-1:]]
    weights = np.array([ends[place] - times[place] for place in known], dtype=np.float64)
    found = np.array([values[place] for place in known], dtype=np.float64)
    return found, weights if weights.sum() > 0 else np.ones(len(known))


def _window_start(times: Sequence[float], place: int, seconds: float) -> int:
    """Return the last sample that is at least `seconds` before the one at `place`; the first one if there is none."""
    return max(0, bisect_right(times, times[place] - seconds, hi=place) - 1)


def _tiers(samples: Sequence[Sample]) -> list[str]:
    """Servers that answered at least once."""
    return sorted({tier for sample in samples for tier in sample.servers})


def _counted(samples: Sequence[Sample], tiers: Sequence[str], name: str) -> list[float]:
    """Return what a counter of all servers rose by since its first sample, one value per sample."""
    columns = [[_state(sample.servers.get(tier), name) for sample in samples] for tier in tiers]
    return [sum(values) for values in zip(*map(_risen, columns), strict=True)] or [0.0] * len(samples)


def _risen(values: Sequence[float | None]) -> list[float]:
    """Add up how a counter rises. One that is lower than before began again from 0; while it is unknown it stands still."""
    rises: list[float] = []
    last: float | None = None
    for value in values:
        if value is None or last is None:
            rises.append(0.0)
        else:
            rises.append(value - last if value >= last else value)
        last = last if value is None else value
    return list(accumulate(rises))


def _state(state: ServerState | None, name: str) -> float | None:
    value: float | None = None if state is None else getattr(state, name)
    return value
