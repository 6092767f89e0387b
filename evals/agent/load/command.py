"""`agentinfer bench load`: lambda, hit rate and QPS of the whole agent with many questions at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent import command_options as agent
from agentinfer_lg.evals.common.flags import different_names, whole_numbers
from agentinfer_lg.evals.common.progress import step_progress
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import aligned, filled

if TYPE_CHECKING:
    from agentinfer_lg.evals.agent.configurations import Configuration
    from agentinfer_lg.evals.agent.load.figures import LoadRow
    from agentinfer_lg.evals.agent.load.run import LoadOptions, LoadRun

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class LoadFlags(StudyFlags):
    """Flags of `agentinfer bench load`."""

    small_model: agent.SmallModel
    large_model: agent.LargeModel
    concurrency: agent.Concurrency = "4,8,16"
    configurations: Annotated[
        str, typer.Option(help="Which ones, separated by commas; those of `bench ablation`.")
    ] = "all,+compress"
    questions_per_place: agent.QuestionsPerPlace = 2
    sample_seconds: Annotated[
        float, typer.Option(min=0.1, help="From one look at the servers' /metrics to the next.")
    ] = 2.0
    window: Annotated[float, typer.Option(min=1.0, help="Seconds over which hit rate and QPS move.")] = 60.0
    kv_cache_gib: agent.KvCacheGib = None
    max_model_len: agent.MaxModelLen = 16_384
    small_args: agent.SmallArgs = ""
    small_env: agent.SmallEnv = None
    large_args: agent.LargeArgs = ""
    large_env: agent.LargeEnv = None
    knobs: agent.Knobs = None
    tool_seconds: agent.ToolSeconds = 1.0
    benchmarks: agent.Benchmarks = "closed-world"
    seed: agent.Seed = 1
    languages: agent.Languages = "en,zh"
    hops: agent.Hops = "2,3,4,5,6"
    data: agent.HotpotData = None
    offset: agent.Offset = 0
    out: agent.Out = Path("runs/load")
    plots: agent.Plots = None
    plot_format: Annotated[Literal["svg", "png"], typer.Option(help="Format of charts.")] = "svg"
    json_file: agent.JsonFile = None


@study(app, LoadFlags)
def load(flags: LoadFlags) -> None:
    """Answer many questions at the same time, with AgentSched and without, and watch the servers: lambda, hit rate, QPS.

    Starts servers of its own, one configuration after the other, and needs the machine for itself. Killed at any point, the
    same command goes on with the cell that was cut off.
    """
    from agentinfer_lg.cli.options import build_context, parse_assignments
    from agentinfer_lg.evals.agent.load.run import LoadOptions, LoadRun
    from agentinfer_lg.evals.common.charts import require_matplotlib

    if flags.plots is not None:
        require_matplotlib()
    options = LoadOptions(
        engines=agent.engine_pair(
            models=(flags.small_model, flags.large_model),
            max_model_len=flags.max_model_len,
            kv_cache_gib=flags.kv_cache_gib,
            variables=(flags.small_env or [], flags.large_env or []),
            args=(flags.small_args, flags.large_args),
        ),
        configurations=_configurations(flags.configurations),
        concurrency=tuple(whole_numbers(flags.concurrency, flag="--concurrency")),
        questions_per_place=flags.questions_per_place,
        context=build_context({"report": "brief"}, parse_assignments(flags.knobs or [])),
        tool_seconds=flags.tool_seconds,
        sample_seconds=flags.sample_seconds,
    )
    spoken, lengths = agent.known_languages(flags.languages), whole_numbers(flags.hops, flag="--hops")
    world = agent.World(seed=flags.seed, languages=spoken, hops=lengths, offset=flags.offset)
    corpora = agent.make_corpora(
        different_names(flags.benchmarks), options.questions, world, flags.data, flags.out
    )
    benchmark = LoadRun(corpora=corpora, options=options, folder=flags.out)
    benchmark.prepare()
    try:
        _run(benchmark)
    finally:
        _report(
            flags.out,
            options,
            window=flags.window,
            json_file=flags.json_file,
            plots=flags.plots,
            plot_format=flags.plot_format,
        )


def _configurations(text: str) -> tuple[Configuration, ...]:
    from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS, find_configuration

    chosen = tuple(map(find_configuration, different_names(text)))
    if not chosen:
        msg = f"--configurations takes some of {', '.join(CONFIGURATIONS)}, separated by commas"
        raise UserInputError(msg)
    return chosen


def _run(benchmark: LoadRun) -> None:
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    missing = benchmark.missing
    steps = len(missing) + sum(map(len, missing.values()))
    with stop_on_signals(), step_progress(steps) as on_step:
        benchmark.run(on_step=on_step, on_done=agent.report_answer)


def _report(
    out: Path,
    options: LoadOptions,
    *,
    window: float,
    json_file: Path | None,
    plots: Path | None,
    plot_format: Literal["svg", "png"],
) -> None:
    """Tell what the folder holds, also after an interrupt."""
    from agentinfer_lg.evals.agent.load.figures import load_rows, load_series
    from agentinfer_lg.evals.agent.load.run import read_load_cells
    from agentinfer_lg.evals.common.run_store import CellFolder

    if not CellFolder(out).started:
        return
    cells = read_load_cells(out)
    rows = load_rows(cells)
    series = [load_series(cell, window_seconds=window) for cell in cells]
    figures = {
        "rows": [row.to_json() for row in rows],
        "series": [each.to_json() for each in series],
        "settings": options.to_json(),
    }
    agent.write_figures(figures, out, json_file)
    typer.echo("\n".join(_table(rows)))
    if plots is not None:
        from agentinfer_lg.evals.agent.load.plots import draw_load

        for file in draw_load(series, plots, form=plot_format):
            typer.echo(f"drawn: {file}", err=True)


def _table(rows: Sequence[LoadRow]) -> list[str]:
    head = (
        "n", "configuration", "questions", "failed", "QPS x1000", "end to end s", "p95 s", "cache hits", "lambda", "p95",
        "max", "above half", "turns/min", "preemptions", "waiting", "KV mean", "KV max",
    )  # fmt: skip
    return aligned([head, *(_cells(row) for row in rows)])


def _cells(row: LoadRow) -> tuple[str, ...]:
    prices = [
        (each.mean, each.p95, each.highest, each.above_half, each.switches_per_minute) for each in row.prices
    ]
    mean, p95, highest, above_half, switches = prices[0] if prices else (None,) * 5
    return (
        str(row.n),
        row.configuration,
        str(row.questions),
        str(row.failures),
        f"{1000 * row.qps:.2f}",
        filled(row.end_to_end_s, ".1f"),
        filled(row.end_to_end_p95_s, ".1f"),
        filled(row.hit_rate, ".0%"),
        filled(mean, ".2f"),
        filled(p95, ".2f"),
        filled(highest, ".2f"),
        filled(above_half, ".0%"),
        filled(switches, ".1f"),
        f"{row.preemptions:.0f}",
        filled(row.waiting, ".1f"),
        filled(row.kv_usage, ".0%"),
        filled(row.kv_usage_max, ".0%"),
    )
