"""`agentinfer bench verification`: what verifying a drafted token costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.evals.common.flags import model_folder, step_progress, whole_numbers

if TYPE_CHECKING:
    from agentinfer_lg.evals.sam.verification.run import Cell

app = typer.Typer()


@app.command()
def verification(
    model: Annotated[str, typer.Option(help="Model folder, or `demo` for the small demo model.")] = "demo",
    batch: Annotated[str, typer.Option(help="Requests at the same time, separated by commas.")] = "1,4,8,16",
    context: Annotated[str, typer.Option(help="Tokens of the prompts, separated by commas.")] = "64,2000",
    k: Annotated[
        str, typer.Option("--k", help="Drafted tokens per request and step, separated by commas.")
    ] = "0,1,3,7,15",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of each; the median is reported.")] = 3,
    steps: Annotated[int, typer.Option(min=4, help="Decode steps per round.")] = 24,
    kv_cache_gib: Annotated[float, typer.Option(help="KV cache, in GiB.")] = 2.0,
    dtype: Annotated[str, typer.Option(help="Type of the weights.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all figures here.")] = None,
) -> None:
    """Let a real engine verify drafts that are never right: the time of a step, by what was drafted.

    From it comes the marginal cost c of a drafted token, as a share of a step without drafts, by which AgentSAM decides
    how much to draft. Ctrl-C shows what was measured until then.
    """
    from agentinfer_lg.evals.sam.verification.run import VerificationOptions, measure
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    options = VerificationOptions(
        batches=whole_numbers(batch, flag="--batch"),
        contexts=whole_numbers(context, flag="--context"),
        drafted=sorted(whole_numbers(k, flag="--k", least=0)),
        model=str(model_folder(model)),
        steps=steps,
        repeats=repeats,
        kv_cache_gib=kv_cache_gib,
        dtype=dtype,
    )
    cells: list[Cell] = []
    code = ExitCode.COMPLETE
    try:
        with stop_on_signals(), step_progress(len(options.batches) * len(options.contexts) + 1) as on_step:
            cells.extend(measure(options, on_step=on_step))
    except (KeyboardInterrupt, SystemExit):
        typer.echo("Interrupted; this was measured until then.", err=True)
        code = ExitCode.INTERRUPTED
    typer.echo("\n".join(_table(cells, options.drafted)))
    if json_file is not None:
        _write(json_file, cells, model=Path(options.model).name)
    if code:
        raise typer.Exit(int(code))


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


def _write(file: Path, cells: Sequence[Cell], *, model: str) -> None:
    from agentinfer_lg.evals.common.versions import versions

    result = {"rows": [asdict(cell) for cell in cells], "model": model, "versions": versions()}
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
