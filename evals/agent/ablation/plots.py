"""Charts of `agentinfer bench ablation`: speed-up over the baseline, tokens per question, where the seconds go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agentinfer_lg.evals.agent.ablation.figures import (
    BASELINE,
    AblationRow,
    ablation_rows,
    question_breakdown,
)
from agentinfer_lg.evals.agent.ablation.run import Cell
from agentinfer_lg.evals.agent.benchmark.figures import Phases, combined
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS
from agentinfer_lg.evals.common.charts import Axes, chart_folder, save_figure

Stack = Mapping[str, float]
"""What a bar consists of, from the bottom up."""

_TICKS = (
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1,
    1.2,
    1.5,
    2,
    2.5,
    3,
    4,
    5,
    6,
    8,
    10,
    15,
    20,
    30,
    50,
    100,
)
_PHASES = ("plan", "think", "progress", "act", "observe", "write", "wait")
_COLOURS: Mapping[str, str] = {
    "useful": "#0072b2",
    "ineffective": "#d55e00",
    "cached": "#c8c8c8",
    "plan": "#56b4e9",
    "think": "#0072b2",
    "progress": "#e69f00",
    "act": "#009e73",
    "observe": "#cc79a7",
    "write": "#f0e442",
    "wait": "#c8c8c8",
}


def draw_ablation(cells: Sequence[Cell], folder: Path, *, form: Literal["svg", "png"] = "svg") -> list[Path]:
    """Draw all charts.

    Args:
        cells: What was measured.
        folder: Where files go; made if need be.
        form: Their format.

    Returns:
        The files. Speed-ups are drawn only where there is something to compare with the baseline.

    Raises:
        UserInputError: matplotlib is not installed.
    """
    rows = ablation_rows(cells)
    compared = [row for row in rows if row.speedup is not None and row.configuration != BASELINE]
    made: list[Path] = []
    with chart_folder(folder):
        if compared:
            made.append(_draw_speedup(compared, folder / f"speedup.{form}"))
        made.append(_draw_tokens(rows, folder / f"tokens.{form}"))
        made.append(_draw_seconds(cells, rows, folder / f"seconds.{form}"))
    return made


def _draw_speedup(rows: Sequence[AblationRow], file: Path) -> Path:
    """Bars that rise or fall from 1.0 on a logarithmic scale: twice as fast is as far from it as half as fast."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes: list[Axes] = list(figure.subplots(2, 1, sharex=True))
    _ratio_bars(axes[0], rows, lambda row: row.speedup, interval=True)
    _ratio_bars(axes[1], rows, lambda row: row.qps_ratio)
    axes[0].set_ylabel("end-to-end speed-up")
    axes[1].set_ylabel("QPS ratio")
    axes[0].set_title("against the baseline (line at 1.0); whiskers: 95% interval")
    places = _places(rows)
    axes[1].set_xticks(range(len(places)), [str(n) for n in places])
    axes[1].set_xlabel("questions at the same time")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return _save(figure, axes, file)


def _ratio_bars(
    axis: Axes,
    rows: Sequence[AblationRow],
    figure: Callable[[AblationRow], float | None],
    *,
    interval: bool = False,
) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    places, names = _places(rows), _names(rows)
    width = 0.84 / len(names)
    for number, name in enumerate(names):
        mine = [row for row in rows if row.configuration == name and figure(row)]
        left = [places.index(row.n) + (number - (len(names) - 1) / 2) * width for row in mine]
        values = [figure(row) or 1.0 for row in mine]
        colour = f"C{list(CONFIGURATIONS).index(name) % 10}"
        heights = [value - 1.0 for value in values]
        axis.bar(left, heights, bottom=1.0, width=0.9 * width, color=colour, label=name)
        bounds = [row.speedup_interval for row in mine if row.speedup_interval is not None]
        if interval and bounds:
            below = [max(0.0, value - each.low) for value, each in zip(values, bounds, strict=True)]
            above = [max(0.0, each.high - value) for value, each in zip(values, bounds, strict=True)]
            axis.errorbar(
                left, values, yerr=[below, above], fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5
            )
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_major_locator(FixedLocator(_TICKS))
    axis.yaxis.set_minor_locator(NullLocator())


def _draw_tokens(rows: Sequence[AblationRow], file: Path) -> Path:
    stacks = {
        (row.n, row.configuration): {
            "useful": row.computed_tokens - row.ineffective_tokens,
            "ineffective": row.ineffective_tokens,
            "cached": row.tokens - row.computed_tokens,
        }
        for row in rows
    }
    return _draw_stacks(rows, stacks, "tokens per question", file)


def _draw_seconds(cells: Sequence[Cell], rows: Sequence[AblationRow], file: Path) -> Path:
    stacks = {}
    for row in rows:
        answered = [
            record
            for cell in cells
            if (cell.n, cell.configuration) == (row.n, row.configuration)
            for record in cell.questions
            if record["result"] is not None
        ]
        phases = combined(map(question_breakdown, answered)).phases if answered else Phases()
        stacks[row.n, row.configuration] = {
            name: getattr(phases, name) / max(1, len(answered)) for name in _PHASES
        }
    walls = {(row.n, row.configuration): row.end_to_end_s for row in rows if row.end_to_end_s is not None}
    return _draw_stacks(rows, stacks, "seconds per question", file, marks=walls, mark="end to end")


def _draw_stacks(
    rows: Sequence[AblationRow],
    stacks: Mapping[tuple[int, str], Stack],
    unit: str,
    file: Path,
    *,
    marks: Mapping[tuple[int, str], float] | None = None,
    mark: str = "",
) -> Path:
    """A panel per N, a stacked bar per configuration, and on it the mark of one more figure."""
    from matplotlib.figure import Figure

    places, names = _places(rows), _names(rows)
    columns = min(2, len(places))
    lines = -(-len(places) // columns)
    figure = Figure(figsize=(1 + 4.2 * columns, 1 + 2.9 * lines), layout="constrained")
    axes: list[Axes] = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[len(places) :]:
        axis.set_visible(False)
    for axis, n in zip(axes, places, strict=False):
        _stacked(axis, [stacks.get((n, name), {}) for name in names])
        points = {
            x: marks[n, name] for x, name in enumerate(names) if marks is not None and (n, name) in marks
        }
        if points:
            axis.plot(points.keys(), points.values(), "kD", markersize=4, label=mark)
        axis.set_title(f"{n} at the same time", fontsize=9)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    for axis in axes[::columns]:
        axis.set_ylabel(unit)
    found = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=8, fontsize=8)
    return _save(figure, axes[: len(places)], file)


def _stacked(axis: Axes, stacks: Sequence[Stack]) -> None:
    bottom = [0.0] * len(stacks)
    for part in dict.fromkeys(part for stack in stacks for part in stack):
        heights = [stack.get(part, 0.0) for stack in stacks]
        axis.bar(range(len(stacks)), heights, bottom=bottom, width=0.75, color=_COLOURS[part], label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]


def _save(figure: Any, axes: Sequence[Axes], file: Path) -> Path:  # Any: matplotlib's
    for axis in axes:
        axis.grid(visible=True, axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    return save_figure(figure, file)


def _places(rows: Sequence[AblationRow]) -> list[int]:
    return sorted({row.n for row in rows})


def _names(rows: Sequence[AblationRow]) -> list[str]:
    return sorted({row.configuration for row in rows}, key=list(CONFIGURATIONS).index)
