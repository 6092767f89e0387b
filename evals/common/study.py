"""A study's flags make its command: what it takes, its `--json`, its progress display, and what an interruption does."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.evals.common.progress import step_progress

INTERRUPTED = "Interrupted; this was measured until then."

JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write all figures here.")]


@dataclass(frozen=True, kw_only=True)
class StudyFlags:
    """Flags of a study. A field is a flag: its name, type, default, and the limits and help of `Annotated`."""

    json_file: JsonFile = None

    def told(self, *names: str) -> dict[str, Any]:  # Any: JSON
        """Return flags by their names, for the figures that they explain."""
        return {name: getattr(self, name) for name in names}

    def write(self, figures: Mapping[str, Any]) -> None:  # Any: JSON
        """Write figures where `--json` says, if it does."""
        if self.json_file is not None:
            text = json.dumps(figures, indent=2, ensure_ascii=False, default=str)
            self.json_file.write_text(f"{text}\n", encoding="utf-8")


Flags = TypeVar("Flags", bound=StudyFlags)
Command = Callable[[Flags], ExitCode | None]


def study(
    app: typer.Typer,
    flags: type[Flags],
    *,
    name: str | None = None,
    context_settings: dict[str, Any] | None = None,  # Any: as Typer says
) -> Callable[[Command[Flags]], Command[Flags]]:
    """Return a decorator that makes a command of a study.

    Args:
        app: The command is added to it.
        flags: What the study is given; fields become flags in their order, inherited ones last. A field of the type
            `typer.Context` is given the context of the call.
        name: Of the command; None: that of the function.
        context_settings: Of the command, as Typer takes them.
    """

    def decorate(run: Command[Flags]) -> Command[Flags]:
        def command(**given: Any) -> None:  # Any: by the types of the fields
            if code := run(flags(**given)):
                raise typer.Exit(int(code))

        signature = _signature(flags)
        command.__doc__ = run.__doc__
        command.__signature__ = signature  # type: ignore[attr-defined]  # Typer reads the flags from it
        command.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        app.command(name or run.__name__.replace("_", "-"), context_settings=context_settings)(command)
        return run

    return decorate


@dataclass
class Measurement:
    """A measurement that goes on; what it has found stays when it is interrupted."""

    step: Callable[[str], None]
    """Called before each step with what it is."""
    code: ExitCode = ExitCode.COMPLETE


@contextmanager
def measuring(steps: int) -> Iterator[Measurement]:
    """Show progress, and let Ctrl-C or SIGTERM end the block early instead of the command.

    Args:
        steps: How many there will be.
    """
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    with step_progress(steps) as on_step:
        measurement = Measurement(on_step)
        try:
            with stop_on_signals():
                yield measurement
        except (KeyboardInterrupt, SystemExit):
            typer.echo(INTERRUPTED, err=True)
            measurement.code = ExitCode.INTERRUPTED


def _signature(flags: type[StudyFlags]) -> inspect.Signature:
    hints = get_type_hints(flags, include_extras=True)
    defaults = {each.name: each.default for each in fields(flags)}
    nearest_first = [
        name for each in flags.__mro__ for name in inspect.get_annotations(each) if name in defaults
    ]
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hints[name],
                default=inspect.Parameter.empty if defaults[name] is MISSING else defaults[name],
            )
            for name in dict.fromkeys(nearest_first)
        ]
    )
