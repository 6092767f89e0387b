"""`agentinfer bench self-evaluation`: what wrong Progress Checks cost, on a real engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentinfer_lg.cli.bench_ablation import _closed_world, _engine, _languages, _report, _World
from agentinfer_lg.cli.bench_flags import aligned, names, step_progress, whole_numbers
from agentinfer_lg.errors import UserInputError

if TYPE_CHECKING:
    from agentinfer_lg.evals.self_evaluation import SelfEvaluationOptions
    from agentinfer_lg.evals.self_evaluation_figures import SelfEvaluationRow

__all__ = ("register",)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("self-evaluation")(self_evaluation)


def self_evaluation(
    small_model: Annotated[
        str, typer.Option(help="Model of the small tier: a folder, or a name on the hub.")
    ],
    large_model: Annotated[str, typer.Option(help="Model of the large tier.")],
    questions: Annotated[
        int, typer.Option(min=1, help="Of the closed world; each under all conditions.")
    ] = 20,
    parallel: Annotated[int, typer.Option(min=1, help="Questions at the same time.")] = 4,
    rates: Annotated[
        str, typer.Option(help="Error rates to force, from 0 to 1; own: the model's own verdicts.")
    ] = "0,0.05,0.1,0.2,0.3,own",
    seed: Annotated[int, typer.Option(min=0, help="Of the closed world, and of which checks are wrong.")] = 1,
    languages: Annotated[str, typer.Option(help="Of the closed world.")] = "en,zh",
    hops: Annotated[
        str, typer.Option(help="Of the closed world: documents between question and answer.")
    ] = "2,3,4,5,6",
    offset: Annotated[int, typer.Option(min=0, help="Questions to leave out at the start.")] = 0,
    kv_cache_gib: Annotated[
        float | None, typer.Option(min=0.1, help="KV cache of each server; default: as `agentinfer serve`.")
    ] = None,
    tool_seconds: Annotated[
        float, typer.Option(min=0.0, help="Added to each search: a folder answers at once, the web does not.")
    ] = 1.0,
    max_model_len: Annotated[int, typer.Option(min=1024, help="Longest context of the servers.")] = 16_384,
    small_args: Annotated[str, typer.Option(help="More arguments for vLLM, small tier.")] = "",
    large_args: Annotated[str, typer.Option(help="More arguments for vLLM, large tier.")] = "",
    knobs: Annotated[
        list[str] | None, typer.Option("--set", help="Knob of the agent, KEY=VALUE; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of this run; an unfinished one is continued.")] = Path(
        "runs/self-evaluation"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all rows here.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw a chart into this folder.")] = None,
) -> None:
    """Force the error rate of Progress Checks, with the verifier and without: accuracy, tokens, escalations.

    Starts two servers and answers every question under every condition. Killed at any point, the same command goes on with
    the questions that are missing.
    """
    from agentinfer_lg.cli.options import build_context, parse_assignments
    from agentinfer_lg.evals.agent_engines import EnginePair
    from agentinfer_lg.evals.self_evaluation import SelfEvaluation, SelfEvaluationOptions, read_cells
    from agentinfer_lg.evals.self_evaluation_figures import self_evaluation_rows
    from agentinfer_lg.serving.launch import stop_on_signals

    options = SelfEvaluationOptions(
        engines=EnginePair(
            small=_engine(small_model, kv_cache_gib, small_args, [], flag=""),
            large=_engine(large_model, kv_cache_gib, large_args, [], flag=""),
            max_model_len=max_model_len,
        ),
        questions=questions,
        parallel=parallel,
        rates=_rates(rates),
        seed=seed,
        context=build_context({"report": "brief", "max_seekers": 1}, parse_assignments(knobs or [])),
        tool_seconds=tool_seconds,
    )
    world = _World(
        seed=seed, languages=_languages(languages), hops=whole_numbers(hops, flag="--hops"), offset=offset
    )
    corpus = _closed_world(offset + questions + 1, world, None, out.absolute() / "corpora" / "closed-world")
    study = SelfEvaluation(corpora=[corpus], options=options, folder=out)
    try:
        with stop_on_signals(), step_progress(len(study.missing) + 1) as on_step:
            study.run(on_step=on_step, on_done=_report)
    finally:
        if any((out / "cells").glob("*.json")):
            rows = self_evaluation_rows(read_cells(out))
            _write(rows, out, json_file, options)
            typer.echo("\n".join(_table(rows)))
    if plots is not None:
        from agentinfer_lg.evals.self_evaluation_plots import draw_self_evaluation

        for file in draw_self_evaluation(rows, plots):
            typer.echo(f"drawn: {file}", err=True)


def _rates(text: str) -> list[float | None]:
    """Read different error rates; `own` gives None.

    Raises:
        UserInputError: There is none, or one is no rate or there twice.
    """
    try:
        found = [None if name == "own" else float(name) for name in names(text)]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found) or not all(rate is None or 0 <= rate <= 1 for rate in found):
        msg = f"--rates takes different numbers from 0 to 1, and own, separated by commas, not {text!r}"
        raise UserInputError(msg)
    return found


def _write(
    rows: Sequence[SelfEvaluationRow], out: Path, json_file: Path | None, options: SelfEvaluationOptions
) -> None:
    from agentinfer_lg.evals.engine import versions

    settings = {
        "engines": options.engines.to_json(),
        "context": options.context.model_dump(),
        "questions": options.questions,
        "parallel": options.parallel,
        "seed": options.seed,
        "tool_seconds": options.tool_seconds,
    }
    content = {"rows": [row.to_json() for row in rows], "settings": settings, "versions": versions()}
    for file in (out / "rows.json", json_file):
        if file is not None:
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _table(rows: Sequence[SelfEvaluationRow]) -> list[str]:
    head = (
        "error rate", "verifier", "questions", "accuracy", "difference (95%)", "F1", "turns", "large", "escalations",
        "tokens", "ratio (95%)", "computed", "ran out", "checks", "flipped", "observed error", "own TRUE wrong",
        "own FALSE wrong",
    )  # fmt: skip
    return aligned([head, *(_cells(row) for row in rows)])


def _cells(row: SelfEvaluationRow) -> tuple[str, ...]:
    return (
        "own" if row.rate is None else f"{row.rate:g}",
        "on" if row.verifier else "off",
        str(row.questions),
        f"{row.accuracy:.0%}",
        f"{row.accuracy_difference:+.2f}" if row.accuracy_difference else "-",
        f"{row.f1:.2f}",
        f"{row.turns:.1f}",
        f"{row.large_share:.0%}",
        f"{row.escalations:.2f}",
        f"{row.tokens:,.0f}",
        f"{row.tokens_ratio:.2f}" if row.tokens_ratio else "-",
        f"{row.computed_tokens:,.0f}",
        f"{row.ran_out:.0%}",
        str(row.checks),
        str(row.flips),
        _percent(row.observed_error),
        _percent(row.own_false_positives),
        _percent(row.own_false_negatives),
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
