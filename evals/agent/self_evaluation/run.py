"""What wrong self-evaluations cost: the agent under Progress Checks with an error rate that is forced.

An open question of AgentInfer (arXiv 2512.18337); its follow-up (arXiv 2603.26034) names false positives of the checker as
the main cause of failure. A condition is an error rate with the external verifier or without; `own` leaves the model's
verdicts as they are. All conditions answer the same questions on the same two servers, which run everything that the
system has and are started once.

These servers keep what they have computed: a condition finds cached prompts of the ones before. AgentSAM's memory is kept
apart by the tenant, the prefix cache is not. So questions go in groups, each group passes through all conditions, and the
order of the conditions rotates from group to group. Times are not compared, only accuracy, tokens, turns and escalations;
computed tokens, which depend on the cache, are those of servers that are warm.

Cells are files of the run's folder, one per condition and question. A run that was killed goes on with the questions that
are not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentinfer_lg.context import Context
from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.evals.agent.closed_loop import (
    Answered,
    Asker,
    Corpus,
    ResearchAgent,
    Task,
    all_tasks,
    askers,
    question_record,
    require_questions,
    run_closed_loop,
    tasks_digest,
    warm_up,
)
from agentinfer_lg.evals.agent.configurations import find_configuration
from agentinfer_lg.evals.agent.engines import AgentEngines, EnginePair, StartEngines, agent_engines
from agentinfer_lg.evals.agent.self_evaluation.forced_checks import ForcedChecks
from agentinfer_lg.evals.common.run_store import CellFolder
from agentinfer_lg.evals.common.slow_search import SlowSearch
from agentinfer_lg.evals.sam.engine.plan import rotated
from agentinfer_lg.result import Result
from agentinfer_lg.tools import SearchProvider
from agentinfer_lg.tools.local import LocalFolder

RATES: tuple[float | None, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, None)
"""Error rates that are forced; None: the model's own verdicts."""

_CONFIGURATION = find_configuration("all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How the Progress Checks of a run go."""

    rate: float | None
    """Share of wrong verdicts; None: the model's own."""
    verifier: bool
    """Whether the external verifier may overrule them."""

    @property
    def name(self) -> str:
        """Part of file names; also the tenant, so that no condition drafts from the memory of another."""
        return f"{self.rate_name}-{'verifier' if self.verifier else 'alone'}"

    @property
    def rate_name(self) -> str:
        """The rate as it is given on the command line."""
        return "own" if self.rate is None else f"{self.rate:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfEvaluationOptions:
    """What is run.

    Raises:
        ConfigurationError: More than one seeker, or a policy that makes no checks.
    """

    engines: EnginePair
    questions: int = 20
    parallel: int = 4
    """Questions at the same time; also the size of a group."""
    rates: Sequence[float | None] = RATES
    seed: int = 0
    """Of the flips."""
    context: Context = field(default_factory=lambda: Context(max_seekers=1))
    """Knobs of the agent; those of the parts, `verifier` and `tenant` are overridden."""
    tool_seconds: float = 1.0
    """Added to each search."""

    def __post_init__(self) -> None:
        if self.context.max_seekers != 1:
            msg = "Forced Progress Checks need one seeker per question: leave max_seekers at 1."
            raise ConfigurationError(msg)
        if self.context.max_large_steps == 0:
            msg = (
                "Without steps of the large model no Progress Check is made: max_large_steps must be above 0."
            )
            raise ConfigurationError(msg)

    @property
    def conditions(self) -> list[Condition]:
        """All of them, by rate; with the verifier first."""
        return [Condition(rate=rate, verifier=verifier) for rate in self.rates for verifier in (True, False)]

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return what cells of one run have in common, as a JSON object."""
        return {
            "engines": self.engines.to_json(),
            "context": self.context.model_dump(),
            "questions": self.questions,
            "parallel": self.parallel,
            "seed": self.seed,
            "tool_seconds": self.tool_seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfEvaluationCell:
    """One question under one condition."""

    rate: float | None
    verifier: bool
    question: dict[str, Any]  # Any: JSON
    """What came of it (`agent_runs.question_record`)."""
    checks: list[dict[str, Any]]
    """Its Progress Checks (`ForcedCheck`)."""

    @property
    def condition(self) -> Condition:
        """Its condition."""
        return Condition(rate=self.rate, verifier=self.verifier)


@dataclass(slots=True, kw_only=True)
class SelfEvaluation:
    """The whole measurement, kept in a folder."""

    corpora: Sequence[Corpus]
    """Benchmarks whose questions name their evidence."""
    options: SelfEvaluationOptions
    folder: Path
    start_engines: StartEngines = agent_engines

    @property
    def missing(self) -> list[tuple[Condition, list[Task]]]:
        """Questions that have not been asked, as far as they are asked at the same time; in the order in which they will be."""
        tasks, size = self._tasks, self.options.parallel
        groups = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        pieces = [
            (condition, [task for task in group if not self._run.has(_cell_name(condition, task))])
            for number, group in enumerate(groups)
            for condition in rotated(self.options.conditions, number)
        ]
        return [(condition, left) for condition, left in pieces if left]

    def prepare(self) -> None:
        """Note the settings of a new run, or compare them with those that the folder holds; rates may be added.

        Raises:
            ConfigurationError: The folder holds a run of other settings.
            UserInputError: There are too few questions.
        """
        require_questions(self.corpora, self.options.questions + 1, lower="--questions")
        corpora = [[corpus.name, len(corpus.questions)] for corpus in self.corpora]
        self._run.keep_settings(
            {**self.options.to_json(), "corpora": corpora, "questions": tasks_digest(self._tasks)}
        )

    def run(
        self,
        *,
        on_step: Callable[[str], None] = lambda step: None,
        on_done: Callable[[Answered], None] = lambda answered: None,
    ) -> None:
        """Ask what is missing.

        Args:
            on_step: Called before the engines are loaded, and before each group of questions, with what it is.
            on_done: Called after each question.

        Raises:
            EngineError: A server does not start, or died.
            ConfigurationError: As of `prepare`.
            UserInputError: The same.
        """
        self.prepare()
        missing = self.missing
        if not missing:
            return
        on_step("loading the engines")
        with self.start_engines(self.options.engines, _CONFIGURATION) as engines:
            asyncio.run(self._measure(engines, missing, on_step, on_done))

    async def _measure(
        self,
        engines: AgentEngines,
        missing: Sequence[tuple[Condition, list[Task]]],
        on_step: Callable[[str], None],
        on_done: Callable[[Answered], None],
    ) -> None:
        seconds = self.options.tool_seconds
        searches: dict[str, SearchProvider] = {
            corpus.name: SlowSearch(LocalFolder(corpus.docs), seconds=seconds) for corpus in self.corpora
        }
        unmeasured = askers(self.corpora, engines.settings(), _CONFIGURATION, tool_seconds=0.0)
        extra = all_tasks(self.corpora)[self.options.questions]
        await warm_up(extra, unmeasured, self._context(self.options.conditions[0]))
        for condition, tasks in missing:
            on_step(f"{condition.name}: {', '.join(task.question.id for task in tasks)}")
            await self._ask(engines, searches, condition, tasks, on_done)

    async def _ask(
        self,
        engines: AgentEngines,
        searches: dict[str, SearchProvider],
        condition: Condition,
        tasks: Sequence[Task],
        on_done: Callable[[Answered], None],
    ) -> None:
        with ForcedChecks(
            engines=engines.urls,
            questions=[task.question for task in tasks],
            error_rate=condition.rate,
            seed=self.options.seed,
        ) as checks:
            failed: list[Answered] = []

            def keep(answered: Answered) -> None:
                if answered.result is None:
                    failed.append(answered)  # maybe because a server died; that is looked at below
                else:
                    self._write(condition, answered, checks)
                on_done(answered)

            asking: dict[str, Asker] = {
                name: _Forced(engines, search, checks) for name, search in searches.items()
            }
            context = self._context(condition)
            await run_closed_loop(tasks, asking, context, places=len(tasks), on_done=keep)
            await asyncio.to_thread(engines.check)
            for answered in failed:
                self._write(condition, answered, checks)

    def _context(self, condition: Condition) -> Context:
        knobs = {**_CONFIGURATION.knobs(), "verifier": condition.verifier, "tenant": condition.name}
        return self.options.context.model_copy(update=knobs)

    def _write(self, condition: Condition, answered: Answered, checks: ForcedChecks) -> None:
        cell = SelfEvaluationCell(
            rate=condition.rate,
            verifier=condition.verifier,
            question=question_record(answered),
            checks=[asdict(check) for check in checks.checks(answered.task.question.id)],
        )
        self._run.write(_cell_name(condition, answered.task), asdict(cell))

    @property
    def _run(self) -> CellFolder:
        return CellFolder(self.folder)

    @property
    def _tasks(self) -> list[Task]:
        return all_tasks(self.corpora)[: self.options.questions]


class _Forced:
    """An asker whose requests go through the proxy, each question by its own URLs."""

    def __init__(self, engines: AgentEngines, search: SearchProvider, checks: ForcedChecks) -> None:
        self._engines = engines
        self._search = search
        self._checks = checks

    async def ask(self, question: str, context: Context, *, thread: str) -> Result:
        settings = self._checks.settings(self._engines.settings(), thread)
        result = await ResearchAgent(settings, self._search).ask(question, context, thread=thread)
        # An agent makes the best of a server that died; its answer must not count.
        await asyncio.to_thread(self._engines.check)
        return result


def read_cells(folder: Path) -> list[SelfEvaluationCell]:
    """Return the cells of a run.

    Raises:
        UserInputError: The folder is no run.
    """
    cells = CellFolder(folder).read(command="agentinfer bench self-evaluation")
    return [SelfEvaluationCell(**cell) for cell in cells]


def _cell_name(condition: Condition, task: Task) -> str:
    return f"{condition.name}-{task.benchmark}-{task.question.id}"
