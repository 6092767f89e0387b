"""What the user sees when something goes wrong: one sentence on stderr, and an exit code that scripts can rely on."""

from __future__ import annotations

import os
import tempfile
import traceback
from datetime import datetime
from enum import IntEnum
from pathlib import Path

import typer

from agentinfer_lg.errors import (
    AgentInferError,
    CheckpointError,
    ConfigurationError,
    EndpointError,
    EngineError,
    UserInputError,
)


class ExitCode(IntEnum):
    """Exit codes of `agentinfer`; documented in `docs/cli.md`."""

    COMPLETE = 0
    UNEXPECTED = 1
    USAGE = 2
    ENDPOINT = 3
    PARTIAL = 4
    CHECKPOINT = 5
    WAITING = 6
    INTERRUPTED = 130


_debug = False


def remember_debug(debug: bool) -> None:
    """Show tracebacks from now on, if `debug`."""
    global _debug
    _debug = _debug or debug or os.environ.get("AGENTINFER_DEBUG", "") not in ("", "0")


def exit_code(error: BaseException) -> ExitCode:
    """The exit code that stands for `error`."""
    match error:
        case UserInputError() | ConfigurationError():
            return ExitCode.USAGE
        case EndpointError() | EngineError():
            return ExitCode.ENDPOINT
        case CheckpointError():
            return ExitCode.CHECKPOINT
        case _:
            return ExitCode.UNEXPECTED


def sentence(error: BaseException) -> str:
    """What to tell the user; the traceback of an unexpected error is written to a file."""
    if isinstance(error, AgentInferError):
        return str(error)
    summary = f"Unexpected error: {type(error).__name__}: {error}"
    if _debug:
        return summary
    return f"{summary}. The traceback is in {_write_traceback(error)}; --debug shows it."


def explain(error: BaseException) -> ExitCode:
    """Tell the user about `error` on stderr and return the exit code."""
    if _debug:
        typer.echo("".join(traceback.format_exception(error)), err=True)
    typer.secho(_printable(sentence(error)), fg=typer.colors.RED, err=True)
    return exit_code(error)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _write_traceback(error: BaseException) -> str:
    """Write the traceback under `Settings.home`, else into the folder for temporary files."""
    text = "".join(traceback.format_exception(error))
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    for folder in (_home() / "errors", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / name
            with open(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
            ) as file:
                file.write(text)
        except OSError:
            continue
        return str(path)
    return "no file, since none could be written"


def _home() -> Path:
    from agentinfer_lg.settings import Settings

    try:
        return Settings().home.expanduser()
    except ValueError:  # malformed settings may be the very error
        return Path(tempfile.gettempdir())
