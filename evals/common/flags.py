"""What the commands of `agentinfer bench` and `eval` share: reading flags, showing progress, printing tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from agentinfer_lg.errors import UserInputError


def names(text: str) -> list[str]:
    """Split a list that is separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def different_names(text: str) -> list[str]:
    """Split a list that is separated by commas; what is there twice counts once."""
    return list(dict.fromkeys(names(text)))


def whole_numbers(text: str, *, flag: str, least: int = 1) -> list[int]:
    """Read different whole numbers, separated by commas.

    Raises:
        UserInputError: There is none, one is no whole number or below `least`, or one is there twice.
    """
    try:
        numbers = [int(name) for name in names(text)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least or len(set(numbers)) != len(numbers):
        msg = f"{flag} takes different whole numbers from {least} on, separated by commas, not {text!r}"
        raise UserInputError(msg)
    return numbers


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table as lines whose columns stand below each other; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return [f"| {line} |" for line in lines]


def filled(value: object, form: str) -> str:
    """Format a figure for a cell of a table; None, an unknown one, is a dash."""
    return "-" if value is None else format(value, form)


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


def model_folder(model: str) -> Path:
    """Return the folder of a model; `demo` is the small demo model, which is fetched if need be."""
    if model == "demo" and not Path(model).is_dir():
        from agentinfer_lg.serving.engine.demo_model import demo_model

        return demo_model(say=lambda line: typer.echo(line, err=True))
    return Path(model)


@contextmanager
def step_progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, elsewhere a line per step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: typer.echo(step, err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(
            "", total=steps, completed=-1
        )  # the first step is not done when it is announced
        yield lambda step: progress.update(task, advance=1, description=step)
