"""The command `agentinfer`.

A command's module is imported when the command is called or listed, and what is heavy (LangGraph, models, engines) only
inside the command, so that `agentinfer --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from agentinfer_lg.cli.command_table import command_table
from agentinfer_lg.cli.failures import explain, remember_debug

COMMANDS = {
    "research": "agentinfer_lg.cli.research",
    "doctor": "agentinfer_lg.cli.doctor",
    "threads": "agentinfer_lg.cli.runs",
    "serve": "agentinfer_lg.cli.serve",
    "try-vllm": "agentinfer_lg.evals.vllm_trial.command",
    "demo": "agentinfer_lg.cli.demo",
    "bench": "agentinfer_lg.cli.bench",
    "eval": "agentinfer_lg.cli.eval",
}

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
    cls=command_table(COMMANDS),
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
