"""`agentinfer bench compress`: a long session on a real engine, with context compression and without."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.flags import known_names, model_folder
from agentinfer_lg.evals.common.study import StudyFlags, measuring, study
from agentinfer_lg.evals.common.tables import aligned

if TYPE_CHECKING:
    from agentinfer_lg.evals.compression.long_session.figures import Figures
    from agentinfer_lg.evals.compression.long_session.run import LongSession, Variant

app = typer.Typer()

_NAMES = {"on": "compression", "cold": "compression, cold compaction", "off": "no compression"}


@dataclass(frozen=True, kw_only=True)
class CompressFlags(StudyFlags):
    """Flags of `agentinfer bench compress`."""

    model: Annotated[
        str, typer.Option(help="Model folder, or `demo` for the small demo model (8192 tokens of context).")
    ] = "demo"
    docs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of text documents; default: the paragraphs of HotpotQA in the data folder."
        ),
    ] = None
    variants: Annotated[
        str,
        typer.Option(help="Sessions, separated by commas: on, cold (compaction without prewarm), off."),
    ] = "on,off"
    rounds: Annotated[int, typer.Option(min=3, max=1000, help="Rounds of a session.")] = 24
    after_tokens: Annotated[
        int, typer.Option(min=200, help="Context from which old results are distilled.")
    ] = 12_000
    keep_rounds: Annotated[int, typer.Option(min=0, max=20, help="Last rounds that stay whole.")] = 2
    notes_tokens: Annotated[int, typer.Option(min=100, help="Most tokens of the notes.")] = 1000
    observation_tokens: Annotated[int, typer.Option(min=100, help="Most tokens of results per round.")] = 1000
    tool_seconds: Annotated[
        float, typer.Option(min=0, help="Added to each search: a folder answers at once, the web does not.")
    ] = 0.0
    max_context: Annotated[
        int | None, typer.Option(min=1024, help="Context window of the engine; default: that of the model.")
    ] = None
    prewarm: Annotated[
        bool,
        typer.Option(
            help="Prefill the new context before a compaction; off: `cold` takes the place of `on`."
        ),
    ] = True
    engine_args: Annotated[str, typer.Option(help="More arguments for vLLM, in quotes.")] = ""
    data: Annotated[Path | None, typer.Option(help="Folder of recorded data; default: $AGENTINFER_DATA.")] = (
        None
    )
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all figures and events here.")
    ] = None


@study(app, CompressFlags, name="compress")
def compress(flags: CompressFlags) -> ExitCode | None:
    """Run one long research session per variant over real documents, on a real engine with AgentSAM and AgentSched.

    What each round searches is given, so that the session is long; everything else is as in any run. It is told how far
    the context shrinks at a compaction, what of the first prompt after it was in the prefix cache, which blocks were released,
    and whether a round waited for a distillation. Ctrl-C shows the sessions that were done until then.
    """
    from agentinfer_lg.evals.compression.long_session.run import LongSession, LongSessionOptions
    from agentinfer_lg.evals.compression.long_session.script import make_script

    chosen = _variants(flags.variants, prewarm=flags.prewarm)
    folder = model_folder(flags.model)
    with _documents(flags.docs, flags.data) as documents:
        session = LongSession(
            script=make_script(documents, rounds=flags.rounds),
            options=LongSessionOptions(
                model=str(folder),
                docs=documents,
                rounds=flags.rounds,
                after_tokens=flags.after_tokens,
                keep_rounds=flags.keep_rounds,
                notes_tokens=flags.notes_tokens,
                observation_tokens=flags.observation_tokens,
                tool_seconds=flags.tool_seconds,
                max_model_len=flags.max_context,
                engine_args=tuple(shlex.split(flags.engine_args)),
            ),
            variants=chosen,
        )
        code = _run(session)
    typer.echo("\n".join(_report(session.figures)))
    flags.write(_figures(session, model=flags.model if flags.model == "demo" else folder.name))
    return code


def _variants(text: str, *, prewarm: bool) -> list[Variant]:
    from agentinfer_lg.evals.compression.long_session.run import VARIANTS

    chosen = known_names(text, VARIANTS, flag="--variants")
    if prewarm:
        return chosen
    return list(dict.fromkeys("cold" if variant == "on" else variant for variant in chosen))


@contextmanager
def _documents(docs: Path | None, data: Path | None) -> Iterator[Path]:
    """Yield the folder of documents; that of HotpotQA is written for the time of the block."""
    if docs is not None:
        yield docs
        return
    folder = data or (Path(os.environ["AGENTINFER_DATA"]) if os.environ.get("AGENTINFER_DATA") else None)
    if folder is None:
        msg = "There are no documents. Give a folder with --docs, or that of the recorded data with --data (docs/data.md)."
        raise UserInputError(msg)
    from agentinfer_lg.evals.datasets.hotpotqa import write_corpus

    with tempfile.TemporaryDirectory(prefix="agentinfer-docs-") as target:
        write_corpus(folder / "hotpotqa" if (folder / "hotpotqa").is_dir() else folder, Path(target))
        yield Path(target)


def _run(session: LongSession) -> ExitCode:
    """Run it; whatever ends it early, what was done stays in it."""
    with measuring(session.steps) as measurement:
        session.run(on_step=measurement.step)
    return measurement.code


def _report(figures: dict[Variant, Figures]) -> list[str]:
    if not figures:
        return ["nothing was measured"]
    lines: list[str] = []
    for variant, found in figures.items():
        lines += [f"{_NAMES[variant]}:", "", *aligned(_round_rows(found)), ""]
        if found.distillations:
            lines += ["distillations:", "", *aligned(_distillation_rows(found)), ""]
        if found.swaps:
            lines += ["compactions:", "", *aligned(_swap_rows(found)), ""]
    return [*lines, "sessions:", "", *aligned(_summary_rows(figures))]


def _round_rows(figures: Figures) -> list[list[str]]:
    head = ["turn", "prompt", "cached", "hit", "output", "think s", "round s", "boundary s", "distilling", ""]
    rows = [
        [
            str(each.turn),
            str(each.prompt_tokens),
            str(each.cached_tokens),
            f"{each.hit_share:.1%}",
            str(each.output_tokens),
            f"{each.think_seconds:.1f}",
            f"{each.seconds:.1f}",
            f"{each.boundary_seconds:.2f}",
            "yes" if each.distilling else "",
            "compaction" if each.swapped else "" if each.extends else "another prompt",
        ]
        for each in figures.rounds
    ]
    return [head, *rows]


def _distillation_rows(figures: Figures) -> list[list[str]]:
    head = [
        "from turn",
        "calls",
        "prompt",
        "output",
        "seconds",
        "boundaries",
        "left while it ran",
        "waited s",
    ]
    rows = [
        [
            str(each.turn),
            str(each.calls),
            str(each.prompt_tokens),
            str(each.output_tokens),
            f"{each.seconds:.1f}",
            str(each.boundaries),
            str(each.left),
            f"{each.waited_seconds:.2f}",
        ]
        for each in figures.distillations
    ]
    return [head, *rows]


def _swap_rows(figures: Figures) -> list[list[str]]:
    head = ["turn", "lag", "before", "after", "ratio", "hit", "warm before", "in common"]
    head += ["prefilled ahead", "at the boundary", "s", "superseded blocks", "expected"]
    rows = [
        [
            str(each.turn),
            str(each.lag),
            str(each.tokens_before),
            str(each.tokens_after),
            f"{each.ratio:.2f}",
            f"{each.hit_share:.1%}",
            f"{each.warm_share:.1%}",
            f"{each.common_share:.1%}",
            str(each.bulk_tokens),
            str(each.rest_tokens),
            f"{each.rest_seconds:.1f}",
            str(each.superseded_blocks),
            str(each.expected_blocks),
        ]
        for each in figures.swaps
    ]
    return [head, *rows]


def _summary_rows(figures: dict[Variant, Figures]) -> list[list[str]]:
    def row(name: str, value: Any) -> list[str]:  # Any: a function of figures
        return [name, *(value(each) for each in figures.values())]

    return [
        ["", *(_NAMES[variant] for variant in figures)],
        row("rounds", lambda f: str(len(f.rounds))),
        row("longest context", lambda f: str(f.longest_context)),
        row("last context", lambda f: str(f.rounds[-1].prompt_tokens) if f.rounds else "-"),
        row("prompt tokens, all requests", lambda f: str(f.prompt_tokens)),
        row("of them prefilled", lambda f: str(f.prefilled_tokens)),
        row("seconds", lambda f: f"{f.seconds:.0f}"),
        row("think s while distilling", lambda f: _seconds(f.mean_think_seconds(distilling=True))),
        row("think s otherwise", lambda f: _seconds(f.mean_think_seconds(distilling=False))),
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _figures(session: LongSession, *, model: str) -> dict[str, Any]:  # Any: JSON
    from agentinfer_lg.evals.common.versions import versions

    settings = asdict(session.options)
    del settings["docs"]  # a temporary folder, mostly
    return {
        "sessions": {variant: asdict(figures) for variant, figures in session.figures.items()},
        "script": asdict(session.script),
        "settings": {**settings, "model": model},
        "versions": versions(),
    }
