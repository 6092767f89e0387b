"""`agentinfer bench retrieval`: what finding similar sessions costs as history grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.progress import counted_progress
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import table

if TYPE_CHECKING:
    from agentinfer_lg.evals.sam.retrieval.run import RecallRow, RetrievalRow

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class RetrievalFlags(StudyFlags):
    """Flags of `agentinfer bench retrieval`."""

    sessions: Annotated[
        str, typer.Option(help="Numbers of sessions in the history, separated by commas.")
    ] = "1000,10000,100000"
    tokens: Annotated[int, typer.Option(min=100, help="Mean length of a session.")] = 1_000
    queries: Annotated[int, typer.Option(min=1, help="Queries for each number of sessions.")] = 200
    seed: Annotated[int, typer.Option(min=0, help="Decides the sessions.")] = 0
    disk: Annotated[bool, typer.Option(help="Also write all sessions to disk, and load them.")] = True
    sets: Annotated[
        str, typer.Option(help="Recorded sets on which to measure recall as well, separated by commas.")
    ] = ""
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="For the sets: a tokenizer.json or a model folder; default: the demo model's."),
    ] = None
    data: Annotated[Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")] = (
        None
    )


@study(app, RetrievalFlags)
def retrieval(flags: RetrievalFlags) -> None:
    """Find similar sessions among many, and begin to draft from them: time, recall, bytes.

    The sessions are synthetic, so that there can be many; `--sets` adds the recall on real ones.
    """
    sizes = _numbers(flags.sessions)
    try:
        from agentinfer_lg.evals.sam.retrieval.run import SyntheticSessions, measure, recall
    except ImportError as error:
        msg = f"The benchmark needs {error.name}: pip install 'agentinfer-lg[evals]'."
        raise UserInputError(msg) from error
    found = [
        recall(name.strip(), data=flags.data, tokenizer=flags.tokenizer)
        for name in flags.sets.split(",")
        if name.strip()
    ]
    source = SyntheticSessions(seed=flags.seed, tokens=flags.tokens)
    with counted_progress() as on_progress:
        rows = list(
            measure(sizes, sessions=source, queries=flags.queries, disk=flags.disk, on_progress=on_progress)
        )
    typer.echo("\n".join([*_table(rows), *_recall_table(found)]))
    settings = {"tokens": flags.tokens, "queries": flags.queries, "seed": flags.seed}
    result = {"rows": rows, "recall": found, "settings": settings}
    flags.write(result)


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        msg = f"--sessions takes whole numbers separated by commas, not {text!r}."
        raise UserInputError(msg) from error


_COLUMNS = (
    ("sessions", "{sessions:,}"),
    ("add us p50", "{add_us_p50:.0f}"),
    ("p99", "{add_us_p99:.0f}"),
    ("query ms p50", "{query_ms_p50:.3f}"),
    ("p99", "{query_ms_p99:.3f}"),
    ("recall@8", "{recall_at_8:.3f}"),
    ("bytes/session", "{bytes_per_session:.0f}"),
    ("attach ms p50", "{attach_ms_p50:.3f}"),
    ("p99", "{attach_ms_p99:.3f}"),
    ("build ms p50", "{build_ms_p50:.2f}"),
)
_DISK_COLUMNS = (
    ("put ms p50", "{put_ms_p50:.2f}"),
    ("p99", "{put_ms_p99:.2f}"),
    ("load s", "{load_seconds:.2f}"),
    ("load us/token", "{load_us_per_token:.3f}"),
    ("disk bytes/token", "{disk_bytes_per_token:.2f}"),
)
_RECALL_COLUMNS = (
    ("set", "{set}"),
    ("sessions", "{sessions}"),
    ("queries", "{queries}"),
    ("recall@8", "{recall_at_8:.3f}"),
    ("with what all share", "{recall_at_8_common_kept:.3f}"),
)


def _table(rows: Sequence[RetrievalRow]) -> list[str]:
    columns = (*_COLUMNS, *(_DISK_COLUMNS if "load_seconds" in rows[0] else ()))
    mean = rows[0]["tokens_per_session"]
    return [
        f"Synthetic sessions of about {mean:,} tokens, four to a task; attach: the last 256 tokens through 4 automata; "
        "build: these 4 automata, where they are not kept",
        "",
        *table(rows, columns),
    ]


def _recall_table(rows: Sequence[RecallRow]) -> list[str]:
    if not rows:
        return []
    return [
        "",
        "Recorded sessions: others on the same task that are found when 60% are known",
        "",
        *table(rows, _RECALL_COLUMNS),
    ]
