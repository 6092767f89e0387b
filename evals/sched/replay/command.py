"""`agentinfer bench sched`: AgentSched against other schedulers, on recorded traces."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.flags import names, whole_numbers
from agentinfer_lg.evals.common.progress import planned_progress
from agentinfer_lg.evals.common.study import INTERRUPTED, StudyFlags, study
from agentinfer_lg.evals.common.tables import aligned

if TYPE_CHECKING:
    from agentinfer_lg.evals.sched.replay.run import Cell, Grid, Run

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class SchedFlags(StudyFlags):
    """Flags of `agentinfer bench sched`."""

    policies: Annotated[str, typer.Option(help="Schedulers, separated by commas; default: all.")] = ""
    concurrency: Annotated[
        str, typer.Option(help="Numbers of sessions at the same time, separated by commas.")
    ] = "4,8,16,32,64"
    presets: Annotated[str, typer.Option(help="Machines with a model, separated by commas.")] = (
        "ascend-910b3-7b-tp2"
    )
    trace: Annotated[
        Literal["coding", "mooncake", "short-stream", "long-stream", "bursts"],
        typer.Option(
            help="coding: agents, closed loop; mooncake: conversations, open loop; the others are made up: sessions "
            "against a stream of short or of long prompts, or bursts of them."
        ),
    ] = "coding"
    part: Annotated[
        Literal["report", "tune"],
        typer.Option(help="Half of the trace; settings were chosen on `tune`."),
    ] = "report"
    gaps: Annotated[
        Literal["recorded", "short", "long"],
        typer.Option(help="Time that tools take: as recorded; median under 2 s; median over 10 s."),
    ] = "recorded"
    one_shots: Annotated[
        float, typer.Option(min=0, max=12, help="One-shot tool requests after each call, on average.")
    ] = 1.5
    kv_tokens: Annotated[
        int | None, typer.Option(min=1024, help="Tokens that the KV cache holds; default: the machine's.")
    ] = None
    sessions_per_place: Annotated[
        float, typer.Option(min=1, help="Sessions replayed, per one at the same time.")
    ] = 2.0
    max_calls: Annotated[int, typer.Option(min=4, help="Most requests per session.")] = 40
    seeds: Annotated[int, typer.Option(min=1, help="Workloads; each is replayed with every policy.")] = 1
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2
    plots: Annotated[Path | None, typer.Option(help="Folder for plots.")] = None
    plot_format: Annotated[Literal["svg", "png"], typer.Option(help="Format of plots.")] = "svg"
    data: Annotated[Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")] = (
        None
    )


@study(app, SchedFlags)
def sched(flags: SchedFlags) -> ExitCode | None:
    """Replay recorded traces against vLLM's real scheduler and KV cache manager; no model is run.

    A step takes the time that a roofline model of the machine says. Ctrl-C shows what was measured until then.
    """
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it tells about devices that a replay does not need
    try:
        from agentinfer_lg.evals.sched.replay.run import Grid, run_grid
    except ImportError as error:
        msg = f"The replay needs {error.name}: pip install 'agentinfer-lg[evals]'."
        raise UserInputError(msg) from error
    if importlib.util.find_spec("vllm") is None:
        msg = "The replay drives the scheduler of vLLM, which is not installed: see docs/serving.md."
        raise UserInputError(msg)
    same = (
        "trace",
        "part",
        "gaps",
        "one_shots",
        "kv_tokens",
        "sessions_per_place",
        "max_calls",
        "seeds",
        "data",
    )
    grid = Grid(
        policies=tuple(names(flags.policies)),
        concurrency=tuple(whole_numbers(flags.concurrency, flag="--concurrency")),
        presets=tuple(names(flags.presets)),
        **flags.told(*same),
    )
    runs: list[Run] = []
    code = ExitCode.COMPLETE
    try:
        with planned_progress() as (on_plan, on_session):
            runs.extend(run_grid(grid, jobs=flags.jobs, on_plan=on_plan, on_session=on_session))
    except KeyboardInterrupt:
        typer.echo(INTERRUPTED, err=True)
        code = ExitCode.INTERRUPTED
    _report(grid, runs, flags)
    return code


def _report(grid: Grid, runs: list[Run], flags: SchedFlags) -> None:
    from agentinfer_lg.evals.sched.replay.run import cells, versions

    order = {case: place for place, case in enumerate(grid.cases)}
    runs.sort(key=lambda run: order[run.case])
    joined = cells(runs)
    typer.echo("\n".join(_table(grid, joined)))
    flags.write(
        {
            "settings": {**grid.settings, **_gap_figures(grid)},
            "versions": versions(),
            "rows": [run.row() for run in runs],
            "pooled": [cell.row() for cell in joined],
        }
    )
    if flags.plots is not None and joined:
        from agentinfer_lg.evals.sched.replay.plots import draw

        for file in draw(joined, flags.plots, form=flags.plot_format):
            typer.echo(f"drawn: {file}", err=True)


_COLUMNS = (
    ("hit rate", "{hit_rate:.1%}"),
    ("<4K", "{hit_rate_4k:.1%}"),
    ("4-32K", "{hit_rate_32k:.1%}"),
    (">32K", "{hit_rate_long:.1%}"),
    ("bound", "{belady_hit_rate:.1%}"),
    ("covered", "{bound_covered:.0%}"),
    ("completion s", "{mean_completion_s:.0f}"),
    ("p50", "{p50_completion_s:.0f}"),
    ("p95", "{p95_completion_s:.0f}"),
    ("p99", "{p99_completion_s:.0f}"),
    ("max", "{max_completion_s:.0f}"),
    ("vs fcfs", "{vs_fcfs:.3f} ({vs_fcfs_low:.3f}-{vs_fcfs_high:.3f})"),
    ("TTFT s", "{mean_ttft_s:.2f}"),
    ("p99", "{p99_ttft_s:.1f}"),
    ("wait s", "{mean_wait_s:.2f}"),
    ("p99", "{p99_wait_s:.1f}"),
    ("max", "{max_wait_s:.1f}"),
    ("preempted", "{preemptions}"),
    ("recomputed K", "{recomputed_k:.0f}"),
)
_ATTACK_COLUMNS = (
    ("victims: completion s", "{victim_mean_completion_s:.0f}"),
    ("p99 wait", "{victim_p99_wait_s:.1f}"),
    ("max wait", "{victim_max_wait_s:.1f}"),
    ("stream: completion s", "{stream_mean_completion_s:.1f}"),
    ("p99 wait", "{stream_p99_wait_s:.1f}"),
    ("max wait", "{stream_max_wait_s:.1f}"),
)


def _table(grid: Grid, joined: Sequence[Cell]) -> list[str]:
    """One Markdown table per machine and concurrency."""
    if not joined:
        return ["nothing was measured"]
    cache = "the machine's" if grid.kv_tokens is None else f"{grid.kv_tokens} tokens"
    gaps = _gap_figures(grid)
    half = "" if grid.attack else f", half {grid.part}"
    lines = [f"trace {grid.trace}{half}, KV cache {cache}"]
    lines.append(
        "bound: hit rate of the best eviction at the same order; covered: share of the way there from fcfs; vs fcfs: ratio "
        "of the mean completion times of the same sessions, with its 95% interval"
    )
    if gaps:
        lines[0] += (
            f", gaps {grid.gaps}: recorded x {gaps['gap_scale']:.3f} (median of tools {gaps['median_tool_gap_s']:.1f} s)"
        )
    if grid.attack:
        lines.append("victims: the sessions under attack; stream: the one-call requests that attack them")
    columns = (*_COLUMNS, *_ATTACK_COLUMNS) if grid.attack else _COLUMNS
    for (preset, count), group in groupby(joined, key=lambda cell: (cell.case.preset, cell.case.concurrency)):
        rows = [cell.row() for cell in group]
        lines += [
            "",
            f"{preset}, {count} at the same time: {rows[0]['sessions']} sessions, {rows[0]['calls']} requests",
        ]
        head = ("policy", *(title for title, _ in columns))
        lines += ["", *aligned([head, *(_cells(row, columns) for row in rows)])]
    return lines


def _gap_figures(grid: Grid) -> dict[str, float]:
    from agentinfer_lg.evals.sched.replay.run import gap_scale, median_tool_gap

    if grid.trace != "coding":
        return {}
    scale = gap_scale(grid)
    return {"gap_scale": scale, "median_tool_gap_s": scale * median_tool_gap(grid)}


def _cells(
    row: dict[str, Any],  # Any: figures
    columns: Sequence[tuple[str, str]],
) -> tuple[str, ...]:
    row = {**row, "recomputed_k": row["recomputed_tokens"] / 1000}
    return (row["policy"], *(_filled(form, row) for _, form in columns))


def _filled(form: str, row: dict[str, Any]) -> str:
    try:
        return form.format_map(row)
    except (KeyError, TypeError):  # there was nothing to measure it on
        return "-"
