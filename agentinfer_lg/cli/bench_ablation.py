"""`agentinfer bench ablation`: every part on and off on a real engine, end to end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agentinfer_lg.cli.bench_flags import aligned, model_folder, names, step_progress, whole_numbers
from agentinfer_lg.errors import UserInputError

if TYPE_CHECKING:
    from agentinfer_lg.evals.ablation import AblationOptions
    from agentinfer_lg.evals.ablation_figures import AblationRow
    from agentinfer_lg.evals.agent_engines import TierEngine
    from agentinfer_lg.evals.agent_runs import Answered, Corpus
    from agentinfer_lg.settings import Tier

__all__ = ("register",)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ablation)


def ablation(
    small_model: Annotated[
        str, typer.Option(help="Model of the small tier: a folder, or a name on the hub.")
    ],
    large_model: Annotated[str, typer.Option(help="Model of the large tier.")],
    configurations: Annotated[str, typer.Option(help="Which ones, separated by commas; default: all.")] = "",
    concurrency: Annotated[str, typer.Option(help="Questions at the same time.")] = "1,4,8,16",
    benchmarks: Annotated[
        str, typer.Option(help="closed-world, hotpotqa, or both: their questions take turns.")
    ] = "closed-world",
    seed: Annotated[int, typer.Option(help="Of the closed world.")] = 1,
    languages: Annotated[str, typer.Option(help="Of the closed world.")] = "en,zh",
    hops: Annotated[
        str, typer.Option(help="Of the closed world: documents between question and answer.")
    ] = "2,3,4,5,6",
    offset: Annotated[
        int, typer.Option(min=0, help="Questions of each benchmark to leave out at the start.")
    ] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Folder of HotpotQA; default: $AGENTINFER_DATA/hotpotqa.")
    ] = None,
    questions_per_place: Annotated[
        int, typer.Option(min=1, help="Questions of a cell, per question at the same time.")
    ] = 1,
    min_questions: Annotated[int, typer.Option(min=1, help="Least questions of a cell.")] = 4,
    blocks: Annotated[int, typer.Option(min=1, help="Repeat everything so often, with other questions.")] = 1,
    tool_seconds: Annotated[
        float, typer.Option(min=0.0, help="Added to each search: a folder answers at once, the web does not.")
    ] = 1.0,
    max_model_len: Annotated[int, typer.Option(min=1024, help="Longest context of the servers.")] = 16_384,
    kv_cache_gib: Annotated[
        float | None, typer.Option(min=0.1, help="KV cache of each server; default: as `agentinfer serve`.")
    ] = None,
    small_args: Annotated[str, typer.Option(help="More arguments for vLLM, small tier.")] = "",
    large_args: Annotated[str, typer.Option(help="More arguments for vLLM, large tier.")] = "",
    small_env: Annotated[
        list[str] | None,
        typer.Option(help="Variable of the small server, NAME=VALUE: which devices it sees, for instance."),
    ] = None,
    large_env: Annotated[list[str] | None, typer.Option(help="Variable of the large server.")] = None,
    knobs: Annotated[
        list[str] | None, typer.Option("--set", help="Knob of the agent, KEY=VALUE; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of this run; an unfinished one is continued.")] = Path(
        "runs/ablation"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all rows here.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw charts into this folder.")] = None,
) -> None:
    """Answer questions with every part on and off: QPS, seconds, accuracy, tokens.

    Starts servers of its own, one configuration after the other, and needs the machine for itself. Killed at any point, the
    same command goes on with the cell that was cut off.
    """
    from agentinfer_lg.cli.options import build_context, parse_assignments
    from agentinfer_lg.evals.ablation import Ablation, AblationOptions, read_cells
    from agentinfer_lg.evals.ablation_figures import ablation_rows
    from agentinfer_lg.evals.agent_engines import EnginePair
    from agentinfer_lg.evals.agent_parts import CONFIGURATIONS, find_configuration
    from agentinfer_lg.serving.launch import stop_on_signals

    options = AblationOptions(
        engines=EnginePair(
            small=_engine("small", small_model, kv_cache_gib, small_args, small_env or []),
            large=_engine("large", large_model, kv_cache_gib, large_args, large_env or []),
            max_model_len=max_model_len,
        ),
        configurations=tuple(
            find_configuration(name) for name in _different(configurations) or CONFIGURATIONS
        ),
        concurrency=tuple(whole_numbers(concurrency, flag="--concurrency")),
        questions_per_place=questions_per_place,
        min_questions=min_questions,
        blocks=blocks,
        context=build_context({"report": "brief"}, parse_assignments(knobs or [])),
        tool_seconds=tool_seconds,
    )
    world = _World(
        seed=seed, languages=_languages(languages), hops=whole_numbers(hops, flag="--hops"), offset=offset
    )
    corpora = _corpora(_different(benchmarks), options, world, data, out)
    benchmark = Ablation(corpora=corpora, options=options, folder=out)
    benchmark.prepare()
    missing = benchmark.missing
    loads = len({(block, configuration.name) for block, configuration, _ in missing})
    try:
        with stop_on_signals(), step_progress(len(missing) + loads) as on_step:
            benchmark.run(on_step=on_step, on_done=_report)
    finally:
        if any((out / "cells").glob("*.json")):
            rows = ablation_rows(read_cells(out))
            _write(rows, out, json_file, options)
            typer.echo("\n".join(_table(rows)))
    if plots is not None:
        from agentinfer_lg.evals.ablation_plots import draw_ablation

        for file in draw_ablation(read_cells(out), plots):
            typer.echo(f"drawn: {file}", err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """What the closed world is made from."""

    seed: int
    languages: Sequence[Literal["en", "zh"]]
    hops: Sequence[int]
    offset: int


def _engine(
    tier: Tier, model: str, kv_cache_gib: float | None, args: str, variables: list[str]
) -> TierEngine:
    from agentinfer_lg.evals.agent_engines import TierEngine

    environment = {}
    for text in variables:
        name, equals, value = text.partition("=")
        if not equals or not name:
            msg = f"--{tier}-env {text!r} is not of the form NAME=VALUE."
            raise UserInputError(msg)
        environment[name] = value
    try:
        more = tuple(shlex.split(args))
    except ValueError as error:
        msg = f"--{tier}-args {args!r} cannot be split into arguments: {error}."
        raise UserInputError(msg) from None
    folder = str(model_folder(model)) if model == "demo" else model
    return TierEngine(model=folder, kv_cache_gib=kv_cache_gib, args=more, environment=environment)


def _different(text: str) -> list[str]:
    return list(dict.fromkeys(names(text)))


def _languages(text: str) -> list[Literal["en", "zh"]]:
    known: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    chosen = [language for name in names(text) for language in known if language == name]
    if not chosen or len(chosen) != len(names(text)):
        msg = f"--languages takes en, zh, or both, separated by commas, not {text!r}"
        raise UserInputError(msg)
    return chosen


def _corpora(
    wanted: list[str], options: AblationOptions, world: _World, data: Path | None, out: Path
) -> list[Corpus]:
    count = world.offset + -(-options.questions // max(1, len(wanted)))
    made = {"closed-world": _closed_world, "hotpotqa": _hotpotqa}
    unknown = [name for name in wanted if name not in made]
    if unknown or not wanted:
        msg = f"--benchmarks takes some of {', '.join(made)}, separated by commas, not {', '.join(unknown) or 'nothing'}."
        raise UserInputError(msg)
    return [made[name](count, world, data, out.absolute() / "corpora" / name) for name in wanted]


def _closed_world(count: int, world: _World, data: Path | None, docs: Path) -> Corpus:
    from agentinfer_lg.evals.agent_runs import Corpus
    from agentinfer_lg.evals.benchmarks.closed_world import generate_world, write_world

    made = generate_world(seed=world.seed, questions=count, languages=world.languages, hops=world.hops)
    # Another world must not write into the documents of a run that it is then refused to continue.
    docs /= "-".join(map(str, (world.seed, *world.languages, *world.hops)))
    write_world(made, docs)
    return Corpus(name="closed-world", questions=made.questions[world.offset :], docs=docs)


def _hotpotqa(count: int, world: _World, data: Path | None, docs: Path) -> Corpus:
    from agentinfer_lg.cli.eval import default_data
    from agentinfer_lg.evals.agent_runs import Corpus
    from agentinfer_lg.evals.benchmarks.hotpotqa import load_questions, write_corpus

    folder = data or default_data() / "hotpotqa"
    write_corpus(folder, docs)
    questions = load_questions(folder, offset=world.offset, limit=count - world.offset)
    return Corpus(name="hotpotqa", questions=questions, docs=docs)


def _report(answered: Answered) -> None:
    result = answered.result
    answer = " ".join(result["answer"].split())[:60] if result else f"failed: {answered.failure}"
    typer.echo(f"  {answered.seconds:6.0f} s  {answered.task.question.answer[:30]} <- {answer}", err=True)


def _write(rows: list[AblationRow], out: Path, json_file: Path | None, options: AblationOptions) -> None:
    from agentinfer_lg.evals.engine import versions

    content = {
        "rows": [row.to_json() for row in rows],
        "settings": {
            "engines": options.engines.to_json(),
            "context": options.context.model_dump(),
            "questions_per_place": options.questions_per_place,
            "min_questions": options.min_questions,
            "blocks": options.blocks,
            "tool_seconds": options.tool_seconds,
        },
        "versions": versions(),
    }
    text = json.dumps(content, indent=2) + "\n"
    for file in filter(None, (out / "rows.json", json_file)):
        file.write_text(text, encoding="utf-8")


def _table(rows: list[AblationRow]) -> list[str]:
    head = (
        "n", "configuration", "questions", "failed", "QPS x1000", "end to end s", "speed-up (95%)", "QPS ratio", "accuracy",
        "difference (95%)", "F1", "tokens", "computed", "ineffective", "OTE", "cache hits",
    )  # fmt: skip
    return aligned([head, *(_cells(row) for row in rows)])


def _cells(row: AblationRow) -> tuple[str, ...]:
    return (
        str(row.n),
        row.configuration,
        str(row.questions),
        str(row.failures),
        f"{1000 * row.qps:.2f}",
        f"{row.end_to_end_s:.1f}" if row.end_to_end_s is not None else "-",
        f"{row.speedup_interval:.2f}" if row.speedup_interval else "-",
        f"{row.qps_ratio:.2f}" if row.qps_ratio is not None else "-",
        f"{row.accuracy:.0%}",
        f"{row.accuracy_difference:+.2f}" if row.accuracy_difference else "-",
        f"{row.f1:.2f}",
        f"{row.tokens:,.0f}",
        f"{row.computed_tokens:,.0f}",
        f"{row.ineffective_tokens:,.0f}",
        f"{row.ote:.2f}" if row.ote else "-",
        f"{row.cache_hit_rate:.0%}",
    )
