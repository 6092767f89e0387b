"""The whole agent under load: N questions at the same time, and what the servers do meanwhile.

A cell is one configuration with N questions at the same time. As in the ablation, each configuration has servers of its
own and each N other questions, the same for all configurations. While the questions of a cell are answered, the page
`/metrics` of each server is read every few seconds. Cells are files of the run's folder; one that was cut off is run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from agentinfer_lg.context import Context
from agentinfer_lg.evals.agent import closed_loop as runs
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS, Configuration
from agentinfer_lg.evals.agent.engines import AgentEngines, EnginePair, StartEngines, agent_engines
from agentinfer_lg.evals.common.run_store import CellFolder
from agentinfer_lg.evals.common.server_samples import Sample, Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What is run."""

    engines: EnginePair
    configurations: Sequence[Configuration] = (CONFIGURATIONS["all"], CONFIGURATIONS["+compress"])
    """By default the whole system, and the same without what is in the engine."""
    concurrency: Sequence[int] = (4, 8, 16)
    questions_per_place: int = 2
    """Questions of a cell, per question at the same time."""
    context: Context = field(default_factory=Context)
    """Knobs of the agent; those that a configuration switches are overridden."""
    tool_seconds: float = 1.0
    """Added to each search."""
    sample_seconds: float = 2.0
    """From one look at the servers to the next."""

    @property
    def counts(self) -> list[int]:
        """Questions of the cells with each N."""
        return [self.questions_per_place * places for places in self.concurrency]

    @property
    def questions(self) -> int:
        """Questions that the whole run takes, and one more that only warms up."""
        return sum(self.counts) + 1

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return what cells of one run have in common, as a JSON object."""
        return {
            "engines": self.engines.to_json(),
            "context": self.context.model_dump(),
            "concurrency": self.concurrency,
            "questions_per_place": self.questions_per_place,
            "tool_seconds": self.tool_seconds,
            "sample_seconds": self.sample_seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCell:
    """One configuration with N questions at the same time, measured."""

    configuration: str
    n: int
    seconds: float
    """Wall time of the whole cell."""
    questions: list[dict[str, Any]]  # Any: JSON
    """One object per question, as of `question_record`."""
    samples: list[Sample]
    """In the order of time."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:  # Any: JSON
        """Return what `to_json` wrote."""
        return cls(**{**content, "samples": [Sample.from_json(sample) for sample in content["samples"]]})

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class LoadRun:
    """The whole measurement, kept in a folder."""

    corpora: Sequence[runs.Corpus]
    options: LoadOptions
    folder: Path
    start_engines: StartEngines = agent_engines

    @property
    def missing(self) -> dict[str, list[int]]:
        """N of the cells that have not been run, by configuration; in the order in which they will be."""
        kept = CellFolder(self.folder)
        left = {
            configuration.name: [
                places
                for places in self.options.concurrency
                if not kept.has(_cell_name(configuration.name, places))
            ]
            for configuration in self.options.configurations
        }
        return {name: places for name, places in left.items() if places}

    def prepare(self) -> None:
        """Note the settings of a new run, or compare them with those that the folder holds; configurations may be added.

        Raises:
            ConfigurationError: The folder holds a run of other settings.
            UserInputError: There are too few questions.
        """
        count = self.options.questions
        runs.require_questions(self.corpora, count, lower="--concurrency or --questions-per-place")
        digest = runs.tasks_digest(runs.all_tasks(self.corpora)[:count])
        CellFolder(self.folder).keep_settings({**self.options.to_json(), "questions": digest})

    def run(
        self,
        *,
        on_done: Callable[[runs.Answered], None] = lambda answered: None,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> None:
        """Run the cells that are missing.

        Args:
            on_done: Called after each question.
            on_step: Called before engines are loaded and before each cell, with what it is.

        Raises:
            EngineError: A server does not start, or died.
            ConfigurationError: As of `prepare`.
            UserInputError: The same.
        """
        self.prepare()
        by_name = {each.name: each for each in self.options.configurations}
        for name, cells in self.missing.items():
            on_step(f"{name}: loading the engines")
            with self.start_engines(self.options.engines, by_name[name]) as engines:
                asyncio.run(self._measure_all(engines, by_name[name], cells, on_step, on_done))

    async def _measure_all(
        self,
        engines: AgentEngines,
        configuration: Configuration,
        cells: Sequence[int],
        on_step: Callable[[str], None],
        on_done: Callable[[runs.Answered], None],
    ) -> None:
        context = self.options.context.model_copy(update=configuration.knobs())
        seconds = self.options.tool_seconds
        asking = runs.askers(self.corpora, engines.settings(), configuration, tool_seconds=seconds)
        await runs.warm_up(runs.all_tasks(self.corpora)[self.options.questions - 1], asking, context)
        for places in cells:
            on_step(f"{configuration.name}, {places} at once")
            cell = await self._measure(engines, configuration.name, places, asking, context, on_done)
            await asyncio.to_thread(engines.check)
            CellFolder(self.folder).write(_cell_name(configuration.name, places), cell.to_json())

    async def _measure(
        self,
        engines: AgentEngines,
        configuration: str,
        places: int,
        asking: dict[str, runs.Asker],
        context: Context,
        on_done: Callable[[runs.Answered], None],
    ) -> LoadCell:
        tasks = load_tasks(self.corpora, self.options, places)
        urls = {str(tier): url for tier, url in engines.urls.items()}
        async with Sampler(urls=urls, seconds=self.options.sample_seconds) as sampler:

            def count(answered: runs.Answered) -> None:
                sampler.finished += answered.result is not None
                on_done(answered)

            answered, seconds = await runs.run_closed_loop(
                tasks, asking, context, places=places, on_done=count
            )
        return LoadCell(
            configuration=configuration,
            n=places,
            seconds=round(seconds, 3),
            questions=[runs.question_record(each) for each in answered],
            samples=sampler.samples,
        )


def load_tasks(corpora: Sequence[runs.Corpus], options: LoadOptions, places: int) -> list[runs.Task]:
    """Return the questions of the cells with N = `places`: others for each N, the same for all configurations."""
    ends = list(accumulate(options.counts))
    position = list(options.concurrency).index(places)
    return runs.all_tasks(corpora)[ends[position] - options.counts[position] : ends[position]]


def read_load_cells(folder: Path) -> list[LoadCell]:
    """Return the cells of a run, by N and in the order of `CONFIGURATIONS`.

    Raises:
        UserInputError: The folder is no run.
    """
    order = list(CONFIGURATIONS)
    cells = [LoadCell.from_json(cell) for cell in CellFolder(folder).read(command="agentinfer bench load")]
    return sorted(cells, key=lambda cell: (cell.n, order.index(cell.configuration)))


def _cell_name(configuration: str, places: int) -> str:
    return f"{configuration}-{places}"
