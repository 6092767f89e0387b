"""Running a benchmark from the command line, and saying what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.context import CollabPolicy
from agentinfer_lg.errors import ConfigurationError, UserInputError
from agentinfer_lg.evals.common.study import StudyFlags

if TYPE_CHECKING:
    from agentinfer_lg.evals.agent.benchmark.run import BenchmarkRun, Scored
    from agentinfer_lg.evals.datasets.question import Question
    from agentinfer_lg.evals.grading.grades import Grades
    from agentinfer_lg.evals.grading.judge import Judge

T = TypeVar("T")


Out = Annotated[Path, typer.Option(help="Folder of this run; an unfinished one is continued.")]
Policy = Annotated[CollabPolicy, typer.Option(help="Which model thinks.")]
Limit = Annotated[int, typer.Option(min=1, help="Number of questions.")]
Offset = Annotated[int, typer.Option(min=0, help="Questions to leave out at the start.")]
Parallel = Annotated[int, typer.Option(min=1, help="Questions at once.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")]
WithProfile = Annotated[
    bool, typer.Option("--profile", help="Show where time and tokens went, and draw a chart.")
]


@dataclass(frozen=True, kw_only=True)
class BenchmarkFlags(StudyFlags):
    """Flags that all benchmarks have."""

    out: Out
    policy: Policy = "agentcollab"
    limit: Limit | None = 20
    offset: Offset = 0
    parallel: Parallel = 4
    json_file: JsonFile = None
    profile: WithProfile = False
    context: typer.Context

    @property
    def passed_on(self) -> Sequence[str]:
        """Further flags, for `agentinfer research`."""
        return self.context.args


def check_ready(flags: BenchmarkFlags, *, web: bool = False) -> None:
    """Make sure that a run can begin, before its first question fails, and its last.

    Args:
        flags: Of the run.
        web: Whether it searches the web.

    Raises:
        ConfigurationError: No endpoint is configured, or the web cannot be searched.
    """
    from agentinfer_lg.cli.options import load_settings
    from agentinfer_lg.tools.providers import find_provider

    settings = load_settings()
    if not any(flag.partition("=")[0] in ("--small-url", "--large-url") for flag in flags.passed_on):
        settings.endpoint("small")
    if not web:
        return
    if settings.docs is not None:
        msg = (
            f"AGENTINFER_DOCS is set ({settings.docs}), so that the web would not be searched. "
            "Unset it, or pass --docs FOLDER to research a folder."
        )
        raise ConfigurationError(msg)
    find_provider(settings)


def run_and_report(
    name: str,
    questions: Sequence[Question],
    flags: BenchmarkFlags,
    *,
    data: str,
    docs: Path | None,
    answers: Mapping[str, Sequence[Question]] | None = None,
    judge: bool = False,
) -> None:
    """Run what is missing, write `summary.json`, print tables.

    Args:
        name: Of the benchmark.
        questions: What is asked.
        flags: Of the run.
        data: Identifies the questions.
        docs: Folder to search; None: the web.
        answers: The questions with each set of right answers, where the run is to be graded; what people see of such a run on
            the terminal then has no answers in it.
        judge: Whether the configured judge grades too.

    Raises:
        UserInputError: There are no questions.
        ConfigurationError: The folder holds another run.
        typer.Exit: Questions failed (4), or it was interrupted (130).
    """
    from agentinfer_lg.evals.agent.benchmark.run import BenchmarkRun, summarise
    from agentinfer_lg.evals.agent.benchmark.tables import (
        grades_table,
        show_profile,
        summary_table,
        write_json,
    )

    if not questions:
        msg = "There are no questions left. Choose a smaller --offset."
        raise UserInputError(msg)
    run = BenchmarkRun(
        name=name,
        folder=flags.out.absolute(),
        questions=questions,
        data=data,
        docs=docs,
        flags=["--policy", flags.policy, *flags.passed_on],
        parallel=flags.parallel,
    )
    chosen = _choose_judge() if answers and judge else None
    scored, grades = _until_signal(_run_and_grade(run, answers or {}, chosen))
    summary: dict[str, Any] = {"policy": flags.policy, **summarise(scored)}
    if grades:
        summary["marks"] = [{"answers": each.answers, "judge": each.judge, **each.figures} for each in grades]
    write_json(summary, run.folder / "summary.json")
    typer.echo("\n".join(summary_table(summary)))
    if grades:
        typer.echo("\n" + "\n".join(grades_table(grades)))
    if flags.profile and scored:
        typer.echo("")
        summary["profile"] = show_profile(run.folder)
    write_json(summary, flags.json_file)
    _exit_if_incomplete(len(questions) - len(scored), sum(each.unjudged for each in grades))


async def _run_and_grade(
    run: BenchmarkRun, answers: Mapping[str, Sequence[Question]], judge: Judge | None
) -> tuple[list[Scored], list[Grades]]:
    from agentinfer_lg.evals.agent.benchmark.run import run_benchmark
    from agentinfer_lg.evals.grading.grades import grade_run

    scored = await run_benchmark(run, on_done=_report_secret if answers else _report)
    grades = await grade_run(
        run.folder,
        answers,
        judge,
        parallel=run.parallel,
        on_failure=lambda reason: typer.echo(f"unjudged {reason}", err=True),
    )
    return scored, grades


def _choose_judge() -> Judge | None:
    """Return the configured judge, if there is one, and say who grades."""
    from agentinfer_lg.cli.options import load_settings
    from agentinfer_lg.evals.grading.judge import ExactJudge, choose_judge

    judge, sentence = choose_judge(load_settings())
    typer.echo(sentence, err=True)
    return None if isinstance(judge, ExactJudge) else judge


def _until_signal(work: Coroutine[Any, Any, T]) -> T:  # Any: nobody sends or receives anything
    """Run `work`; Ctrl-C, SIGTERM and SIGHUP cancel it, a second one ends the process at once."""

    async def cancelled_by_signals() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.create_task(work)
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

        def stop() -> None:
            task.cancel()
            for number in numbers:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)

        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
            for number in numbers:
                loop.add_signal_handler(number, stop)
        return await task

    try:
        return asyncio.run(cancelled_by_signals())
    except asyncio.CancelledError:
        typer.echo("Interrupted. The same command goes on where it was.", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _exit_if_incomplete(failed: int, unjudged: int) -> None:
    if failed:
        typer.echo(f"{failed} questions failed; the same command tries them again.", err=True)
    if unjudged:
        typer.echo(f"{unjudged} answers were not judged; the same command tries them again.", err=True)
    if failed or unjudged:
        raise typer.Exit(ExitCode.PARTIAL)


def _report(scored: Scored | None, failure: str) -> None:
    if scored is None:
        typer.echo(f"failed   {failure}", err=True)
        return
    answer = " ".join(scored.result["answer"].split())[:60]
    typer.echo(f"{_mark(scored)}  {scored.question.answer[:40]} <- {answer}", err=True)


def _report_secret(scored: Scored | None, failure: str) -> None:
    """Report a question whose text and answers stay out of logs."""
    if scored is None:
        _report(None, failure)
    else:
        typer.echo(f"{_mark(scored)}  {scored.question.id}", err=True)


def _mark(scored: Scored) -> str:
    mark = "right" if scored.correct else f"F1 {scored.f1:.2f}"
    return f"{mark:<8} {scored.result['seconds']['total']:5.0f} s"
