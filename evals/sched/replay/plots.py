"""Plots of `agentinfer bench sched`: lambda over time, hit rate by context length, distribution of completion times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agentinfer_lg.evals.common.charts import Axes, chart_folder, save_panels
from agentinfer_lg.evals.sched.replay.figures import hit_rate
from agentinfer_lg.evals.sched.replay.policies import OURS

if TYPE_CHECKING:
    from agentinfer_lg.evals.sched.replay.run import Cell

EDGES = (0, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 96_000, 131_072)
"""Limits of the context lengths, in tokens, by which hit rates are drawn."""


def draw(cells: Sequence[Cell], folder: Path, *, form: Literal["svg", "png"] = "svg") -> list[Path]:
    """Draw all plots, three per machine and concurrency.

    Args:
        cells: What was measured.
        folder: Where files go; made if need be.
        form: Their format.

    Returns:
        The files. Lambda is drawn only where a scheduler has one.

    Raises:
        UserInputError: matplotlib is not installed.
    """
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.case.preset, cell.case.concurrency), []).append(cell)
    made: list[Path] = []
    with chart_folder(folder):
        for (preset, count), group in groups.items():
            place = f"{group[0].case.grid.trace}-{preset}-{count}"
            title = f"{group[0].case.grid.trace}, {preset}, {count} sessions"
            with_lambda = [cell for cell in group if _figures(cell, "lambda")]
            if with_lambda:
                made.append(
                    save_panels(
                        folder / f"lambda-{place}.{form}", title, partial(_lambda, with_lambda), panels=2
                    )
                )
            made.append(save_panels(folder / f"hit-rate-{place}.{form}", title, partial(_hit_rates, group)))
            made.append(
                save_panels(folder / f"completion-{place}.{form}", title, partial(_completion, group))
            )
    return made


def _lambda(group: Sequence[Cell], axes: Sequence[Axes]) -> None:
    for cell in group:
        times = [sample.time for sample in cell.measured.samples]
        axes[0].plot(times, _figures(cell, "lambda"), label=cell.case.policy, linewidth=0.8)
        axes[1].plot(times, [sample.waiting for sample in cell.measured.samples], linewidth=0.8)
    axes[0].set_ylabel("lambda")
    axes[1].set_ylabel("waiting requests")
    axes[1].set_xlabel("simulated time, s")


def _style(cell: Cell, group: Sequence[Cell]) -> dict[str, Any]:  # Any: properties of matplotlib's lines
    """Ours are black and thick, and differ by their dashes; the others differ by colour."""
    ours = [each.case.policy for each in group if each.case.policy in OURS]
    if cell.case.policy in ours:
        dashes = ("solid", "dashed", "dotted", "dashdot")
        return {
            "color": "black",
            "linewidth": 1.8,
            "linestyle": dashes[ours.index(cell.case.policy) % len(dashes)],
        }
    others = [each.case.policy for each in group if each.case.policy not in OURS]
    return {"color": f"C{others.index(cell.case.policy) % 10}", "linewidth": 1}


def _figures(cell: Cell, name: str) -> list[float]:
    """One figure over time; empty where the scheduler has none of that name."""
    found = [sample.figures.get(name) for sample in cell.measured.samples]
    return (
        [value if value is not None else float("nan") for value in found]
        if any(value is not None for value in found)
        else []
    )


def _hit_rates(group: Sequence[Cell], axes: Sequence[Axes]) -> None:
    names = [f"{low // 1000}-{high // 1000}" for low, high in pairwise(EDGES)]
    for cell in group:
        tokens, hits = cell.measured.prompt_tokens, cell.measured.hit_tokens
        place = np.digitize(tokens, EDGES[1:-1])
        rates = [hit_rate(tokens[place == number], hits[place == number]) for number in range(len(names))]
        values = [float("nan") if rate is None else rate for rate in rates]
        axes[0].plot(names, values, marker="o", markersize=3, label=cell.case.policy, **_style(cell, group))
    axes[0].set_ylabel("hit rate")
    axes[0].set_xlabel("prompt, thousands of tokens")
    axes[0].set_ylim(0, 1)


def _completion(group: Sequence[Cell], axes: Sequence[Axes]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    for cell in group:
        seconds = np.sort(np.array(list(cell.measured.completion.values())))
        share = np.arange(1, len(seconds) + 1) / len(seconds)
        axes[0].step(seconds, share, where="post", label=cell.case.policy, **_style(cell, group))
    axes[0].set_ylabel("share of sessions")
    axes[0].set_xlabel("completion time, s")
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].xaxis.set_major_formatter(ScalarFormatter())
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylim(0, 1)
