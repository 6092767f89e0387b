"""`agentinfer demo`: the whole thing with a small real model, and nothing to configure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentinfer_lg.cli.failures import ExitCode, explain
from agentinfer_lg.errors import UserInputError

if TYPE_CHECKING:
    from agentinfer_lg.serving.engine.launch import Server

app = typer.Typer()


# Nothing is saved: the engine that a resumed run would need is gone by then. The rest fits so small a model: given
# more turns it repeats itself, given more passages it mixes them up, and a report of its own adds things untrue.
_SMALL_STEPS = ("--no-checkpoint", "--max-turns", "3", "--report", "brief", "--set", "results_per_query=3")


@app.command(name="demo", context_settings={"allow_extra_args": True})
def demo(
    context: typer.Context,
    question: Annotated[
        str,
        typer.Argument(help="The question; default: one about the example documents.", show_default=False),
    ] = "",
    docs: Annotated[
        Path | None, typer.Option("--docs", help="Folder to research; default: the example documents.")
    ] = None,
) -> None:
    """Start the engine with a small model, research a question over a folder, stop the engine.

    The model is a toy by today's measure (135 million parameters): it shows how everything works together.
    Arguments after `--` go to `agentinfer research`.
    """
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    try:
        folder, asked = _task(question, docs)
        with stop_on_signals(), _engine() as server:
            typer.echo(f"Question: {asked}\n", err=True)
            code = _research(server, asked, folder, context.args)
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        code = int(ExitCode.INTERRUPTED)
    except Exception as error:
        code = int(explain(error))
    raise typer.Exit(code)


def example_corpus() -> Path | None:
    """Return the folder of example documents of the source tree, or None: an installed wheel has none."""
    folder = Path(__file__).resolve().parents[2] / "examples" / "corpus"
    return folder if folder.is_dir() else None


def default_question(corpus: Path) -> str:
    """Return the question marked as default in the `questions.json` beside the example documents."""
    questions = json.loads((corpus.parent / "questions.json").read_text(encoding="utf-8"))
    return str(next(entry["question"] for entry in questions if entry.get("default")))


def _task(question: str, docs: Path | None) -> tuple[Path, str]:
    examples = example_corpus()
    folder = docs or examples
    if folder is None:
        msg = "The example documents come with the source tree only. Pass a question and --docs FOLDER."
        raise UserInputError(msg)
    if not folder.is_dir():
        msg = f"--docs {folder}: there is no such folder."
        raise UserInputError(msg)
    if question.strip():
        return folder, question
    if examples is None or folder.resolve() != examples:
        msg = f"What do you want to know about {folder}? Pass a question in quotes."
        raise UserInputError(msg)
    return folder, default_question(examples)


@contextmanager
def _engine() -> Iterator[Server]:
    """Run the demo model, telling the user how far its start has come."""
    from agentinfer_lg.serving.engine.command import ServeOptions
    from agentinfer_lg.serving.engine.demo_model import DEMO_MODEL, demo_model
    from agentinfer_lg.serving.engine.launch import Server

    folder = demo_model(say=lambda line: typer.echo(line, err=True))
    options = ServeOptions(model=str(folder), served_model_name=DEMO_MODEL, port=0, kv_cache_gib=2)
    with Server(options) as server:
        seconds = _wait(server)
        typer.echo(f"The engine with {DEMO_MODEL} is ready after {seconds:.0f} s.", err=True)
        yield server
        typer.echo("Stopping the engine ...", err=True)


def _wait(server: Server) -> float:
    if not sys.stderr.isatty():
        return _wait_in_lines(server)
    from rich.console import Console

    with Console(stderr=True).status("Starting the engine ...") as status:
        return server.wait_ready(
            on_progress=lambda seconds, stage: status.update(
                f"Starting the engine: {stage} ({seconds:.0f} s)"
            )
        )


def _wait_in_lines(server: Server) -> float:
    """One line per stage, for a log."""
    seen: set[str] = set()

    def show(seconds: float, stage: str) -> None:
        if stage not in seen:
            seen.add(stage)
            typer.echo(f"Starting the engine: {stage} ({seconds:.0f} s)", err=True)

    return server.wait_ready(on_progress=show)


def _research(server: Server, question: str, folder: Path, arguments: list[str]) -> int:
    """Run `agentinfer research` in a process of its own, with both tiers on `server`; return its exit code."""
    endpoint = {"BASE_URL": server.base_url, "MODEL": server.model, "API_KEY": ""}
    variables = {
        f"AGENTINFER_{t}__{name}": value for t in ("SMALL", "LARGE") for name, value in endpoint.items()
    }
    command = [sys.executable, "-m", "agentinfer_lg.cli", "research", *_SMALL_STEPS, "--docs", str(folder)]
    process = subprocess.Popen([*command, *arguments, "--", question], env={**os.environ, **variables})
    try:
        return _wait_for(process)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sent it to the child as well, which ends in its own way
            try:
                return process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.terminate()
