"""`agentinfer eval`: benchmarks of the whole agent."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentinfer_lg.context import CollabPolicy

if TYPE_CHECKING:
    from agentinfer_lg.evals.runner import Scored

__all__ = ("app", "default_data")

app = typer.Typer(name="eval", help="Run the agent on questions with known answers.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Run the agent on questions with known answers."""


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def hotpotqa(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set; default: $AGENTINFER_DATA/hotpotqa.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of this run; an unfinished one is continued.")] = Path(
        "runs/hotpotqa"
    ),
    policy: Annotated[CollabPolicy, typer.Option(help="Which model thinks.")] = "agentcollab",
    limit: Annotated[int, typer.Option(min=1, help="Number of questions.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Questions to leave out at the start.")] = 0,
    parallel: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """HotpotQA over a closed corpus: accuracy, tokens per tier, seconds, escalations.

    Every question is one `agentinfer research` run; further flags are passed on to it. Endpoints come from the
    environment. Interrupted at any point, the same command goes on where it was.
    """
    from agentinfer_lg.evals.benchmarks.hotpotqa import load_questions, write_corpus
    from agentinfer_lg.evals.runner import BenchmarkRun, run_benchmark, summarise

    folder = data or default_data() / "hotpotqa"
    questions = load_questions(folder, offset=offset, limit=limit)
    docs = out.absolute() / "corpus"
    typer.echo(f"{write_corpus(folder, docs)} paragraphs, {len(questions)} questions", err=True)
    run = BenchmarkRun(
        name="hotpotqa",
        folder=out.absolute(),
        questions=questions,
        data=folder.absolute(),
        docs=docs,
        flags=["--policy", policy, *context.args],
        parallel=parallel,
    )
    scored = asyncio.run(run_benchmark(run, on_done=_report))
    summary = {"policy": policy, **summarise(scored)}
    text = json.dumps(summary, indent=2) + "\n"
    (out / "summary.json").write_text(text, encoding="utf-8")
    if json_file is not None:
        json_file.write_text(text, encoding="utf-8")
    typer.echo("\n".join(_table(summary)))
    if len(scored) < len(questions):
        typer.echo(
            f"{len(questions) - len(scored)} questions failed; the same command tries them again.", err=True
        )
        raise typer.Exit(4)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(help="Folder of the run to compare it with.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set; default: $AGENTINFER_DATA/hotpotqa.")
    ] = None,
    min_turns: Annotated[
        int, typer.Option(min=0, help="Only questions that took at least so many turns in run B.")
    ] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Two runs on the same questions: paired differences and ratios, with 95% bootstrap intervals."""
    from dataclasses import asdict

    from agentinfer_lg.evals.benchmarks.hotpotqa import load_questions
    from agentinfer_lg.evals.compare import compare_runs, load_results

    questions = load_questions(data or default_data() / "hotpotqa", offset=0, limit=1_000_000)
    answers = {question.id: question.answer for question in questions}
    found = compare_runs(
        load_results(a), load_results(b), answers, keep=lambda _, other: other["turns"] >= min_turns
    )
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    rows = [
        ("exact match", found.exact_match, ".2f", f"{found.exact_match_difference:+.2f}"),
        ("F1", found.f1, ".3f", f"{found.f1_difference:+.3f}"),
        ("turns", found.turns, ".1f", f"x {found.turns_ratio:.2f}"),
        ("tokens", found.tokens, ",.0f", f"x {found.tokens_ratio:.2f}"),
        ("tokens not cached", found.computed, ",.0f", f"x {found.computed_ratio:.2f}"),
        ("seconds", found.seconds, ".0f", f"x {found.seconds_ratio:.2f}"),
    ]
    typer.echo(f"{found.questions} questions")
    typer.echo("| per question | A | B | A against B (95%) |\n| --- | --- | --- | --- |")
    for name, (left, right), spec, against in rows:
        typer.echo(f"| {name} | {left:{spec}} | {right:{spec}} | {against} |")


def default_data() -> Path:
    """Return the folder of all data sets.

    Raises:
        typer.BadParameter: AGENTINFER_DATA is not set.
    """
    folder = os.environ.get("AGENTINFER_DATA", "")
    if not folder:
        msg = "Pass --data FOLDER, or set AGENTINFER_DATA to the folder of the data sets (docs/data.md)."
        raise typer.BadParameter(msg)
    return Path(folder)


def _report(scored: Scored | None, failure: str) -> None:
    if scored is None:
        typer.echo(f"failed   {failure}", err=True)
        return
    mark = "right" if scored.correct else f"F1 {scored.f1:.2f}"
    answer = " ".join(scored.result["answer"].split())[:60]
    typer.echo(
        f"{mark:<8} {scored.result['seconds']['total']:5.0f} s  {scored.question.answer[:40]} <- {answer}",
        err=True,
    )


def _table(summary: dict[str, Any]) -> list[str]:  # Any: the JSON object of `summarise`
    if not summary["questions"]:
        return ["no question was finished"]
    tokens = summary["tokens"]
    return [
        "| policy | questions | EM | F1 | s per question | turns | large turns | escalations | re-prefill tokens "
        "| small tokens (cached) | large tokens (cached) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| {summary['policy']} | {summary['questions']} | {summary['exact_match']:.2f} | {summary['f1']:.3f} "
        f"| {summary['seconds_per_question']:.0f} | {summary['turns_per_question']:.1f} "
        f"| {summary['large_turns_share']:.0%} | {summary['escalations']} | {summary['reprefill_tokens']:,} "
        f"| {_tokens(tokens['small'])} | {_tokens(tokens['large'])} |",
    ]


def _tokens(usage: dict[str, int]) -> str:
    return f"{usage['prompt_tokens'] + usage['output_tokens']:,} ({usage['cached_tokens']:,})"
