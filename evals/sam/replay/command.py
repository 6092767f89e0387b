"""`agentinfer bench sam`: drafts from session memory against other drafters, on recorded sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.progress import planned_progress
from agentinfer_lg.evals.common.study import StudyFlags, study
from agentinfer_lg.evals.common.tables import aligned

if TYPE_CHECKING:
    from agentinfer_lg.evals.sam.replay.run import Comparison

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class SamFlags(StudyFlags):
    """Flags of `agentinfer bench sam`."""

    sets: Annotated[
        str, typer.Option(help="Sets to replay, separated by commas; or folders of chats as JSON.")
    ] = "tau-airline,tau-retail,webdancer,who-and-when"
    drafters: Annotated[
        str,
        typer.Option(
            help="Drafters, separated by commas; default: all. arctic-grid: the rival at every setting it is tuned over."
        ),
    ] = ""
    k: Annotated[
        str, typer.Option("--k", help="Most drafted tokens per step; several, separated by commas.")
    ] = "3,8,16,32"
    half: Annotated[
        Literal["report", "tune", "all"],
        typer.Option(help="Sessions to count; parameters were chosen on `tune`."),
    ] = "report"
    history: Annotated[
        Literal["own", "foreign", "both"],
        typer.Option(help="Finished sessions that may be known: of this set, of the other sets, or both."),
    ] = "own"
    marginal_cost: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=1,
            help="What verifying one more token costs, as a share of a step, as told to AgentSAM.",
        ),
    ] = 0.03
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json or a model folder; default: the demo model's.")
    ] = None
    limit_sessions: Annotated[
        int | None, typer.Option(min=1, help="The first so many sessions of each set only.")
    ] = None
    batches: Annotated[
        str,
        typer.Option(
            help="Also measure the time of a step for whole batches of so many sessions; separated by commas."
        ),
    ] = ""
    data: Annotated[Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")] = (
        None
    )


@study(app, SamFlags)
def sam(flags: SamFlags) -> None:
    """Replay recorded sessions: tokens per forward pass, hit rate, costs; no model is run.

    What a model wrote is taken as the truth, and a draft counts as far as it agrees (greedy verification).
    """
    try:
        from agentinfer_lg.evals.sam.replay.drafters import GRID
        from agentinfer_lg.evals.sam.replay.run import (
            DEFAULT_DRAFTERS,
            Comparison,
            compare,
            measure_batches,
            versions,
        )
    except ImportError as error:
        msg = f"The replay needs {error.name}: pip install 'agentinfer-lg[evals]'."
        raise UserInputError(msg) from error
    comparison = Comparison(
        sets=_names(flags.sets),
        drafters=_drafters(flags.drafters) or DEFAULT_DRAFTERS,
        k=_numbers("--k", flags.k),
        half=flags.half,
        history=flags.history,
        marginal_cost=flags.marginal_cost,
        tokenizer=flags.tokenizer,
        data=flags.data,
        limit_sessions=flags.limit_sessions,
    )
    sizes = _numbers("--batches", flags.batches)
    for sentence in comparison.missing:
        typer.echo(sentence, err=True)
    with planned_progress() as (on_plan, on_session):
        rows = list(compare(comparison, on_plan=on_plan, on_session=on_session))
        batch_rows = list(measure_batches(comparison, sizes, on_session=on_session))
    best = _best(rows) if GRID in _names(flags.drafters) else []
    typer.echo("\n".join([*_table(rows, comparison), *best, *_batch_table(batch_rows)]))
    result = {
        "rows": rows,
        "batches": batch_rows,
        "settings": comparison.settings,
        "versions": versions(),
    }
    flags.write(result)


def _drafters(text: str) -> tuple[str, ...]:
    from agentinfer_lg.evals.sam.replay.drafters import GRID, arctic_grid

    return tuple(each for name in _names(text) for each in (arctic_grid() if name == GRID else (name,)))


def _best(rows: Sequence[dict[str, Any]]) -> list[str]:
    from agentinfer_lg.evals.sam.replay.run import best_by_cost

    best = best_by_cost(rows)
    return ["", "Best on average: " + ", ".join(f"{name} at c={cost}" for cost, name in best.items())]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in _names(text))
    except ValueError as error:
        msg = f"{flag} takes whole numbers separated by commas, not {text!r}."
        raise UserInputError(msg) from error


_COLUMNS = (
    ("tokens per pass", "{tokens_per_pass:.2f}"),
    ("hit rate", "{hit_rate:.1%}"),
    ("drafted per pass", "{drafted_per_pass:.1f}"),
    ("speed-up at c=.01", "{speedup_at_0_01:.2f}"),
    (".03", "{speedup_at_0_03:.2f}"),
    (".1", "{speedup_at_0_1:.2f}"),
    (".3", "{speedup_at_0_3:.2f}"),
    ("step us p50", "{propose_us_p50:.1f}"),
    ("p99", "{propose_us_p99:.1f}"),
    ("next turn us p50", "{next_turn_us_p50:.0f}"),
    ("build us/token", "{build_us_per_token:.2f}"),
    ("bytes/token", "{bytes_per_token:.0f}"),
)


def _table(rows: Sequence[dict[str, Any]], comparison: Comparison) -> list[str]:
    """One Markdown table per set."""
    lines = [
        f"half {comparison.half}, history {comparison.history}; speed-up = tokens per pass / (1 + c * drafted per pass); "
        "against arctic: ratio of the speed-ups at c=.03 with its 95% interval"
    ]
    references = [key for key in ("vs_arctic", "vs_arctic_tuned") if any(key in row for row in rows)]
    for name in comparison.sets:
        own = [row for row in rows if row["set"] == name]
        if own:
            lines += ["", f"{name}: {own[0]['sessions']} sessions, {own[0]['emitted']} tokens", ""]
            head = ("drafter", "K", *(title for title, _ in _COLUMNS), *references)
            lines += aligned([head, *(_cells(row, references) for row in own)])
    return lines


def _batch_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    head = ("set", "drafter", "K", "batch", "us per step of the batch, p50", "p99", "mean")
    forms = (
        "{set}",
        "{drafter}",
        "{k}",
        "{batch}",
        "{step_us_p50:.1f}",
        "{step_us_p99:.1f}",
        "{step_us_mean:.1f}",
    )
    cells = [tuple(form.format_map(row) for form in forms) for row in rows]
    return ["", "The same steps for every drafter, in a batch", "", *aligned([head, *cells])]


def _cells(row: dict[str, Any], references: Sequence[str]) -> tuple[str, ...]:
    against = [
        f"{row[key]:.3f} ({row[f'{key}_low']:.3f}-{row[f'{key}_high']:.3f})" if key in row else "-"
        for key in references
    ]
    return (row["drafter"], str(row["k"]), *(form.format_map(row) for _, form in _COLUMNS), *against)
