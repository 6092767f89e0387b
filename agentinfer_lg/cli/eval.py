"""`agentinfer eval`: benchmarks of the whole agent. `evals/agent/benchmark/` holds the commands; this table names them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from agentinfer_lg.cli.command_table import command_table

COMMANDS = dict.fromkeys(
    ("hotpotqa", "closed-world", "browsecomp-zh", "deepdiver", "compare", "profile"),
    "agentinfer_lg.evals.agent.benchmark.command",
)

app = typer.Typer(
    name="eval",
    help="Run the agent on questions with known answers.",
    no_args_is_help=True,
    invoke_without_command=True,
    cls=command_table(COMMANDS),
)


@app.callback()
def _group(
    context: typer.Context,
    both: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A B", help="Folders of two runs: the same as `compare A B`."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of HotpotQA; default: $AGENTINFER_DATA/hotpotqa.")
    ] = None,
    min_turns: Annotated[
        int, typer.Option(min=0, help="Only questions that took at least so many turns in run B.")
    ] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Run the agent on questions with known answers."""
    if both is not None and context.invoked_subcommand is None:
        compare = importlib.import_module(COMMANDS["compare"]).compare
        compare(*both, data=data, min_turns=min_turns, json_file=json_file)
    elif both is not None or data or min_turns or json_file:
        msg = "Flags before the name of a command go with --compare A B, and that with no command."
        raise typer.BadParameter(msg)
