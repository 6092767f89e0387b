"""`agentinfer bench ablation`: every part on and off on a real engine, end to end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentinfer_lg.evals.agent.command_options import (
    Benchmarks,
    Concurrency,
    Hops,
    HotpotData,
    JsonFile,
    Knobs,
    KvCacheGib,
    Languages,
    LargeArgs,
    LargeEnv,
    LargeModel,
    MaxModelLen,
    Offset,
    Out,
    Plots,
    QuestionsPerPlace,
    Seed,
    SmallArgs,
    SmallEnv,
    SmallModel,
    ToolSeconds,
    World,
    engine_pair,
    known_languages,
    make_corpora,
    report_answer,
    write_figures,
)
from agentinfer_lg.evals.common.flags import different_names, whole_numbers
from agentinfer_lg.evals.common.progress import step_progress
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import aligned, filled

if TYPE_CHECKING:
    from agentinfer_lg.evals.agent.ablation.figures import AblationRow, AblationTotal
    from agentinfer_lg.evals.agent.ablation.run import AblationOptions

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class AblationFlags(StudyFlags):
    """Flags of `agentinfer bench ablation`."""

    small_model: SmallModel
    large_model: LargeModel
    configurations: Annotated[str, typer.Option(help="Which ones, separated by commas; default: all.")] = ""
    concurrency: Concurrency = "1,4,8,16"
    benchmarks: Benchmarks = "closed-world"
    seed: Seed = 1
    languages: Languages = "en,zh"
    hops: Hops = "2,3,4,5,6"
    offset: Offset = 0
    data: HotpotData = None
    questions_per_place: QuestionsPerPlace = 1
    min_questions: Annotated[int, typer.Option(min=1, help="Least questions of a cell.")] = 4
    blocks: Annotated[int, typer.Option(min=1, help="Repeat everything so often, with other questions.")] = 1
    tool_seconds: ToolSeconds = 1.0
    max_model_len: MaxModelLen = 16_384
    kv_cache_gib: KvCacheGib = None
    small_args: SmallArgs = ""
    large_args: LargeArgs = ""
    small_env: SmallEnv = None
    large_env: LargeEnv = None
    knobs: Knobs = None
    out: Out = Path("runs/ablation")
    json_file: JsonFile = None
    plots: Plots = None


@study(app, AblationFlags)
def ablation(flags: AblationFlags) -> None:
    """Answer questions with every part on and off: QPS, seconds, accuracy, tokens.

    Starts servers of its own, one configuration after the other, and needs the machine for itself. Killed at any point, the
    same command goes on with the cell that was cut off.
    """
    from agentinfer_lg.cli.options import build_context, parse_assignments
    from agentinfer_lg.evals.agent.ablation.figures import ablation_rows, ablation_totals
    from agentinfer_lg.evals.agent.ablation.run import Ablation, AblationOptions, read_cells
    from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS, find_configuration
    from agentinfer_lg.evals.common.charts import require_matplotlib
    from agentinfer_lg.evals.common.run_store import CellFolder
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    if flags.plots is not None:
        require_matplotlib()
    options = AblationOptions(
        engines=engine_pair(
            models=(flags.small_model, flags.large_model),
            kv_cache_gib=flags.kv_cache_gib,
            args=(flags.small_args, flags.large_args),
            variables=(flags.small_env or [], flags.large_env or []),
            max_model_len=flags.max_model_len,
        ),
        configurations=tuple(
            find_configuration(name) for name in different_names(flags.configurations) or CONFIGURATIONS
        ),
        concurrency=tuple(whole_numbers(flags.concurrency, flag="--concurrency")),
        questions_per_place=flags.questions_per_place,
        min_questions=flags.min_questions,
        blocks=flags.blocks,
        context=build_context({"report": "brief"}, parse_assignments(flags.knobs or [])),
        tool_seconds=flags.tool_seconds,
    )
    world = World(
        seed=flags.seed,
        languages=known_languages(flags.languages),
        hops=whole_numbers(flags.hops, flag="--hops"),
        offset=flags.offset,
    )
    corpora = make_corpora(different_names(flags.benchmarks), options.questions, world, flags.data, flags.out)
    benchmark = Ablation(corpora=corpora, options=options, folder=flags.out)
    benchmark.prepare()
    missing = benchmark.missing
    loads = len({(block, configuration.name) for block, configuration, _ in missing})
    try:
        with stop_on_signals(), step_progress(len(missing) + loads) as on_step:
            benchmark.run(on_step=on_step, on_done=report_answer)
    finally:
        if CellFolder(flags.out).started:
            cells = read_cells(flags.out)
            rows, totals = ablation_rows(cells), ablation_totals(cells)
            figures = {
                "rows": [row.to_json() for row in rows],
                "totals": [total.to_json() for total in totals],
                "settings": _settings(options),
            }
            write_figures(figures, flags.out, flags.json_file)
            typer.echo("\n".join([*_table(rows), "", "All n together:", *_totals(totals)]))
    if flags.plots is not None:
        from agentinfer_lg.evals.agent.ablation.plots import draw_ablation

        for file in draw_ablation(read_cells(flags.out), flags.plots):
            typer.echo(f"drawn: {file}", err=True)


def _settings(options: AblationOptions) -> dict[str, Any]:  # Any: JSON
    return {
        "engines": options.engines.to_json(),
        "context": options.context.model_dump(),
        "questions_per_place": options.questions_per_place,
        "min_questions": options.min_questions,
        "blocks": options.blocks,
        "tool_seconds": options.tool_seconds,
    }


def _table(rows: list[AblationRow]) -> list[str]:
    head = (
        "n", "configuration", "questions", "failed", "QPS x1000", "end to end s", "speed-up (95%)", "QPS ratio", "accuracy",
        "difference (95%)", "F1", "tokens", "computed", "ineffective", "OTE", "cache hits",
    )  # fmt: skip
    return aligned([head, *(_cells(row) for row in rows)])


def _cells(row: AblationRow) -> tuple[str, ...]:
    return (
        str(row.n),
        row.configuration,
        str(row.questions),
        str(row.failures),
        f"{1000 * row.qps:.2f}",
        filled(row.end_to_end_s, ".1f"),
        filled(row.speedup_interval, ".2f"),
        filled(row.qps_ratio, ".2f"),
        f"{row.accuracy:.0%}",
        filled(row.accuracy_difference, "+.2f"),
        f"{row.f1:.2f}",
        f"{row.tokens:,.0f}",
        f"{row.computed_tokens:,.0f}",
        f"{row.ineffective_tokens:,.0f}",
        filled(row.ote, ".2f"),
        f"{row.cache_hit_rate:.0%}",
    )


def _totals(totals: list[AblationTotal]) -> list[str]:
    head = (
        "configuration", "questions", "failed", "accuracy", "difference (95%)", "F1", "tokens", "computed", "ineffective",
        "ratio (95%)", "speed-up (95%)",
    )  # fmt: skip
    return aligned([head, *(_total_cells(total) for total in totals)])


def _total_cells(total: AblationTotal) -> tuple[str, ...]:
    return (
        total.configuration,
        str(total.questions),
        str(total.failures),
        f"{total.accuracy:.0%}",
        filled(total.accuracy_difference, "+.2f"),
        f"{total.f1:.2f}",
        f"{total.tokens:,.0f}",
        f"{total.computed_tokens:,.0f}",
        f"{total.ineffective_tokens:,.0f}",
        filled(total.ineffective_ratio, ".2f"),
        filled(total.speedup_interval, ".2f"),
    )
