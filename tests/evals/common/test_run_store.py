"""Which questions a cell has: the same for all configurations, others for each block and N."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.fake_engines import PAIR

from agentinfer_lg.evals.agent.ablation.run import AblationOptions, cell_tasks
from agentinfer_lg.evals.agent.closed_loop import Corpus
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS
from agentinfer_lg.evals.datasets.question import Question


def corpora(names: list[str], questions: int) -> list[Corpus]:
    return [
        Corpus(
            name=name,
            questions=[Question(id=f"{name}{i}", question="?", answer="!") for i in range(questions)],
            docs=Path(),
        )
        for name in names
    ]


@st.composite
def options(draw: st.DrawFn) -> AblationOptions:
    return AblationOptions(
        engines=PAIR,
        concurrency=tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True))),
        questions_per_place=draw(st.integers(1, 3)),
        min_questions=draw(st.integers(1, 9)),
        blocks=draw(st.integers(1, 3)),
    )


@given(options=options(), benchmarks=st.integers(1, 3))
def test_cells_share_no_question_and_none_lacks_one(options: AblationOptions, benchmarks: int) -> None:
    names = ["a", "b", "c"][:benchmarks]
    made = corpora(names, -(-options.questions // benchmarks))
    seen: list[str] = []
    for block in range(options.blocks):
        for places in options.concurrency:
            tasks = cell_tasks(made, options, block, places)
            assert len(tasks) == max(options.min_questions, options.questions_per_place * places)
            counts = [sum(task.benchmark == name for task in tasks) for name in names]
            assert max(counts) - min(counts) <= 1  # they take turns in each cell
            seen += [task.question.id for task in tasks]
    assert len(seen) == len(set(seen)) == options.questions - 1


@given(options=options(), extra=st.integers(0, 5))
def test_more_blocks_or_questions_change_no_cell(options: AblationOptions, extra: int) -> None:
    few, many = corpora(["a", "b"], options.questions), corpora(["a", "b"], options.questions + extra)
    more = AblationOptions(
        engines=PAIR,
        configurations=tuple(CONFIGURATIONS.values())[:2],
        concurrency=options.concurrency,
        questions_per_place=options.questions_per_place,
        min_questions=options.min_questions,
        blocks=options.blocks + extra,
    )
    for places in options.concurrency:
        assert cell_tasks(few, options, 0, places) == cell_tasks(many, more, 0, places)
