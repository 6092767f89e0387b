"""`agentinfer threads`: the saved runs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from agentinfer_lg.cli.options import load_settings

app = typer.Typer()


@app.command(name="threads")
def threads(
    json_output: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """List the saved runs, the latest first; `agentinfer research --resume NAME` goes on with one."""
    from agentinfer_lg.threads import Threads

    records = Threads(load_settings().home).all()
    if json_output:
        from agentinfer_lg.cli.summary import to_json

        listed = [to_json(asdict(record)) for record in records]
        sys.stdout.buffer.write(f"[{', '.join(listed)}]\n".encode())
        return
    if not records:
        typer.echo("There are no saved runs.", err=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from agentinfer_lg.cli.live import plain

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    longest = max(len(record.thread) for record in records)
    for name, width in (("name", longest), ("state", 8), ("begun (UTC)", 16)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("question", ratio=1, no_wrap=True, overflow="ellipsis")
    for record in records:
        begun = plain(record.created, limit=25)[:16].replace("T", " ")
        table.add_row(record.thread, record.state, begun, Text(plain(record.question, limit=200)))
    Console().print(table)
