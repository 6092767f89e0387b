"""Every part on and off, on the same questions and the same machine, from one question at a time to many.

A cell is one configuration with N questions at the same time. Each configuration has servers of its own, started anew, so that
none finds in a cache or in a memory what another one left there; on them it runs all N one after the other, each with other
questions, the same for all configurations. Blocks repeat everything with further questions, and in another order of the
configurations: a machine that becomes slower or faster meanwhile does so for all.

Cells are files of the run's folder. A run that was killed goes on with the first cell that is not there; a cell is timed as
a whole, so one that was cut off is run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentinfer_lg.context import Context
from agentinfer_lg.evals.agent.closed_loop import (
    Answered,
    Corpus,
    Task,
    all_tasks,
    askers,
    question_record,
    require_questions,
    run_closed_loop,
    tasks_digest,
    warm_up,
)
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS, Configuration
from agentinfer_lg.evals.agent.engines import AgentEngines, EnginePair, StartEngines, agent_engines
from agentinfer_lg.evals.common.metrics_page import ServerFigures, fetch_server_figures
from agentinfer_lg.evals.common.run_store import CellFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationOptions:
    """What is run."""

    engines: EnginePair
    configurations: Sequence[Configuration] = tuple(CONFIGURATIONS.values())
    concurrency: Sequence[int] = (1, 4, 8, 16)
    questions_per_place: int = 1
    """Questions of a cell, per question at the same time."""
    min_questions: int = 4
    """Least questions of a cell."""
    blocks: int = 1
    context: Context = field(default_factory=Context)
    """Knobs of the agent; those that a configuration switches are overridden."""
    tool_seconds: float = 1.0
    """Added to each search."""

    def questions_at(self, places: int) -> int:
        """Return the number of questions of a cell."""
        return max(self.min_questions, self.questions_per_place * places)

    @property
    def questions(self) -> int:
        """Questions that the whole run takes, and one more that only warms up."""
        return self.blocks * self.questions_per_block + 1

    @property
    def questions_per_block(self) -> int:
        """Questions of the cells of one block, of which each configuration gets all."""
        return sum(map(self.questions_at, self.concurrency))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One configuration with N questions at the same time, measured."""

    block: int
    configuration: str
    n: int
    seconds: float
    """Wall time of the whole cell."""
    questions: list[dict[str, Any]]  # Any: JSON
    """One object per question: benchmark, id, evidence, correct, f1, seconds, failure, result."""
    servers: dict[str, dict[str, float]]
    """What each tier's server counted meanwhile (`ServerFigures`)."""


@dataclass(slots=True, kw_only=True)
class Ablation:
    """The whole measurement, kept in a folder."""

    corpora: Sequence[Corpus]
    options: AblationOptions
    folder: Path
    start_engines: StartEngines = agent_engines

    @property
    def missing(self) -> list[tuple[int, Configuration, int]]:
        """Cells that have not been run: block, configuration, N; in the order in which they will be."""
        return [
            (block, configuration, places)
            for block in range(self.options.blocks)
            for configuration in _rotated(self.options.configurations, block)
            for places in self.options.concurrency
            if not CellFolder(self.folder).has(_cell_name(block, configuration.name, places))
        ]

    def prepare(self) -> None:
        """Note the settings of a new run, or compare them with those that the folder holds.

        Raises:
            ConfigurationError: The folder holds a run of other settings.
            UserInputError: There are too few questions.
        """
        require_questions(
            self.corpora, self.options.questions, lower="--concurrency, --blocks or --questions-per-place"
        )
        self._check_same()

    def run(
        self,
        *,
        on_step: Callable[[str], None] = lambda step: None,
        on_done: Callable[[Answered], None] = lambda answered: None,
    ) -> None:
        """Run the cells that are missing.

        Args:
            on_step: Called before each cell with what it is.
            on_done: Called after each question.

        Raises:
            ConfigurationError: The folder holds a run of other settings.
            UserInputError: There are too few questions.
            EngineError: A server does not start, or died.
        """
        self.prepare()
        for configuration, cells in _grouped(self.missing):
            on_step(f"{configuration.name}: loading the engines")
            with self.start_engines(self.options.engines, configuration) as engines:
                asyncio.run(self._measure(engines, configuration, cells, on_step, on_done))

    async def _measure(
        self,
        engines: AgentEngines,
        configuration: Configuration,
        cells: Sequence[tuple[int, int]],
        on_step: Callable[[str], None],
        on_done: Callable[[Answered], None],
    ) -> None:
        context = self.options.context.model_copy(update=configuration.knobs())
        asking = askers(
            self.corpora, engines.settings(), configuration, tool_seconds=self.options.tool_seconds
        )
        await warm_up(all_tasks(self.corpora)[self.options.questions - 1], asking, context)
        for block, places in cells:
            on_step(f"block {block + 1} of {self.options.blocks}, {configuration.name}, {places} at once")
            tasks = cell_tasks(self.corpora, self.options, block, places)
            before = await _figures(engines)
            answered, seconds = await run_closed_loop(tasks, asking, context, places=places, on_done=on_done)
            after = await _figures(engines)
            await asyncio.to_thread(engines.check)
            cell = Cell(
                block=block,
                configuration=configuration.name,
                n=places,
                seconds=round(seconds, 3),
                questions=[question_record(each) for each in answered],
                servers={tier: asdict(after[tier].since(before[tier])) for tier in after if tier in before},
            )
            CellFolder(self.folder).write(_cell_name(block, configuration.name, places), asdict(cell))

    def _check_same(self) -> None:
        """Keep cells of different settings apart; more blocks and configurations may be added to a run."""
        CellFolder(self.folder).keep_settings(
            {
                "benchmarks": [corpus.name for corpus in self.corpora],
                "questions": tasks_digest(all_tasks(self.corpora)[: self.options.questions_per_block]),
                "engines": self.options.engines.to_json(),
                "context": self.options.context.model_dump(),
                "tool_seconds": self.options.tool_seconds,
                "questions_per_place": self.options.questions_per_place,
                "min_questions": self.options.min_questions,
                "concurrency": list(self.options.concurrency),
            }
        )


def cell_tasks(
    corpora: Sequence[Corpus], options: AblationOptions, block: int, places: int
) -> Sequence[Task]:
    """Return the questions of a cell: others for each block and N, the same for all configurations."""
    position = list(options.concurrency).index(places)
    start = block * options.questions_per_block + sum(
        map(options.questions_at, options.concurrency[:position])
    )
    return all_tasks(corpora)[start : start + options.questions_at(places)]


def read_cells(folder: Path) -> list[Cell]:
    """Return the cells of a run, block by block.

    Raises:
        UserInputError: The folder is no run.
    """
    cells = [Cell(**cell) for cell in CellFolder(folder).read(command="agentinfer bench ablation")]
    return sorted(cells, key=lambda cell: cell.block)


def _cell_name(block: int, configuration: str, places: int) -> str:
    return f"{block}-{configuration}-{places}"


def _rotated(configurations: Sequence[Configuration], block: int) -> list[Configuration]:
    first = block % len(configurations)
    return [*configurations[first:], *configurations[:first]]


def _grouped(
    cells: Sequence[tuple[int, Configuration, int]],
) -> Iterator[tuple[Configuration, list[tuple[int, int]]]]:
    """Yield what runs on the same servers: all cells of a configuration in a block."""
    group: dict[tuple[int, str], tuple[Configuration, list[tuple[int, int]]]] = {}
    for block, configuration, places in cells:
        group.setdefault((block, configuration.name), (configuration, []))[1].append((block, places))
    yield from group.values()


async def _figures(engines: AgentEngines) -> dict[str, ServerFigures]:
    """Ask all servers that have such a page."""
    asked = {tier: await fetch_server_figures(url) for tier, url in engines.urls.items()}
    return {tier: figures for tier, figures in asked.items() if figures is not None}
