"""Reading the flags that commands of `agentinfer bench` and `eval` have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import typer

from agentinfer_lg.errors import UserInputError

Name = TypeVar("Name", bound=str)


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


def known_names(text: str, known: Sequence[Name], *, flag: str) -> list[Name]:
    """Read different names out of a closed set, separated by commas.

    Raises:
        UserInputError: There is none, one is unknown, or one is there twice.
    """
    wanted = names(text)
    chosen = [each for name in wanted for each in known if each == name]
    if not chosen or len(chosen) != len(wanted) or len(set(chosen)) != len(chosen):
        msg = f"{flag} takes some of {', '.join(known)}, separated by commas, not {text!r}"
        raise UserInputError(msg)
    return chosen
