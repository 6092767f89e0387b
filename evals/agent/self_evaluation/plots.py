"""Chart of `agentinfer bench self-evaluation`: accuracy, tokens and escalations over the error rate of the checks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from agentinfer_lg.evals.agent.self_evaluation.figures import SelfEvaluationRow
from agentinfer_lg.evals.common.charts import Axes, chart_folder, save_panels

_PANELS = {"accuracy": "accuracy", "tokens": "tokens per question", "escalations": "escalations per question"}
_LINES = {True: ("with verifier", "black", "solid"), False: ("without", "C1", "dashed")}


def draw_self_evaluation(
    rows: Sequence[SelfEvaluationRow], folder: Path, *, form: Literal["svg", "png"] = "svg"
) -> list[Path]:
    """Draw the chart.

    Args:
        rows: What was measured. Forced rates are lines; the model's own verdicts are a cross at their observed error.
        folder: Where the file goes; made if need be.
        form: Its format.

    Returns:
        The file.

    Raises:
        UserInputError: matplotlib is not installed.
    """
    with chart_folder(folder):
        title = "Progress Checks with forced errors; crosses: the model's own verdicts"
        file = folder / f"self-evaluation.{form}"
        return [save_panels(file, title, partial(_fill, rows), panels=len(_PANELS))]


def _fill(rows: Sequence[SelfEvaluationRow], axes: Sequence[Axes]) -> None:
    for panel, (name, label) in zip(axes, _PANELS.items(), strict=True):
        _panel(panel, rows, name)
        panel.set_ylabel(label)
    axes[0].set_ylim(0, 1)
    axes[-1].set_xlabel("error rate of the Progress Checks")


def _panel(panel: Axes, rows: Sequence[SelfEvaluationRow], name: str) -> None:
    for verifier, (label, color, dashes) in _LINES.items():
        mine = [row for row in rows if row.verifier == verifier]
        forced = [(row.rate, getattr(row, name)) for row in mine if row.rate is not None]
        own = [
            (row.observed_error, getattr(row, name))
            for row in mine
            if row.rate is None and row.observed_error is not None
        ]
        if forced:
            panel.plot(
                *zip(*forced, strict=True),
                marker="o",
                markersize=3,
                label=label,
                color=color,
                linestyle=dashes,
            )
        if own:
            panel.plot(
                *zip(*own, strict=True),
                marker="x",
                color=color,
                linestyle="none",
                label=f"own verdicts, {label}",
            )
