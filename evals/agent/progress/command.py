"""`agentinfer bench progress`: the verifier against labelled failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import aligned

app = typer.Typer()

_WINDOWS = ("by_label", "soon_after", "from_label", "anywhere")
_HEAD = (
    *("runs", "detector", "by the label", "label to +3", "from the label on", "anywhere"),
    *("false alarms per run", "flags per good round", "flags per later round"),
)


@dataclass(frozen=True, kw_only=True)
class ProgressFlags(StudyFlags):
    """Flags of `agentinfer bench progress`."""

    data: Annotated[Path, typer.Option(help="Folder of Who&When, with its two subfolders.")]
    repeat_limit: Annotated[int, typer.Option(min=1, help="How often one action may be made.")] = 2
    stall_limit: Annotated[int, typer.Option(min=1, help="Rounds without new evidence that are a stall.")] = 2


@study(app, ProgressFlags)
def progress(flags: ProgressFlags) -> None:
    """Score the verifier (no model) against the labelled mistakes of Who&When."""
    from agentinfer_lg.evals.agent.progress.run import run

    result = run(flags.data, repeat_limit=flags.repeat_limit, stall_limit=flags.stall_limit)
    typer.echo("\n".join(_table(result)))
    flags.write(result)


def _table(result: dict[str, Any]) -> list[str]:  # Any: the JSON object of `run`
    rows = []
    for name, subset in result.items():
        if isinstance(subset, dict):
            tuned = subset["tuned"]
            limits = f"{tuned['repeat_limit']}/{tuned['stall_limit']}"
            rows.append(_row(name, "verifier", subset["given"]))
            rows.append(_row(f"{name}, held-out half", f"verifier, tuned to {limits}", tuned["score"]))
            if subset["self_report"]:
                rows.append(_row(name, "the system's own ledger", subset["self_report"]))
    return [
        f"repeat_limit {result['repeat_limit']}, stall_limit {result['stall_limit']}; share of runs flagged, "
        "in brackets: by a coin that flags as many rounds",
        "",
        *aligned([_HEAD, *rows]),
    ]


def _row(name: str, detector: str, score: dict[str, Any]) -> Sequence[str]:
    hits, chance = score["hits"], score["chance"]
    good = f"{score['early_rate']:.1%} of {score['good_rounds']}"
    late = f"{score['late_rate']:.1%} of {score['rounds'] - score['good_rounds']}"
    flagged = [f"{hits[window]:.0%} ({chance[window]:.0%})" for window in _WINDOWS]
    return (
        f"{name} ({score['runs']})",
        detector,
        *flagged,
        f"{score['false_alarms_per_run']:.2f}",
        good,
        late,
    )
