"""Charts of `agentinfer bench load`: lambda, hit rate, QPS and requests over the same time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from agentinfer_lg.evals.agent.load.figures import Column, LoadSeries
from agentinfer_lg.evals.common.charts import Axes, chart_folder, save_panels

_DASHES = {"large": "solid", "small": "dashed"}


def draw_load(all_series: Sequence[LoadSeries], folder: Path, *, form: Literal["svg", "png"]) -> list[Path]:
    """Draw one chart per N, a line per configuration in each panel.

    Args:
        all_series: The cells over time.
        folder: Where files go; made if need be.
        form: Their format.

    Returns:
        The files.

    Raises:
        UserInputError: matplotlib is not installed.
    """
    made: list[Path] = []
    with chart_folder(folder):
        for places in sorted({series.n for series in all_series}):
            group = [series for series in all_series if series.n == places]
            title = f"{places} questions at the same time, window {group[0].window_seconds:g} s"
            made.append(save_panels(folder / f"load-{places}.{form}", title, partial(_fill, group), panels=4))
    return made


def _fill(group: Sequence[LoadSeries], axes: Sequence[Axes]) -> None:
    price, hits, qps, requests = axes
    for number, series in enumerate(group):
        colour = f"C{number}"
        price.plot([], [], color=colour, label=series.configuration)  # also where there is no lambda
        for tier, column in series.prices.items():
            price.plot(series.times, _drawn(column), color=colour, linewidth=1, linestyle=_DASHES[tier])
        hits.plot(series.times, _drawn(series.hit_rate), color=colour, linewidth=1)
        qps.plot(series.times, _drawn(series.qps, factor=1000), color=colour, linewidth=1)
        requests.plot(series.times, _drawn(series.running), color=colour, linewidth=1)
        requests.plot(series.times, _drawn(series.waiting), color=colour, linewidth=1, linestyle="dashed")
    price.set_ylabel("lambda\n(dashed: small tier)")
    hits.set_ylabel("prefix cache hit rate")
    hits.set_ylim(0, 1)
    qps.set_ylabel("QPS x1000")
    requests.set_ylabel("requests running\n(dashed: waiting)")
    requests.set_xlabel("s")
    for each in (price, qps, requests):
        each.set_ylim(bottom=0)


def _drawn(column: Column, *, factor: float = 1.0) -> list[float]:
    """Leave gaps where a value is unknown."""
    return [float("nan") if value is None else factor * value for value in column]
