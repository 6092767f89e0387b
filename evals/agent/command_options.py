"""What the commands share that measure the whole agent on servers of their own: flags, engines, questions, progress."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.flags import model_folder, names

if TYPE_CHECKING:
    from agentinfer_lg.evals.agent.closed_loop import Answered, Corpus
    from agentinfer_lg.evals.agent.engines import EnginePair, TierEngine
    from agentinfer_lg.settings import Tier

SmallModel = Annotated[str, typer.Option(help="Model of the small tier: a folder, or a name on the hub.")]
LargeModel = Annotated[str, typer.Option(help="Model of the large tier.")]
Concurrency = Annotated[str, typer.Option(help="Questions at the same time.")]
Benchmarks = Annotated[str, typer.Option(help="closed-world, hotpotqa, or both: their questions take turns.")]
Seed = Annotated[int, typer.Option(help="Of the closed world.")]
Languages = Annotated[str, typer.Option(help="Of the closed world.")]
Hops = Annotated[str, typer.Option(help="Of the closed world: documents between question and answer.")]
Offset = Annotated[int, typer.Option(min=0, help="Questions of each benchmark to leave out at the start.")]
HotpotData = Annotated[
    Path | None, typer.Option(help="Folder of HotpotQA; default: $AGENTINFER_DATA/hotpotqa.")
]
QuestionsPerPlace = Annotated[
    int, typer.Option(min=1, help="Questions of a cell, per question at the same time.")
]
ToolSeconds = Annotated[
    float, typer.Option(min=0.0, help="Added to each search: a folder answers at once, the web does not.")
]
MaxModelLen = Annotated[int, typer.Option(min=1024, help="Longest context of the servers.")]
KvCacheGib = Annotated[
    float | None, typer.Option(min=0.1, help="KV cache of each server; default: as `agentinfer serve`.")
]
SmallArgs = Annotated[str, typer.Option(help="More arguments for vLLM, small tier.")]
LargeArgs = Annotated[str, typer.Option(help="More arguments for vLLM, large tier.")]
SmallEnv = Annotated[
    list[str] | None,
    typer.Option(help="Variable of the small server, NAME=VALUE: which devices it sees, for instance."),
]
LargeEnv = Annotated[list[str] | None, typer.Option(help="Variable of the large server.")]
Knobs = Annotated[
    list[str] | None, typer.Option("--set", help="Knob of the agent, KEY=VALUE; may be repeated.")
]
Out = Annotated[Path, typer.Option(help="Folder of this run; an unfinished one is continued.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write all rows here.")]
Plots = Annotated[Path | None, typer.Option(help="Draw charts into this folder.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the closed world is made from."""

    seed: int
    languages: Sequence[Literal["en", "zh"]]
    hops: Sequence[int]
    offset: int


def engine_pair(
    *,
    models: tuple[str, str],
    kv_cache_gib: float | None,
    args: tuple[str, str],
    variables: tuple[list[str], list[str]],
    max_model_len: int,
) -> EnginePair:
    """Return how both servers are started, as the flags say; pairs are small tier, large tier.

    Raises:
        UserInputError: A variable is not of the form NAME=VALUE, or arguments cannot be split.
    """
    from agentinfer_lg.evals.agent.engines import EnginePair

    tiers: tuple[Tier, Tier] = ("small", "large")
    small, large = (
        _engine(tier, model, kv_cache_gib, more, own)
        for tier, model, more, own in zip(tiers, models, args, variables, strict=True)
    )
    return EnginePair(small=small, large=large, max_model_len=max_model_len)


def _engine(
    tier: Tier, model: str, kv_cache_gib: float | None, args: str, variables: list[str]
) -> TierEngine:
    from agentinfer_lg.evals.agent.engines import TierEngine

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


def known_languages(text: str) -> list[Literal["en", "zh"]]:
    """Read languages of the closed world, separated by commas.

    Raises:
        UserInputError: There is none, or one is unknown.
    """
    known: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    chosen = [language for name in names(text) for language in known if language == name]
    if not chosen or len(chosen) != len(names(text)):
        msg = f"--languages takes en, zh, or both, separated by commas, not {text!r}"
        raise UserInputError(msg)
    return chosen


def make_corpora(
    wanted: list[str], questions: int, world: World, data: Path | None, out: Path
) -> list[Corpus]:
    """Make the benchmarks, their documents below the folder of the run.

    Args:
        wanted: Their names.
        questions: How many are needed, all benchmarks together.
        world: What the closed world is made from.
        data: Folder of HotpotQA, where it is not the default.
        out: Folder of the run.

    Raises:
        UserInputError: There is no such benchmark, or its data are not there.
    """
    count = world.offset + -(-questions // max(1, len(wanted)))
    made = {"closed-world": _closed_world, "hotpotqa": _hotpotqa}
    unknown = [name for name in wanted if name not in made]
    if unknown or not wanted:
        msg = f"--benchmarks takes some of {', '.join(made)}, separated by commas, not {', '.join(unknown) or 'nothing'}."
        raise UserInputError(msg)
    return [made[name](count, world, data, out.absolute() / "corpora" / name) for name in wanted]


def _closed_world(count: int, world: World, data: Path | None, docs: Path) -> Corpus:
    from agentinfer_lg.evals.agent.closed_loop import Corpus
    from agentinfer_lg.evals.datasets.closed_world.world import generate_world, write_world

    made = generate_world(seed=world.seed, questions=count, languages=world.languages, hops=world.hops)
    # Another world must not write into the documents of a run that it is then refused to continue.
    docs /= "-".join(map(str, (world.seed, *world.languages, *world.hops)))
    write_world(made, docs)
    return Corpus(name="closed-world", questions=made.questions[world.offset :], docs=docs)


def _hotpotqa(count: int, world: World, data: Path | None, docs: Path) -> Corpus:
    from agentinfer_lg.evals.agent.closed_loop import Corpus
    from agentinfer_lg.evals.common.flags import default_data
    from agentinfer_lg.evals.datasets.hotpotqa import load_questions, write_corpus

    folder = data or default_data() / "hotpotqa"
    write_corpus(folder, docs)
    questions = load_questions(folder, offset=world.offset, limit=count - world.offset)
    return Corpus(name="hotpotqa", questions=questions, docs=docs)


def report_answer(answered: Answered) -> None:
    """Say what came of a question, in a line."""
    result = answered.result
    answer = " ".join(result["answer"].split())[:60] if result else f"failed: {answered.failure}"
    typer.echo(f"  {answered.seconds:6.0f} s  {answered.task.question.answer[:30]} <- {answer}", err=True)


def write_figures(figures: Mapping[str, Any], out: Path, json_file: Path | None) -> None:  # Any: JSON
    """Write figures, with the versions that they depend on, into the folder of the run and, if it is asked for, to `--json`."""
    from agentinfer_lg.evals.common.versions import versions

    text = json.dumps({**figures, "versions": versions()}, indent=2) + "\n"
    for file in filter(None, (out / "rows.json", json_file)):
        file.write_text(text, encoding="utf-8")
