"""`agentinfer research`: ask a question, watch, get a report."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from agentinfer_lg.cli.failures import ExitCode, explain, remember_debug, sentence
from agentinfer_lg.cli.options import build_context, load_settings, parse_assignments
from agentinfer_lg.context import CollabBudget, CollabPolicy, Context, Language, ReportForm
from agentinfer_lg.errors import UserInputError

if TYPE_CHECKING:
    from agentinfer_lg.cli.runner import AskPlan, Outcome, Run
    from agentinfer_lg.settings import Settings

app = typer.Typer()

_KEY_HELP = "Prefer the variable {}: a flag can be seen by other users of this machine."
_ENDPOINT, _KNOBS, _OUTPUT, _RUNS = "Endpoints and documents", "Knobs", "Output", "Saved runs"


def _flag(name: str, text: str, panel: str, **more: Any) -> Any:  # Any: typer's own signature
    return typer.Option(name, help=text, rich_help_panel=panel, show_default=False, **more)


@app.command(name="research")
def research(
    context: typer.Context,
    question: Annotated[
        str | None, typer.Argument(help="The question; - reads it from stdin.", show_default=False)
    ] = None,
    docs: Annotated[
        Path | None, _flag("--docs", "Folder to research (txt, md, html, pdf) instead of the web.", _ENDPOINT)
    ] = None,
    small_url: Annotated[str | None, _flag("--small-url", "Base URL of the small model.", _ENDPOINT)] = None,
    small_model: Annotated[
        str | None, _flag("--small-model", "Its name; default: the first one listed.", _ENDPOINT)
    ] = None,
    small_key: Annotated[
        str | None, _flag("--small-key", _KEY_HELP.format("AGENTINFER_SMALL__API_KEY"), _ENDPOINT)
    ] = None,
    large_url: Annotated[str | None, _flag("--large-url", "Base URL of the large model.", _ENDPOINT)] = None,
    large_model: Annotated[
        str | None, _flag("--large-model", "Its name; default: the first one listed.", _ENDPOINT)
    ] = None,
    large_key: Annotated[
        str | None, _flag("--large-key", _KEY_HELP.format("AGENTINFER_LARGE__API_KEY"), _ENDPOINT)
    ] = None,
    policy: Annotated[CollabPolicy | None, _flag("--policy", "Which model thinks.", _KNOBS)] = None,
    budget: Annotated[CollabBudget | None, _flag("--budget", "How long a rescue may last.", _KNOBS)] = None,
    max_turns: Annotated[int | None, _flag("--max-turns", "Think steps of each seeker.", _KNOBS)] = None,
    max_seekers: Annotated[int | None, _flag("--max-seekers", "Sub-tasks in parallel.", _KNOBS)] = None,
    max_seconds: Annotated[float | None, _flag("--max-seconds", "Seconds a run may take.", _KNOBS)] = None,
    max_large_steps: Annotated[
        int | None, _flag("--max-large-steps", "Think steps of the large model.", _KNOBS)
    ] = None,
    max_small_tokens: Annotated[
        int | None, _flag("--max-small-tokens", "Tokens of the small tier.", _KNOBS)
    ] = None,
    max_large_tokens: Annotated[
        int | None, _flag("--max-large-tokens", "Tokens of the large tier.", _KNOBS)
    ] = None,
    language: Annotated[
        Language | None, _flag("--language", "Language of prompts and report.", _KNOBS)
    ] = None,
    report: Annotated[
        ReportForm | None, _flag("--report", "A written report, or the findings.", _KNOBS)
    ] = None,
    plan_approval: Annotated[
        bool, _flag("--plan-approval", "Show the plan and wait for approval.", _KNOBS)
    ] = False,
    tenant: Annotated[
        str | None, _flag("--tenant", "Namespace of the user in the engine's memory.", _KNOBS)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        _flag("--set", "Any other knob, KEY=VALUE; may be repeated.", _KNOBS, metavar="KEY=VALUE"),
    ] = None,
    json_output: Annotated[
        bool, _flag("--json", "One JSON object on stdout, everything else on stderr.", _OUTPUT)
    ] = False,
    output: Annotated[
        Path | None, _flag("--output", "Write the report (with --json: the object) to a file too.", _OUTPUT)
    ] = None,
    quiet: Annotated[bool, _flag("--quiet", "No progress and no table.", _OUTPUT)] = False,
    debug: Annotated[bool, _flag("--debug", "Show the traceback of an error.", _OUTPUT)] = False,
    thread: Annotated[
        str | None, _flag("--thread", "Name of this run; default: date and digits.", _RUNS)
    ] = None,
    resume: Annotated[
        str | None,
        _flag("--resume", "Go on with a saved run, or print its report again.", _RUNS, metavar="THREAD"),
    ] = None,
    approve: Annotated[bool, _flag("--approve", "Approve the plan without asking.", _RUNS)] = False,
    plan: Annotated[
        Path | None, _flag("--plan", "File with the plan to use instead, a sub-question per line.", _RUNS)
    ] = None,
    no_checkpoint: Annotated[bool, _flag("--no-checkpoint", "Save nothing on disk.", _RUNS)] = False,
) -> None:
    """Research a question and print a report that cites its sources.

    The report goes to stdout, progress and the table of what happened to stderr. Ctrl-C stops a run;
    `--resume` goes on from its last finished step.
    """
    remember_debug(debug)
    knobs = {name: value for name, value in context.params.items() if name in Context.model_fields}
    knobs["plan_approval"] = True if plan_approval or plan else None
    flags = {
        "docs": str(docs.absolute()) if docs else None,
        "small_url": small_url,
        "small_model": small_model,
        "large_url": large_url,
        "large_model": large_model,
    }
    try:
        _check_output(output)
        ask_plan = _plan_asker(approve=approve, plan=plan)
        request = _request(
            question=question,
            resume=resume,
            thread=thread,
            save=not no_checkpoint,
            flags=flags,
            keys={"small": small_key, "large": large_key},
            knobs={**parse_assignments(assignments or ()), **_given(knobs)},
        )
        outcome = _run(request, ask_plan, quiet=quiet)
    except Exception as error:
        code = explain(error)
        if json_output:
            _print_json({"error": sentence(error), "exit_code": int(code)})
        raise typer.Exit(int(code)) from None
    _finish(outcome, request, json_output=json_output, output=output, quiet=quiet)
    raise typer.Exit(int(outcome.code))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _request(
    *,
    question: str | None,
    resume: str | None,
    thread: str | None,
    save: bool,
    flags: Mapping[str, str | None],
    keys: Mapping[str, str | None],
    knobs: Mapping[str, object],
) -> Run:
    """Put the run together from the flags, or from what was saved and the flags."""
    from agentinfer_lg.cli.runner import Run
    from agentinfer_lg.threads import Threads

    record = None
    if resume is not None:
        if question is not None or thread is not None or not save:
            msg = "--resume takes question and name from the saved run: leave out the question, --thread, --no-checkpoint."
            raise UserInputError(msg)
        record = Threads(load_settings().home).load(resume)
    options = {**(record.options if record else {}), **_given(flags)}
    settings = _settings(options, keys)
    context = build_context(record.context if record else {}, knobs)
    if record is None:
        record = _new_record(question, thread, settings, save=save)
    record = replace(record, context=context.model_dump(), options=_storable(options))
    return Run(record=record, settings=settings, context=context, resume=resume is not None, save=save)


def _new_record(question: str | None, thread: str | None, settings: Settings, *, save: bool) -> Any:
    from datetime import datetime

    from agentinfer_lg.question import check_question
    from agentinfer_lg.threads import RunRecord, Threads, check_thread_name, new_thread_name

    if question is None:
        msg = "There is no question. Give it in quotes, pass - to read it from stdin, or name a run with --resume."
        raise UserInputError(msg)
    asked = check_question(sys.stdin.read() if question == "-" else question)
    name = check_thread_name(thread) if thread is not None else new_thread_name()
    if save and Threads(settings.home).exists(name):
        msg = (
            f"There is a run named {name!r} already. Go on with --resume {name}, or choose another --thread."
        )
        raise UserInputError(msg)
    created = datetime.now(tz=UTC).isoformat(timespec="seconds")
    return RunRecord(thread=name, question=asked, created=created)


def _settings(options: Mapping[str, str], keys: Mapping[str, str | None]) -> Settings:
    """Read the settings, and make sure that there is something to search."""
    from agentinfer_lg.tools.providers import find_provider

    docs = Path(options["docs"]) if "docs" in options else None
    if docs is not None and not docs.is_dir():
        msg = f"--docs {docs}: there is no such folder."
        raise UserInputError(msg)
    tiers = {
        tier: {
            "base_url": options.get(f"{tier}_url"),
            "model": options.get(f"{tier}_model"),
            "api_key": keys[tier],
        }
        for tier in ("small", "large")
    }
    settings = load_settings(docs=docs, small=tiers["small"], large=tiers["large"])
    find_provider(settings)
    return settings


def _storable(options: Mapping[str, str]) -> dict[str, str]:
    """What may be written to disk: no URL with a password or a token in it."""
    return {
        key: value
        for key, value in options.items()
        if not (key.endswith("_url") and ("@" in value or urlsplit(value).query))
    }


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    folder = output.absolute().parent
    if (
        output.is_dir()
        or not folder.is_dir()
        or not os.access(output if output.exists() else folder, os.W_OK)
    ):
        msg = f"--output {output} cannot be written. Name a file in a folder that exists and can be written."
        raise UserInputError(msg)


def _plan_asker(*, approve: bool, plan: Path | None) -> AskPlan:
    """How a plan gets approved: by flag, by file, by asking, or not now."""
    if plan is not None:
        try:
            text = plan.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"--plan {plan} cannot be read as text ({error})."
            raise UserInputError(msg) from error
        wanted = [line.strip() for line in text.splitlines() if line.strip()]
        if not 1 <= len(wanted) <= 8:
            msg = f"--plan {plan} has {len(wanted)} lines. A plan has 1 to 8 sub-questions, one per line."
            raise UserInputError(msg)
        return lambda _: wanted
    if approve:
        return lambda _: True
    if sys.stdin.isatty() and sys.stderr.isatty():
        return _ask
    return lambda _: None


def _ask(plan: list[str]) -> list[str] | bool | None:
    from agentinfer_lg.cli.live import plain

    typer.echo("The plan:", err=True)
    for number, part in enumerate(plan, 1):
        typer.echo(f"  {number}. {plain(part)}", err=True)
    try:
        while True:
            typer.echo("Enter: approve, e: edit, c: cancel > ", nl=False, err=True)
            match input().strip().lower():
                case "" | "y" | "yes":
                    return True
                case "c" | "n" | "no":
                    return False
                case "e":
                    edited = _read_plan()
                    if edited:
                        return edited
    except (EOFError, KeyboardInterrupt):
        typer.echo("", err=True)
        return None


def _read_plan() -> list[str]:
    typer.echo("One sub-question per line (at most 8), an empty line to end:", err=True)
    lines: list[str] = []
    while len(lines) < 8:
        line = input().strip()
        if not line:
            break
        lines.append(line)
    return lines


def _run(request: Run, ask_plan: AskPlan, *, quiet: bool) -> Outcome:
    from rich.console import Console

    from agentinfer_lg.cli.live import make_view
    from agentinfer_lg.cli.runner import run

    with make_view(quiet=quiet, console=Console(stderr=True)) as view:
        return asyncio.run(run(request, view=view, ask_plan=ask_plan))


def _finish(outcome: Outcome, request: Run, *, json_output: bool, output: Path | None, quiet: bool) -> None:
    """Print report and table, and write the file."""
    from rich.console import Console

    from agentinfer_lg.cli.summary import print_report, summary_table

    result = outcome.result
    errors = Console(stderr=True)
    if json_output:
        _print_json(_json_object(outcome))
    elif result["report"]:
        print_report(result["report"], Console())
    if not quiet:
        errors.print(summary_table(result))
    if output is not None:
        _write_output(output, outcome, json_output=json_output)
    for text in (outcome.error, *outcome.notes, _next_step(outcome, quiet=quiet)):
        if text:
            errors.print(text, markup=False, highlight=False, soft_wrap=True)


def _json_object(outcome: Outcome) -> dict[str, Any]:
    return {
        **outcome.result,
        "waiting_for": "plan_approval" if outcome.plan else None,
        "resumable": outcome.resumable,
        "notes": outcome.notes,
        "error": outcome.error or None,
        "exit_code": int(outcome.code),
    }


def _next_step(outcome: Outcome, *, quiet: bool) -> str:
    """How to go on from here."""
    thread = outcome.result["thread"]
    command = f"agentinfer research --resume {thread}"
    match outcome.code:
        case ExitCode.WAITING:
            if outcome.resumable:
                return f"The plan waits for approval. Go on with: {command} --approve (or --plan FILE)"
            return "The plan was not approved, and the run was not saved. Pass --approve or --plan FILE."
        case ExitCode.COMPLETE:
            return "" if quiet or not outcome.resumable else f"run {thread}; to see it again: {command}"
        case _ if outcome.result["report"]:
            return "" if quiet or not outcome.resumable else f"run {thread}; to see it again: {command}"
        case _:
            stopped = "Stopped." if outcome.code is ExitCode.INTERRUPTED else ""
            return f"{stopped} Go on with: {command}".strip() if outcome.resumable else stopped


def _print_json(value: Mapping[str, Any]) -> None:
    from agentinfer_lg.cli.summary import to_json

    sys.stdout.buffer.write(to_json(value).encode("utf-8") + b"\n")
    sys.stdout.flush()


def _write_output(output: Path, outcome: Outcome, *, json_output: bool) -> None:
    from agentinfer_lg.cli.summary import to_json

    text = to_json(_json_object(outcome)) + "\n" if json_output else outcome.result["report"]
    try:
        output.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        typer.secho(f"--output {output} could not be written: {error}", fg=typer.colors.RED, err=True)
