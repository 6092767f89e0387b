"""`agentinfer bench self-evaluation`: what wrong Progress Checks cost, on a real engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent import command_options as agent
from agentinfer_lg.evals.common.flags import names, whole_numbers
from agentinfer_lg.evals.common.progress import step_progress
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import aligned, filled

if TYPE_CHECKING:
    from agentinfer_lg.evals.agent.self_evaluation.figures import SelfEvaluationRow
    from agentinfer_lg.evals.agent.self_evaluation.run import SelfEvaluationOptions

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class SelfEvaluationFlags(StudyFlags):
    """Flags of `agentinfer bench self-evaluation`."""

    small_model: agent.SmallModel
    large_model: agent.LargeModel
    questions: Annotated[int, typer.Option(min=1, help="Of the closed world; each under all conditions.")] = (
        20
    )
    parallel: Annotated[int, typer.Option(min=1, help="Questions at the same time.")] = 4
    rates: Annotated[
        str, typer.Option(help="Error rates to force, from 0 to 1; own: the model's own verdicts.")
    ] = "0,0.05,0.1,0.2,0.3,own"
    seed: Annotated[int, typer.Option(min=0, help="Of the closed world, and of which checks are wrong.")] = 1
    languages: agent.Languages = "en,zh"
    hops: agent.Hops = "2,3,4,5,6"
    offset: agent.Offset = 0
    tool_seconds: agent.ToolSeconds = 1.0
    max_model_len: agent.MaxModelLen = 16_384
    kv_cache_gib: agent.KvCacheGib = None
    small_args: agent.SmallArgs = ""
    large_args: agent.LargeArgs = ""
    small_env: agent.SmallEnv = None
    large_env: agent.LargeEnv = None
    knobs: agent.Knobs = None
    out: agent.Out = Path("runs/self-evaluation")
    json_file: agent.JsonFile = None
    plots: agent.Plots = None


@study(app, SelfEvaluationFlags, name="self-evaluation")
def self_evaluation(flags: SelfEvaluationFlags) -> None:
    """Force the error rate of Progress Checks, with the verifier and without: accuracy, tokens, escalations.

    Starts two servers and answers every question under every condition. Killed at any point, the same command goes on with
    the questions that are missing.
    """
    from agentinfer_lg.cli.options import build_context, parse_assignments
    from agentinfer_lg.evals.agent.self_evaluation.run import SelfEvaluation, SelfEvaluationOptions
    from agentinfer_lg.evals.common.charts import require_matplotlib
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    if flags.plots is not None:
        require_matplotlib()
    options = SelfEvaluationOptions(
        engines=agent.engine_pair(
            models=(flags.small_model, flags.large_model),
            kv_cache_gib=flags.kv_cache_gib,
            args=(flags.small_args, flags.large_args),
            variables=(flags.small_env or [], flags.large_env or []),
            max_model_len=flags.max_model_len,
        ),
        questions=flags.questions,
        parallel=flags.parallel,
        rates=_rates(flags.rates),
        seed=flags.seed,
        context=build_context({"report": "brief", "max_seekers": 1}, parse_assignments(flags.knobs or [])),
        tool_seconds=flags.tool_seconds,
    )
    spoken, lengths = agent.known_languages(flags.languages), whole_numbers(flags.hops, flag="--hops")
    world = agent.World(seed=flags.seed, languages=spoken, hops=lengths, offset=flags.offset)
    corpora = agent.make_corpora(["closed-world"], flags.questions + 1, world, None, flags.out)
    study = SelfEvaluation(corpora=corpora, options=options, folder=flags.out)
    study.prepare()
    try:
        with stop_on_signals(), step_progress(len(study.missing) + 1) as on_step:
            study.run(on_step=on_step, on_done=agent.report_answer)
    finally:
        _report(flags.out, options, json_file=flags.json_file, plots=flags.plots)


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


def _report(out: Path, options: SelfEvaluationOptions, *, json_file: Path | None, plots: Path | None) -> None:
    """Tell what the folder holds, also after an interrupt."""
    from agentinfer_lg.evals.agent.self_evaluation.figures import self_evaluation_rows
    from agentinfer_lg.evals.agent.self_evaluation.run import read_cells
    from agentinfer_lg.evals.common.run_store import CellFolder

    if not CellFolder(out).started:
        return
    rows = self_evaluation_rows(read_cells(out))
    agent.write_figures(
        {"rows": [row.to_json() for row in rows], "settings": options.to_json()}, out, json_file
    )
    typer.echo("\n".join(_table(rows)))
    if plots is not None:
        from agentinfer_lg.evals.agent.self_evaluation.plots import draw_self_evaluation

        for file in draw_self_evaluation(rows, plots):
            typer.echo(f"drawn: {file}", err=True)


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
        filled(row.accuracy_difference, "+.2f"),
        f"{row.f1:.2f}",
        f"{row.turns:.1f}",
        f"{row.large_share:.0%}",
        f"{row.escalations:.2f}",
        f"{row.tokens:,.0f}",
        filled(row.tokens_ratio, ".2f"),
        f"{row.computed_tokens:,.0f}",
        f"{row.ran_out:.0%}",
        str(row.checks),
        str(row.flips),
        filled(row.observed_error, ".0%"),
        filled(row.own_false_positives, ".0%"),
        filled(row.own_false_negatives, ".0%"),
    )
