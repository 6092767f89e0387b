"""The command `agentinfer`.

Each command lives in its own module with a `register(app)`; what is heavy (LangGraph, models, engines) is
imported inside the commands, so that `agentinfer --help` answers at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from agentinfer_lg.cli.failures import explain, remember_debug

__all__ = ("app", "main")

_COMMANDS = ("research", "doctor", "runs", "serve", "try_vllm", "demo", "bench", "eval")

_EPILOG = (
    "Settings come from AGENTINFER_* variables or a .env file. Exit codes: 0 done, 1 unexpected error, 2 wrong usage "
    "or configuration, 3 endpoint failed and nothing was found, 4 report written but something ran out, 5 cannot "
    "save or resume, 6 the plan waits for approval, 130 interrupted."
)

app = typer.Typer(
    name="agentinfer",
    help="Research a question with a small and a large model, and get a report that cites its sources.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, which hold keys
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from agentinfer_lg import __version__

        typer.echo(f"agentinfer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    remember_debug(debug)


def _register_commands() -> None:
    """Add the commands that this installation has."""
    for name in _COMMANDS:
        module_name = f"agentinfer_lg.cli.{name}"
        if importlib.util.find_spec(module_name) is None:
            continue
        module = importlib.import_module(module_name)
        if hasattr(module, "register"):
            module.register(app)
        else:
            app.add_typer(module.app, name=name)


_register_commands()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; errors become one sentence and an exit code."""
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="agentinfer")
    except Exception as error:
        sys.exit(explain(error))
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    sys.exit(0)
