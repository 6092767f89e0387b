"""Progress displays of commands that take long: a bar on a terminal, on the stream of messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress


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


@contextmanager
def planned_progress() -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """Yield what is called with the number of steps once it is known, and what is called after each step."""
    with _bar() as progress:
        task = progress.add_task("reading", total=None)
        yield (
            lambda total: progress.update(task, total=total),
            lambda step: progress.update(task, advance=1, description=step),
        )


@contextmanager
def counted_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield what is called with what is being done, how much of it is done, and how much there is."""
    with _bar() as progress:
        task = progress.add_task("preparing", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
