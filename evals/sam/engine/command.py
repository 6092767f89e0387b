"""`agentinfer bench engine`: variants of speculation on the same real engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.flags import model_folder, names, step_progress, whole_numbers

if TYPE_CHECKING:
    from agentinfer_lg.evals.common.bootstrap import Interval
    from agentinfer_lg.evals.datasets.trajectories import Session
    from agentinfer_lg.evals.sam.engine.figures import EngineRow
    from agentinfer_lg.evals.sam.engine.plan import Piece, Spec
    from agentinfer_lg.evals.sam.engine.run import EngineBenchmark

app = typer.Typer()


@app.command()
def engine(
    spec: Annotated[
        str, typer.Option(help="Variants, separated by commas: none, ngram, suffix, ours.")
    ] = "none,ngram,suffix,ours",
    batch: Annotated[
        str, typer.Option(help="Numbers of sessions at the same time, separated by commas.")
    ] = "1,4,16,32",
    model: Annotated[str, typer.Option(help="Model folder, or `demo` for the small demo model.")] = "demo",
    sets: Annotated[
        str, typer.Option("--set", help="Sets of sessions, separated by commas; or folders of chats as JSON.")
    ] = "tau-airline",
    outputs: Annotated[
        Literal["recorded", "own", "discarded"],
        typer.Option(
            help="What the engine writes: what was recorded; or the model's own answers, which stay in the "
            "context (own) or leave it to the recorded ones (discarded)."
        ),
    ] = "recorded",
    sessions: Annotated[int, typer.Option(min=1, help="Sessions measured per batch size, at least.")] = 8,
    turns: Annotated[int, typer.Option(min=1, help="Requests per session.")] = 6,
    warm: Annotated[int, typer.Option(min=0, help="Sessions replayed before anything is measured.")] = 16,
    repeats: Annotated[
        int, typer.Option(min=1, help="Groups of other sessions per batch size, at least.")
    ] = 1,
    max_context: Annotated[int, typer.Option(min=64, help="Longest context of a session, in tokens.")] = 4096,
    interval: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds from one request of a session to its next, at least: above the latency, all variants get the "
            "same load; default: the next one follows the answer.",
        ),
    ] = 0.0,
    k: Annotated[int, typer.Option("--k", min=1, help="Most drafted tokens per step.")] = 16,
    kv_cache_gib: Annotated[float, typer.Option(help="KV cache of each server, in GiB.")] = 1.0,
    dtype: Annotated[
        str, typer.Option(help="Type of the weights; float32 leaves fewer ties to break than bfloat16.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the choice of sessions.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all figures here.")] = None,
) -> None:
    """Replay multi-turn sessions on real engines: latency, time to first token, throughput.

    One server per variant is loaded and one at a time runs, in turns. Ctrl-C shows what was measured until then.
    """
    from agentinfer_lg.evals.sam.engine.plan import plan
    from agentinfer_lg.evals.sam.engine.run import EngineBenchmark, EngineOptions

    specs, batches = _specs(spec), whole_numbers(batch, flag="--batch")
    folder = model_folder(model)
    pieces = plan(
        _load(sets, data=data, tokenizer=folder),
        batches=batches,
        per_batch=sessions,
        repeats=repeats,
        warm=warm,
        turns=turns,
        max_context=max_context,
        seed=seed,
    )
    options = EngineOptions(
        model=str(folder),
        outputs=outputs,
        k=k,
        max_context=max_context,
        max_batch=max(piece.batch for piece in pieces),
        kv_cache_gib=kv_cache_gib,
        dtype=dtype,
        interval=interval,
    )
    settings = {
        "model": folder.name,
        "sets": names(sets),
        "outputs": outputs,
        "sessions": sessions,
        "turns": turns,
        "warm": warm,
        "repeats": repeats,
        "max_context": max_context,
        "k": k,
        "kv_cache_gib": kv_cache_gib,
        "dtype": dtype,
        "interval": interval,
        "seed": seed,
    }
    benchmark = EngineBenchmark(specs=specs, options=options)
    code = _run(benchmark, pieces)
    _report(benchmark, settings, json_file)
    if code:
        raise typer.Exit(int(code))


def _run(benchmark: EngineBenchmark, pieces: Sequence[Piece]) -> ExitCode:
    """Run to the end or to an interrupt; what was measured stays in the benchmark."""
    from agentinfer_lg.serving.engine.launch import stop_on_signals

    steps = (len(pieces) + 1) * len(benchmark.specs)
    try:
        with stop_on_signals(), step_progress(steps) as on_step:
            benchmark.run(pieces, on_step=on_step)
    except (KeyboardInterrupt, SystemExit):
        typer.echo("Interrupted; this was measured until then.", err=True)
        return ExitCode.INTERRUPTED
    return ExitCode.PARTIAL if benchmark.left_out else ExitCode.COMPLETE


def _report(benchmark: EngineBenchmark, settings: dict[str, object], json_file: Path | None) -> None:
    from agentinfer_lg.evals.common.versions import versions
    from agentinfer_lg.evals.sam.engine.figures import as_json, make_rows, request_rows

    rows = make_rows(benchmark.runs)
    typer.echo("\n".join(_table(rows)))
    for name, reason in benchmark.left_out.items():
        typer.echo(f"{name} is left out: {reason}", err=True)
    if json_file is not None:
        result = {
            "rows": [as_json(row) for row in rows],
            "left_out": benchmark.left_out,
            "settings": settings,
            "versions": versions(),
            "requests": request_rows(benchmark.runs),
        }
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _table(rows: Sequence[EngineRow]) -> list[str]:
    if not rows:
        return ["nothing was measured"]
    return [
        "decode and TTFT: medians over requests; LLM latency: mean; ratios to no speculation over the same requests, in "
        "brackets their 95% intervals over sessions",
        "",
        "| batch | spec | requests (compared) | decode ms/token | ratio | LLM latency s | ratio | TTFT s | ratio "
        "| tokens/s | ratio | accepted/drafted | tokens per step | preempted |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(row) for row in rows),
    ]


def _line(row: EngineRow) -> str:
    cells = (
        str(row.batch),
        row.spec,
        f"{row.requests} ({row.compared})",
        _number(row.decode_ms_per_token, ".1f"),
        _ratio(row.decode_ratio),
        f"{row.llm_latency_s:.2f}",
        _ratio(row.ratio_to_none),
        f"{row.ttft_s:.3f}",
        _ratio(row.ttft_ratio),
        f"{row.tokens_per_s:.1f}",
        _number(row.throughput_ratio, ".2f"),
        f"{row.accepted}/{row.drafted}" if row.drafted else "-",
        _number(row.tokens_per_step, ".2f"),
        str(row.preempted),
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _ratio(ratio: Interval | None) -> str:
    return "-" if ratio is None else f"{ratio.value:.3f} ({ratio.low:.3f}-{ratio.high:.3f})"


def _specs(text: str) -> list[Spec]:
    from agentinfer_lg.evals.sam.engine.plan import SPECS

    chosen = [known for name in names(text) for known in SPECS if known == name]
    if not chosen or len(chosen) != len(names(text)) or len(set(chosen)) != len(chosen):
        msg = f"--spec takes some of {', '.join(SPECS)}, separated by commas, not {text!r}"
        raise UserInputError(msg)
    return chosen


def _load(sets: str, *, data: Path | None, tokenizer: Path) -> list[Session]:
    """The sessions of all sets; their ids say which set they are from."""
    from dataclasses import replace

    from agentinfer_lg.evals.datasets.trajectories import load_sessions

    return [
        replace(session, id=f"{name}:{session.id}")
        for name in names(sets)
        for session in load_sessions(name, data=data, tokenizer=tokenizer)
    ]
