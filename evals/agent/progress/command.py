"""`agentinfer bench progress`: the verifier against labelled failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command()
def progress(
    data: Annotated[Path, typer.Option(help="Folder of Who&When, with its two subfolders.")],
    repeat_limit: Annotated[int, typer.Option(min=1, help="How often one action may be made.")] = 2,
    stall_limit: Annotated[
        int, typer.Option(min=1, help="Rounds without new evidence that are a stall.")
    ] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all figures here.")] = None,
) -> None:
    """Score the verifier (no model) against the labelled mistakes of Who&When."""
    from agentinfer_lg.evals.agent.progress.run import run

    result = run(data, repeat_limit=repeat_limit, stall_limit=stall_limit)
    typer.echo("\n".join(_table(result)))
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _table(result: dict[str, Any]) -> list[str]:  # Any: the JSON object of `run`
    lines = [
        f"repeat_limit {result['repeat_limit']}, stall_limit {result['stall_limit']}; share of runs flagged, "
        "in brackets: by a coin that flags as many rounds",
        "",
        "| runs | detector | by the label | label to +3 | from the label on | anywhere "
        "| false alarms per run | flags per good round | flags per later round |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, subset in result.items():
        if isinstance(subset, dict):
            tuned = subset["tuned"]
            lines.append(_row(name, "verifier", subset["given"]))
            limits = f"{tuned['repeat_limit']}/{tuned['stall_limit']}"
            lines.append(_row(f"{name}, held-out half", f"verifier, tuned to {limits}", tuned["score"]))
            if subset["self_report"]:
                lines.append(_row(name, "the system's own ledger", subset["self_report"]))
    return lines


def _row(name: str, detector: str, score: dict[str, Any]) -> str:
    hits, chance = score["hits"], score["chance"]
    windows = ("by_label", "soon_after", "from_label", "anywhere")
    cells = [f"{hits[window]:.0%} ({chance[window]:.0%})" for window in windows]
    good = f"{score['early_rate']:.1%} of {score['good_rounds']}"
    late = f"{score['late_rate']:.1%} of {score['rounds'] - score['good_rounds']}"
    cells += [f"{score['false_alarms_per_run']:.2f}", good, late]
    return f"| {name} ({score['runs']}) | {detector} | {' | '.join(cells)} |"
