"""`agentinfer bench client`: what a model call costs the agent's own process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from agentinfer_lg.evals.common.flags import whole_numbers
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import table

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class ClientFlags(StudyFlags):
    """Flags of `agentinfer bench client`."""

    turns: Annotated[str, typer.Option(help="Turns of the context, separated by commas.")] = "1,10,25,100"
    calls: Annotated[int, typer.Option(min=5, help="Calls of each client with each context.")] = 100


@study(app, ClientFlags)
def client(flags: ClientFlags) -> None:
    """Measure the processor time of a model call in the agent's process, next to langchain-openai; no model is run."""
    from agentinfer_lg.evals.agent.client_time.run import measure

    numbers = whole_numbers(flags.turns, flag="--turns", least=0)
    rows = [asdict(row) for row in measure(numbers, calls=flags.calls)]
    typer.echo("\n".join(table(rows, _COLUMNS)))
    flags.write({"settings": flags.told("turns", "calls"), "rows": rows})


_COLUMNS = (
    ("client", "{client}"),
    ("turns", "{turns}"),
    ("prompt tokens", "{tokens:,}"),
    ("processor ms per call", "{cpu_ms:.2f}"),
    ("wall ms per call", "{wall_ms:.2f}"),
)
