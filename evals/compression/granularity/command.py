"""`agentinfer bench granularity`: whether exact details survive the distillation of tool results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.cli.options import build_context, load_settings
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.flags import names
from agentinfer_lg.evals.common.progress import step_progress
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import aligned

if TYPE_CHECKING:
    from agentinfer_lg.context import Context
    from agentinfer_lg.evals.compression.granularity.run import GranularityBenchmark, Policy, Row
    from agentinfer_lg.evals.compression.granularity.session import DetailSession
    from agentinfer_lg.settings import Settings

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class GranularityFlags(StudyFlags):
    """Flags of `agentinfer bench granularity`."""

    url: Annotated[
        str | None, typer.Option(help="Endpoint of the reader; default: the large tier of the settings.")
    ] = None
    model: Annotated[str | None, typer.Option(help="Model that reads; default: the first served.")] = None
    distill_url: Annotated[
        str | None, typer.Option(help="Endpoint of the distiller; default: the reader's.")
    ] = None
    distill_model: Annotated[str | None, typer.Option(help="Model that distills; default: the reader's.")] = (
        None
    )
    tasks: Annotated[
        str, typer.Option(help="generated, airline (tau-bench, see docs/data.md), or both, by commas.")
    ] = "generated"
    policies: Annotated[
        str,
        typer.Option(
            help="Of full, notes, recall, recall-guided, recall-auto, recall-without-details, extract, "
            "extract-recall, reading, by commas."
        ),
    ] = "full,notes,recall,recall-auto"
    part: Annotated[
        str, typer.Option(help="report: tasks to report on; tune: others, to try changes on.")
    ] = "report"
    seeds: Annotated[int, typer.Option(min=1, help="Generated sessions, of six questions each.")] = 10
    offset: Annotated[int, typer.Option(min=0, help="Generated sessions to leave out at the start.")] = 0
    limit: Annotated[int | None, typer.Option(min=1, help="Most sessions of each set.")] = None
    settings_of_run: Annotated[
        list[str] | None, typer.Option("--set", help="A knob of compression, as KEY=VALUE; repeatable.")
    ] = None
    parallel: Annotated[int, typer.Option(min=1, help="Sessions at once.")] = 2
    only_distill: Annotated[
        bool, typer.Option("--only-distill", help="Make the notes and stop: the reader can be served later.")
    ] = False
    data: Annotated[Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")] = (
        None
    )
    out: Annotated[Path, typer.Option(help="Folder of this run; an unfinished one is continued.")] = Path(
        "runs/granularity"
    )


@study(app, GranularityFlags)
def granularity(flags: GranularityFlags) -> ExitCode | None:
    """Ask for exact details of old tool results: with the whole context, with notes in their place, and with recall.

    The results are distilled before anybody knows what will be asked. Interrupted at any point, the same command goes on
    where it was.
    """
    from agentinfer_lg.evals.compression.granularity.run import GranularityBenchmark
    from agentinfer_lg.resources import Resources

    if flags.part not in ("tune", "report"):
        msg = f"--part is tune or report, not {flags.part!r}"
        raise UserInputError(msg)
    chosen = _policies(flags.policies)
    context = _context(flags.settings_of_run or [])
    sessions = _sessions(
        names(flags.tasks),
        context,
        seeds=flags.seeds,
        offset=flags.offset,
        limit=flags.limit,
        tune=flags.part == "tune",
        data=flags.data,
    )
    benchmark = GranularityBenchmark(
        sessions,
        chosen,
        Resources(_settings(flags.url, flags.model, flags.distill_url, flags.distill_model)),
        context=context,
        folder=flags.out.absolute(),
        parallel=flags.parallel,
    )
    code = _run(benchmark, sessions=len(sessions), only_distill=flags.only_distill)
    if not flags.only_distill:
        typer.echo("\n".join(_report(benchmark.rows, chosen)))
    flags.write(_json(benchmark.rows, chosen))
    return code


def _run(benchmark: GranularityBenchmark, *, sessions: int, only_distill: bool) -> ExitCode:
    """Run to the end or to an interrupt; what was finished stays in the folder."""

    async def work() -> None:
        if only_distill:
            await benchmark.distill(on_step=on_step)
        else:
            await benchmark.run(on_row=lambda row: on_step(_progress(row)))

    try:
        with step_progress(sessions if only_distill else benchmark.total) as on_step:
            on_step("asking")
            asyncio.run(work())
    except KeyboardInterrupt:
        typer.echo("Interrupted; the same command goes on from here.", err=True)
        return ExitCode.INTERRUPTED
    return ExitCode.COMPLETE


def _progress(row: Row) -> str:
    answer = " ".join(row.answer.split())[:40]
    return f"{'right' if row.right else 'wrong'} {row.session}/{row.probe} {row.policy}: {row.expected} <- {answer}"


def _sessions(
    sets: Sequence[str],
    context: Context,
    *,
    seeds: int,
    offset: int,
    limit: int | None,
    tune: bool,
    data: Path | None,
) -> list[DetailSession]:
    from agentinfer_lg.evals.compression.granularity.airline import airline_sessions
    from agentinfer_lg.evals.compression.granularity.tasks import REPORTED, TUNING, generated_session

    if not sets or not {"generated", "airline"}.issuperset(sets):
        msg = f"--tasks takes generated and airline, separated by commas, not {','.join(sets)!r}"
        raise UserInputError(msg)
    chosen: list[DetailSession] = []
    if "generated" in sets:
        numbers = (TUNING if tune else REPORTED)[offset:][:seeds][:limit]
        chosen += [generated_session(seed, keep_rounds=context.keep_rounds) for seed in numbers]
    if "airline" in sets:
        found = airline_sessions(data, part="tune" if tune else "report", keep_rounds=context.keep_rounds)
        chosen += found[:limit]
    return chosen


def _policies(text: str) -> list[Policy]:
    from agentinfer_lg.evals.compression.granularity.run import POLICIES

    chosen = names(text)
    if not chosen or not set(POLICIES).issuperset(chosen) or len(set(chosen)) != len(chosen):
        msg = f"--policies takes some of {', '.join(POLICIES)}, separated by commas, not {text!r}"
        raise UserInputError(msg)
    return cast("list[Policy]", chosen)


def _context(assignments: Sequence[str]) -> Context:
    from agentinfer_lg.cli.options import parse_assignments

    return build_context(parse_assignments(assignments))


def _settings(
    url: str | None, model: str | None, distill_url: str | None, distill_model: str | None
) -> Settings:
    large = {"base_url": url, "model": model}
    small = {"base_url": distill_url or url, "model": distill_model or model}
    return load_settings(small=small, large=large)


def _report(rows: Sequence[Row], policies: Sequence[Policy]) -> list[str]:
    from agentinfer_lg.evals.compression.granularity.figures import difference, figures

    if not rows:
        return ["nothing was measured"]
    heads = [
        "tasks",
        "policy",
        "n",
        "sessions",
        "accuracy",
        "95%",
        "in the notes",
        "shown",
        "recalls per task",
    ]
    heads += [
        "recall brought it",
        "prompt tokens",
        "of steps before",
        "lines removed",
        "notes without a model",
    ]
    table = [heads]
    table += [
        [
            each.set,
            each.policy,
            str(each.tasks),
            str(each.sessions),
            f"{each.accuracy:.1%}",
            f"{each.accuracy_low:.0%} to {each.accuracy_high:.0%}",
            "-" if each.policy == "full" else f"{each.in_notes:.0%}",
            f"{each.shown:.0%}",
            f"{each.recalls:.2f}",
            f"{each.recalled_right:.0%}",
            f"{each.prompt_tokens:.0f}",
            f"{each.step_tokens:.0f}",
            f"{each.removed:.1f}",
            str(each.failures),
        ]
        for each in figures(rows)
    ]
    lines = aligned(table)
    first = policies[0]
    for policy in policies[1:]:
        lines += [
            f"{each.set}: {policy} against {first} on the same {each.tasks} tasks: {each.points:+.1f} points "
            f"({each.low:+.1f} to {each.high:+.1f}); {each.won} won, {each.lost} lost"
            for each in difference(rows, policy, first)
        ]
    return lines


def _json(rows: Sequence[Row], policies: Sequence[Policy]) -> dict[str, Any]:  # Any: JSON
    from agentinfer_lg.evals.compression.granularity.figures import difference, figures

    return {
        "figures": [asdict(each) for each in figures(rows)],
        "differences": [
            asdict(each) for policy in policies[1:] for each in difference(rows, policy, policies[0])
        ],
        "rows": [asdict(row) for row in rows],
    }
