"""Questions answered in a closed loop: N at the same time, the next one when one is done, all in one process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agentinfer_lg.context import Context
from agentinfer_lg.errors import AgentInferError, UserInputError
from agentinfer_lg.evals.agent.configurations import Configuration
from agentinfer_lg.evals.agent.one_shot import OneShot
from agentinfer_lg.evals.common.slow_search import SlowSearch
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.evals.grading.answers import exact_match, token_f1
from agentinfer_lg.graphs.deep_research import create_deep_research_graph
from agentinfer_lg.result import Result, build_result
from agentinfer_lg.settings import Settings
from agentinfer_lg.tools import SearchProvider
from agentinfer_lg.tools.local import LocalFolder

_MANY_STEPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A benchmark with its documents."""

    name: str
    questions: Sequence[Question]
    docs: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question, and the benchmark that it is of."""

    benchmark: str
    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of a task."""

    task: Task
    seconds: float
    """From taking it up to its answer."""
    result: Result | None
    failure: str = ""
    """Why there is no result."""


class Asker(Protocol):
    """Answers questions of one benchmark."""

    async def ask(self, question: str, context: Context, *, thread: str) -> Result:
        """Answer a question.

        Raises:
            AgentInferError: It cannot be answered.
        """


class ResearchAgent:
    """The deep-research graph as an asker."""

    def __init__(self, settings: Settings, search: SearchProvider) -> None:
        self._graph = create_deep_research_graph(settings=settings, search=search)

    async def ask(self, question: str, context: Context, *, thread: str) -> Result:
        """See `Asker.ask`."""
        began = time.monotonic()
        values: Mapping[str, Any] = await self._graph.ainvoke(
            {"question": question}, {"recursion_limit": _MANY_STEPS}, context=context
        )
        return build_result(values, thread=thread, seconds=time.monotonic() - began)


def askers(
    corpora: Sequence[Corpus], settings: Settings, configuration: Configuration, *, tool_seconds: float
) -> dict[str, Asker]:
    """Return who answers the questions of each benchmark.

    Args:
        corpora: The benchmarks.
        settings: Endpoints.
        configuration: An agent, or one reading.
        tool_seconds: Added to each search: a folder answers at once, the web does not.
    """
    kind = ResearchAgent if configuration.agent else OneShot
    return {
        corpus.name: kind(settings, SlowSearch(LocalFolder(corpus.docs), seconds=tool_seconds))
        for corpus in corpora
    }


def all_tasks(corpora: Sequence[Corpus]) -> list[Task]:
    """Take turns: the first question of each benchmark, then the second of each; so does every part of the list."""
    columns = [
        [Task(benchmark=corpus.name, question=question) for question in corpus.questions]
        for corpus in corpora
    ]
    return [task for row in zip(*columns, strict=False) for task in row]


def tasks_digest(tasks: Sequence[Task]) -> str:
    """Return a short text that differs where the tasks do."""
    told = [
        [task.benchmark, task.question.id, task.question.question, task.question.answers] for task in tasks
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def require_questions(corpora: Sequence[Corpus], count: int, *, lower: str) -> None:
    """Check that there are `count` questions.

    Args:
        corpora: The benchmarks.
        count: Questions that a run takes.
        lower: Flags by which it would take fewer.

    Raises:
        UserInputError: There are too few.
    """
    there = len(all_tasks(corpora))
    if there < count:
        msg = f"{count} questions are needed, and there are {there}: lower {lower}."
        raise UserInputError(msg)


async def warm_up(task: Task, asking: Mapping[str, Asker], context: Context) -> None:
    """Run one turn of a question, so that grammars are compiled and everything has been used once."""
    await run_closed_loop([task], asking, context.model_copy(update={"max_turns": 1}), places=1)


async def run_closed_loop(
    tasks: Sequence[Task],
    asking: Mapping[str, Asker],
    context: Context,
    *,
    places: int,
    on_done: Callable[[Answered], None] = lambda answered: None,
) -> tuple[list[Answered], float]:
    """Answer all tasks, `places` at the same time.

    Returns:
        The answers in the order of the tasks, and the seconds that everything took. A task that fails does not stop the others.
    """
    waiting = iter(enumerate(tasks))
    done: dict[int, Answered] = {}
    began = time.monotonic()

    async def place(numbered: Iterator[tuple[int, Task]]) -> None:
        for number, task in numbered:  # all places draw from the same ones
            done[number] = await _answer(task, asking[task.benchmark], context)
            on_done(done[number])

    await asyncio.gather(*(place(waiting) for _ in range(places)))
    return [done[number] for number in sorted(done)], time.monotonic() - began


async def _answer(task: Task, asker: Asker, context: Context) -> Answered:
    began = time.monotonic()
    try:
        result = await asker.ask(task.question.question, context, thread=task.question.id)
    except AgentInferError as error:
        return Answered(task=task, seconds=time.monotonic() - began, result=None, failure=str(error))
    return Answered(task=task, seconds=time.monotonic() - began, result=result)


def question_record(answered: Answered) -> dict[str, Any]:  # Any: JSON
    """Return what came of a question as a JSON object: what it was, whether the answer is right, seconds, the result."""
    question, result = answered.task.question, answered.result
    answer = result["answer"] if result else ""
    return {
        "benchmark": answered.task.benchmark,
        "id": question.id,
        "evidence": list(question.evidence),
        "answers": list(question.answers),
        "correct": result is not None and any(exact_match(answer, right) for right in question.answers),
        "f1": max(token_f1(answer, right) for right in question.answers),
        "seconds": round(answered.seconds, 3),
        "failure": answered.failure,
        "result": result,
    }
