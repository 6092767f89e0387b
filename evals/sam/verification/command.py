"""`agentinfer bench verification`: what verifying a drafted token costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.evals.common.flags import model_folder, whole_numbers
from agentinfer_lg.evals.common.study import StudyFlags, measuring, study

if TYPE_CHECKING:
    from agentinfer_lg.evals.sam.verification.run import Cell

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class VerificationFlags(StudyFlags):
    """Flags of `agentinfer bench verification`."""

    model: Annotated[str, typer.Option(help="Model folder, or `demo` for the small demo model.")] = "demo"
    batch: Annotated[str, typer.Option(help="Requests at the same time, separated by commas.")] = "1,4,8,16"
    context: Annotated[str, typer.Option(help="Tokens of the prompts, separated by commas.")] = "64,2000"
    k: Annotated[
        str, typer.Option("--k", help="Drafted tokens per request and step, separated by commas.")
    ] = "0,1,3,7,15"
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of each; the median is reported.")] = 3
    steps: Annotated[int, typer.Option(min=4, help="Decode steps per round.")] = 24
    kv_cache_gib: Annotated[float, typer.Option(help="KV cache, in GiB.")] = 2.0
    dtype: Annotated[str, typer.Option(help="Type of the weights.")] = "auto"


@study(app, VerificationFlags)
def verification(flags: VerificationFlags) -> ExitCode | None:
    """Let a real engine verify drafts that are never right: the time of a step, by what was drafted.

    From it comes the marginal cost c of a drafted token, as a share of a step without drafts, by which AgentSAM decides
    how much to draft. Ctrl-C shows what was measured until then.
    """
    from agentinfer_lg.evals.common.versions import versions
    from agentinfer_lg.evals.sam.verification.run import VerificationOptions, measure

    options = VerificationOptions(
        batches=whole_numbers(flags.batch, flag="--batch"),
        contexts=whole_numbers(flags.context, flag="--context"),
        drafted=sorted(whole_numbers(flags.k, flag="--k", least=0)),
        model=str(model_folder(flags.model)),
        steps=flags.steps,
        repeats=flags.repeats,
        kv_cache_gib=flags.kv_cache_gib,
        dtype=flags.dtype,
    )
    cells: list[Cell] = []
    with measuring(len(options.batches) * len(options.contexts) + 1) as measurement:
        cells.extend(measure(options, on_step=measurement.step))
    typer.echo("\n".join(_table(cells, options.drafted)))
    rows = [asdict(cell) for cell in cells]
    flags.write({"rows": rows, "model": Path(options.model).name, "versions": versions()})
    return measurement.code


def _table(cells: Sequence[Cell], drafted: Sequence[int]) -> list[str]:
    if not cells:
        return ["nothing was measured"]
    heads = ("batch", "context", *(f"ms at k={count}" for count in drafted), "c per token")
    return [
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
        *(
            f"| {each.batch} | {each.context} | "
            f"{' | '.join(f'{each.step_ms[count]:.1f}' for count in drafted)} | {each.cost:.3f} |"
            for each in cells
        ),
    ]
