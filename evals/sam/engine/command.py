"""`agentinfer bench engine`: variants of speculation on the same real engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.evals.common.flags import known_names, model_folder, names, whole_numbers
from agentinfer_lg.evals.common.study import StudyFlags, measuring, study
from agentinfer_lg.evals.common.tables import aligned, filled

if TYPE_CHECKING:
    from agentinfer_lg.evals.common.bootstrap import Interval
    from agentinfer_lg.evals.datasets.trajectories import Session
    from agentinfer_lg.evals.sam.engine.figures import EngineRow
    from agentinfer_lg.evals.sam.engine.plan import Piece, Spec
    from agentinfer_lg.evals.sam.engine.run import EngineBenchmark

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class EngineFlags(StudyFlags):
    """Flags of `agentinfer bench engine`."""

    spec: Annotated[str, typer.Option(help="Variants, separated by commas: none, ngram, suffix, ours.")] = (
        "none,ngram,suffix,ours"
    )
    batch: Annotated[str, typer.Option(help="Numbers of sessions at the same time, separated by commas.")] = (
        "1,4,16,32"
    )
    model: Annotated[str, typer.Option(help="Model folder, or `demo` for the small demo model.")] = "demo"
    sets: Annotated[
        str, typer.Option("--set", help="Sets of sessions, separated by commas; or folders of chats as JSON.")
    ] = "tau-airline"
    outputs: Annotated[
        Literal["recorded", "own", "discarded"],
        typer.Option(
            help="What the engine writes: what was recorded; or the model's own answers, which stay in the "
            "context (own) or leave it to the recorded ones (discarded)."
        ),
    ] = "recorded"
    sessions: Annotated[int, typer.Option(min=1, help="Sessions measured per batch size, at least.")] = 8
    turns: Annotated[int, typer.Option(min=1, help="Requests per session.")] = 6
    warm: Annotated[int, typer.Option(min=0, help="Sessions replayed before anything is measured.")] = 16
    repeats: Annotated[
        int, typer.Option(min=1, help="Groups of other sessions per batch size, at least.")
    ] = 1
    max_context: Annotated[int, typer.Option(min=64, help="Longest context of a session, in tokens.")] = 4096
    interval: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds from one request of a session to its next, at least: above the latency, all variants get the "
            "same load; default: the next one follows the answer.",
        ),
    ] = 0.0
    k: Annotated[int, typer.Option("--k", min=1, help="Most drafted tokens per step.")] = 16
    kv_cache_gib: Annotated[float, typer.Option(help="KV cache of each server, in GiB.")] = 1.0
    dtype: Annotated[
        str, typer.Option(help="Type of the weights; float32 leaves fewer ties to break than bfloat16.")
    ] = "auto"
    seed: Annotated[int, typer.Option(help="Of the choice of sessions.")] = 0
    data: Annotated[Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")] = (
        None
    )


@study(app, EngineFlags)
def engine(flags: EngineFlags) -> ExitCode | None:
    """Replay multi-turn sessions on real engines: latency, time to first token, throughput.

    One server per variant is loaded and one at a time runs, in turns. Ctrl-C shows what was measured until then.
    """
    from agentinfer_lg.evals.sam.engine.plan import plan
    from agentinfer_lg.evals.sam.engine.run import EngineBenchmark, EngineOptions

    specs, batches = _specs(flags.spec), whole_numbers(flags.batch, flag="--batch")
    folder = model_folder(flags.model)
    pieces = plan(
        _load(flags.sets, data=flags.data, tokenizer=folder),
        batches=batches,
        per_batch=flags.sessions,
        repeats=flags.repeats,
        warm=flags.warm,
        turns=flags.turns,
        max_context=flags.max_context,
        seed=flags.seed,
    )
    options = EngineOptions(
        model=str(folder),
        outputs=flags.outputs,
        k=flags.k,
        max_context=flags.max_context,
        max_batch=max(piece.batch for piece in pieces),
        kv_cache_gib=flags.kv_cache_gib,
        dtype=flags.dtype,
        interval=flags.interval,
    )
    told = ("outputs", "sessions", "turns", "warm", "repeats", "max_context", "k", "kv_cache_gib", "dtype")
    settings = {"model": folder.name, "sets": names(flags.sets), **flags.told(*told, "interval", "seed")}
    benchmark = EngineBenchmark(specs=specs, options=options)
    code = _run(benchmark, pieces)
    flags.write(_report(benchmark) | {"settings": settings})
    return code


def _run(benchmark: EngineBenchmark, pieces: Sequence[Piece]) -> ExitCode:
    """Run to the end or to an interrupt; what was measured stays in the benchmark."""
    with measuring((len(pieces) + 1) * len(benchmark.specs)) as measurement:
        benchmark.run(pieces, on_step=measurement.step)
    return measurement.code or (ExitCode.PARTIAL if benchmark.left_out else ExitCode.COMPLETE)


def _report(benchmark: EngineBenchmark) -> dict[str, object]:
    """Print the table, and return all figures."""
    from agentinfer_lg.evals.common.versions import versions
    from agentinfer_lg.evals.sam.engine.figures import as_json, make_rows, request_rows

    rows = make_rows(benchmark.runs)
    typer.echo("\n".join(_table(rows)))
    for name, reason in benchmark.left_out.items():
        typer.echo(f"{name} is left out: {reason}", err=True)
    return {
        "rows": [as_json(row) for row in rows],
        "left_out": benchmark.left_out,
        "versions": versions(),
        "requests": request_rows(benchmark.runs),
    }


def _table(rows: Sequence[EngineRow]) -> list[str]:
    if not rows:
        return ["nothing was measured"]
    return [
        "decode and TTFT: medians over requests; LLM latency: mean; ratios to no speculation over the same requests, in "
        "brackets their 95% intervals over sessions",
        "",
        *aligned([_HEAD, *(_cells(row) for row in rows)]),
    ]


_HEAD = (
    *(
        "batch",
        "spec",
        "requests (compared)",
        "decode ms/token",
        "ratio",
        "LLM latency s",
        "ratio",
        "TTFT s",
        "ratio",
    ),
    *("tokens/s", "ratio", "accepted/drafted", "tokens per step", "preempted"),
)


def _cells(row: EngineRow) -> tuple[str, ...]:
    return (
        str(row.batch),
        row.spec,
        f"{row.requests} ({row.compared})",
        filled(row.decode_ms_per_token, ".1f"),
        _ratio(row.decode_ratio),
        f"{row.llm_latency_s:.2f}",
        _ratio(row.ratio_to_none),
        f"{row.ttft_s:.3f}",
        _ratio(row.ttft_ratio),
        f"{row.tokens_per_s:.1f}",
        filled(row.throughput_ratio, ".2f"),
        f"{row.accepted}/{row.drafted}" if row.drafted else "-",
        filled(row.tokens_per_step, ".2f"),
        str(row.preempted),
    )


def _ratio(ratio: Interval | None) -> str:
    return "-" if ratio is None else f"{ratio.value:.3f} ({ratio.low:.3f}-{ratio.high:.3f})"


def _specs(text: str) -> list[Spec]:
    from agentinfer_lg.evals.sam.engine.plan import SPECS

    return known_names(text, SPECS, flag="--spec")


def _load(sets: str, *, data: Path | None, tokenizer: Path) -> list[Session]:
    """The sessions of all sets; their ids say which set they are from."""
    from dataclasses import replace

    from agentinfer_lg.evals.datasets.trajectories import load_sessions

    return [
        replace(session, id=f"{name}:{session.id}")
        for name in names(sets)
        for session in load_sessions(name, data=data, tokenizer=tokenizer)
    ]
