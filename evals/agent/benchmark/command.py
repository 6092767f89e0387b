"""The commands of `agentinfer eval`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from agentinfer_lg.evals.agent.benchmark.run_command import (
    BenchmarkFlags,
    JsonFile,
    Limit,
    Out,
    Policy,
    check_ready,
    run_and_report,
)
from agentinfer_lg.evals.common.flags import default_data, names, whole_numbers
from agentinfer_lg.evals.common.study import study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentinfer_lg.evals.datasets.question import Question
    from agentinfer_lg.text import Language

app = typer.Typer()

_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}

MaybeLimit = Annotated[
    int | None, typer.Option(min=1, help="Number of questions; default: all.", show_default=False)
]
WithJudge = Annotated[
    bool, typer.Option(help="Also ask the judge of AGENTINFER_JUDGE__*, where one is configured.")
]
Docs = Annotated[Path | None, typer.Option(help="Folder to research instead of the web.")]
MinTurns = Annotated[
    int, typer.Option(min=0, help="Only questions that took at least so many turns in run B.")
]
HotpotData = Annotated[
    Path | None, typer.Option(help="Folder of HotpotQA; default: $AGENTINFER_DATA/hotpotqa.")
]


@dataclass(frozen=True, kw_only=True)
class HotpotFlags(BenchmarkFlags):
    """Flags of `agentinfer eval hotpotqa`."""

    data: HotpotData = None
    out: Out = Path("runs/hotpotqa")
    policy: Policy = "agentcollab"
    limit: Limit = 20


@study(app, HotpotFlags, context_settings=_PASSED_ON)
def hotpotqa(flags: HotpotFlags) -> None:
    """HotpotQA over a closed corpus: accuracy, tokens per tier, seconds, escalations.

    Every question is one `agentinfer research` run; further flags are passed on to it. Endpoints come from the
    environment. Interrupted at any point, the same command goes on where it was.
    """
    from agentinfer_lg.evals.datasets.hotpotqa import load_questions, write_corpus

    folder = flags.data or default_data() / "hotpotqa"
    questions = load_questions(folder, offset=flags.offset, limit=flags.limit)
    check_ready(flags)
    docs = flags.out.absolute() / "corpus"
    typer.echo(f"{write_corpus(folder, docs)} paragraphs, {len(questions)} questions", err=True)
    run_and_report("hotpotqa", questions, flags, data=str(folder.absolute()), docs=docs)


@dataclass(frozen=True, kw_only=True)
class ClosedWorldFlags(BenchmarkFlags):
    """Flags of `agentinfer eval closed-world`."""

    seed: Annotated[int, typer.Option(min=0, help="Another one gives another world.")] = 1
    languages: Annotated[str, typer.Option(help="Of the questions, separated by commas.")] = "en,zh"
    hops: Annotated[str, typer.Option(help="Documents that a question needs, from 2 to 6.")] = "2,3,4,5,6"
    out: Out = Path("runs/closed-world")
    policy: Policy = "agentcollab"
    limit: Limit = 20


@study(app, ClosedWorldFlags, name="closed-world", context_settings=_PASSED_ON)
def closed_world(flags: ClosedWorldFlags) -> None:
    """Questions about an invented world, generated with its documents: nothing in it can be known beforehand.

    Every question is one `agentinfer research` run; further flags are passed on to it. The world has as many questions as
    are asked or left out, so that a continued run needs the same --limit and --offset.
    """
    from agentinfer_lg.evals.datasets.closed_world.world import generate_world, write_world

    count, languages = flags.offset + flags.limit, names(flags.languages)
    world = generate_world(
        seed=flags.seed,
        questions=count,
        languages=cast("list[Language]", languages),  # others are refused there
        hops=whole_numbers(flags.hops, flag="--hops"),
    )
    check_ready(flags)
    docs = flags.out.absolute() / "corpus"
    typer.echo(f"{write_world(world, docs)} documents, {flags.limit} questions", err=True)
    made_from = (
        f"seed {flags.seed}, {count} questions, {','.join(languages)}, hops {','.join(names(flags.hops))}"
    )
    run_and_report("closed-world", world.questions[flags.offset :], flags, data=made_from, docs=docs)


@dataclass(frozen=True, kw_only=True)
class BrowseCompFlags(BenchmarkFlags):
    """Flags of `agentinfer eval browsecomp-zh`."""

    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the encrypted files; default: $AGENTINFER_DATA/browsecomp-zh."),
    ] = None
    docs: Docs = None
    judge: WithJudge = True
    out: Out = Path("runs/browsecomp-zh")
    policy: Policy = "agentcollab"
    limit: MaybeLimit = None


@study(app, BrowseCompFlags, name="browsecomp-zh", context_settings=_PASSED_ON)
def browsecomp_zh(flags: BrowseCompFlags) -> None:
    """BrowseComp-ZH on the web: hard questions in Chinese, marked with the original and the revised answers.

    Every question is one `agentinfer research` run; further flags are passed on to it. The folder of the run holds questions
    and answers in plain text: keep it out of public places.
    """
    from agentinfer_lg.evals.datasets.browsecomp_zh import load_answer_sets

    folder = flags.data or default_data() / "browsecomp-zh"
    sets = load_answer_sets(folder, offset=flags.offset, limit=flags.limit)
    check_ready(flags, web=flags.docs is None)
    answers: dict[str, Sequence[Question]] = {str(name): questions for name, questions in sets.items()}
    _run_graded("browsecomp-zh", answers, flags, data=folder, docs=flags.docs, judge=flags.judge)


@dataclass(frozen=True, kw_only=True)
class DeepDiverFlags(BenchmarkFlags):
    """Flags of `agentinfer eval deepdiver`."""

    file: Annotated[Path, typer.Option(help="Questions with answers: .json, .jsonl or .csv (docs/data.md).")]
    question_field: Annotated[str, typer.Option(help="Name of the field; default: the common ones.")] = ""
    answer_field: Annotated[str, typer.Option(help="The same of the answer.")] = ""
    id_field: Annotated[str, typer.Option(help="The same of the id.")] = ""
    topic_field: Annotated[str, typer.Option(help="The same of the topic.")] = ""
    docs: Docs = None
    judge: WithJudge = True
    out: Out = Path("runs/deepdiver")
    policy: Policy = "agentcollab"
    limit: MaybeLimit = None


@study(app, DeepDiverFlags, context_settings=_PASSED_ON)
def deepdiver(flags: DeepDiverFlags) -> None:
    """Questions of your own on the web, in the style of DeepDiver's WebPuzzle.

    Every question is one `agentinfer research` run; further flags are passed on to it.
    """
    from agentinfer_lg.evals.datasets.deepdiver import Fields, load_questions

    given = {
        "question": flags.question_field,
        "answer": flags.answer_field,
        "id": flags.id_field,
        "topic": flags.topic_field,
    }
    fields = Fields(**{name: (field,) for name, field in given.items() if field})
    questions = load_questions(flags.file, fields=fields, offset=flags.offset, limit=flags.limit)
    check_ready(flags, web=flags.docs is None)
    _run_graded("deepdiver", {"given": questions}, flags, data=flags.file, docs=flags.docs, judge=flags.judge)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(help="Folder of the run to compare it with.")],
    data: HotpotData = None,
    min_turns: MinTurns = 0,
    json_file: JsonFile = None,
) -> None:
    """Two runs on the same questions: paired differences and ratios, with 95% bootstrap intervals.

    The right answers are those that the runs keep; --data is only needed for runs of earlier versions, which keep none.
    """
    from agentinfer_lg.evals.agent.benchmark.compare import common_questions, compare_runs
    from agentinfer_lg.evals.agent.benchmark.folder import asked, load_results
    from agentinfer_lg.evals.agent.benchmark.tables import comparison_table, write_json
    from agentinfer_lg.evals.datasets.hotpotqa import load_questions

    left, right = load_results(a), load_results(b)
    questions = common_questions(a, b) or asked(load_questions(data or default_data() / "hotpotqa"))
    found = compare_runs(left, right, questions, keep=lambda _, other: other["turns"] >= min_turns)
    write_json(found.to_json(), json_file)
    typer.echo("\n".join(comparison_table(found)))


@app.command()
def profile(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    json_file: JsonFile = None,
) -> None:
    """Where the time and the tokens of a run went: per phase and turn, per model and role, useful or not."""
    from agentinfer_lg.evals.agent.benchmark.tables import show_profile, write_json

    write_json(show_profile(run), json_file)


def _run_graded(
    name: str,
    answers: dict[str, Sequence[Question]],
    flags: BenchmarkFlags,
    *,
    data: Path,
    docs: Path | None,
    judge: bool,
) -> None:
    questions = next(iter(answers.values()))
    folder = docs.absolute() if docs else None
    typer.echo(f"{len(questions)} questions, searching {folder or 'the web'}", err=True)
    run_and_report(
        name, questions, flags, data=str(data.absolute()), docs=folder, answers=answers, judge=judge
    )
