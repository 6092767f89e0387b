"""`agentinfer bench overhead` and `agentinfer bench price`: what AgentSched's planning costs, and how its price behaves."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.flags import whole_numbers
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import table

if TYPE_CHECKING:
    from agentinfer_lg.evals.sched.overhead.run import Row

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class OverheadFlags(StudyFlags):
    """Flags of `agentinfer bench overhead`."""

    waiting: Annotated[str, typer.Option(help="Numbers of waiting requests, separated by commas.")] = (
        "16,256,1024"
    )
    block_size: Annotated[int, typer.Option(min=1, help="Tokens per block of the KV cache.")] = 16
    context: Annotated[int, typer.Option(help="Longest context in tokens.")] = 32_768
    running: Annotated[int, typer.Option(min=1, help="Requests that run at the same time.")] = 16
    idle: Annotated[int, typer.Option(min=1, help="Sessions that are waiting for a tool.")] = 64
    steps: Annotated[int, typer.Option(min=1, help="Steps measured.")] = 300
    seed: Annotated[int, typer.Option(help="Decides about contexts and outputs.")] = 0


@study(app, OverheadFlags)
def overhead(flags: OverheadFlags) -> None:
    """Measure what a step's scheduling takes: vLLM's scheduler and AgentSched in turn; no model is run.

    A step counts as 20 ms on the schedulers' clock.
    """
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it tells about devices that are not needed here
    numbers = whole_numbers(flags.waiting, flag="--waiting", least=0)
    try:
        from agentinfer_lg.evals.sched.overhead.run import OverheadOptions, measure_overhead
    except ImportError as error:
        msg = f"The measurement needs {error.name}: pip install 'agentinfer-lg[evals]'."
        raise UserInputError(msg) from error
    if importlib.util.find_spec("vllm") is None:
        msg = "The measurement needs vLLM, which is not installed: see docs/serving.md."
        raise UserInputError(msg)
    rows: list[Row] = []
    for number in numbers:
        options = OverheadOptions(
            waiting=number,
            running=flags.running,
            idle=flags.idle,
            block_size=flags.block_size,
            context_tokens=flags.context,
            steps=flags.steps,
            seed=flags.seed,
        )
        typer.echo(f"{number} waiting requests", err=True)
        rows += measure_overhead(options)
    typer.echo("\n".join(table(rows, _COLUMNS)))
    from agentinfer_lg.evals.sched.replay.run import versions

    settings = flags.told("block_size", "context", "running", "idle", "steps", "seed")
    flags.write({"settings": settings, "versions": versions(), "rows": rows})


_COLUMNS = (
    ("waiting", "{waiting}"),
    ("scheduler", "{scheduler}"),
    ("running", "{running:.1f}"),
    ("schedule ms", "{schedule_ms:.3f}"),
    ("p50", "{schedule_p50_ms:.3f}"),
    ("p99", "{schedule_p99_ms:.3f}"),
    ("own ms", "{own_ms:.3f}"),
    ("p50", "{own_p50_ms:.3f}"),
    ("p99", "{own_p99_ms:.3f}"),
    ("own, of 20 ms", "{own_share:.1%}"),
    ("with arrivals and ends ms", "{all_ms:.3f}"),
)

_EDGE_COLUMNS = (
    ("edge at s", "{time:.1f}"),
    ("to lambda", "{settled_at:.2f}"),
    ("settled after s", "{seconds:.1f}"),
    ("turns", "{turns}"),
)


@dataclass(frozen=True, kw_only=True)
class PriceFlags(StudyFlags):
    """Flags of `agentinfer bench price`."""

    period: Annotated[float, typer.Option(min=1, help="Seconds from one rise of the load to the next.")] = 60
    low: Annotated[float, typer.Option(min=0, help="Demand over capacity (z) while the load is low.")] = 0.3
    high: Annotated[float, typer.Option(min=0, help="The same while it is high.")] = 2.5
    step_ms: Annotated[float, typer.Option(min=1, help="Length of an engine's step.")] = 20
    periods: Annotated[int, typer.Option(min=1, help="Periods.")] = 3
    plot: Annotated[Path | None, typer.Option(help="Draw it: an SVG or PNG file.")] = None


@study(app, PriceFlags)
def price(flags: PriceFlags) -> None:
    """Show how the shadow price (lambda) follows a load that goes up and down at once."""
    from agentinfer_lg.evals.sched.overhead.price import SquareWave, draw, respond

    wave = SquareWave(
        period=flags.period,
        low=flags.low,
        high=flags.high,
        step_seconds=flags.step_ms / 1000,
        periods=flags.periods,
    )
    response = respond(wave)
    edges = [asdict(edge) for edge in response.edges]
    typer.echo("\n".join(table(edges, _EDGE_COLUMNS)))
    flags.write({"rows": edges})
    if flags.plot is not None:
        draw(response, flags.plot)
        typer.echo(f"drawn: {flags.plot}", err=True)
