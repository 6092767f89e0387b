"""Discrete-event replay of a workload against vLLM's real scheduler and KV cache manager.

Only the model is missing: a step takes the time that the roofline model of the hardware says, and every token is the same.
Time is simulated, so a replay is deterministic and hours of serving take minutes. While every running request just
decodes and nothing new can happen, several decode steps are taken as one.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentinfer_lg.evals.sched.replay.engine_parts import make_request, make_scheduler_parts
from agentinfer_lg.evals.sched.replay.hardware import Hardware
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession
from agentinfer_lg.hints import SessionHints

MAX_STEPS = 64
"""Most decode steps taken as one while nothing waits."""
MAX_BUSY_STEPS = 8
"""The same while a request waits: a scheduler may change its mind at any step."""
IDLE_SECONDS = 0.05
"""Time that passes when a scheduler leaves the engine idle although requests wait."""


class MakeScheduler(Protocol):
    """Makes a scheduler out of vLLM's keyword arguments."""

    def __call__(self, clock: Callable[[], float], parts: dict[str, Any]) -> Any:  # Any: objects of vLLM
        """Return the scheduler; `clock` tells the simulated time in seconds."""


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """What became of one request. Times in seconds since the start of the replay."""

    session: str
    index: int
    """Place in its session; one-shot requests have that of the call they follow."""
    one_shot: bool
    prompt_tokens: int
    known_tokens: int
    arrival: float
    admitted: float = -1.0
    first_token: float = -1.0
    finished: float = -1.0
    hit_tokens: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    """Tokens computed although they had been computed before."""
    block_ids: Any = None
    """As in the call; what the bound on the hit rate is computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """When a session began and ended, in seconds."""

    name: str
    started: float
    finished: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """State of the scheduler at one time."""

    time: float
    running: int
    waiting: int
    used_blocks: int
    figures: dict[str, float]
    """The scheduler's own figures, such as lambda; empty if it has none."""


@dataclass(slots=True, kw_only=True)
class SimulationResult:
    """All that a replay yields."""

    calls: list[CallRecord] = field(default_factory=list)
    """In the order of admission."""
    sessions: list[SessionRecord] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    busy_seconds: float = 0.0
    """Time in which the engine computed."""
    prefill_seconds: float = 0.0
    """The part of it that went to steps with prefill."""
    figures: dict[str, float] = field(default_factory=dict)
    """The scheduler's own counters at the end."""


def simulate(
    workload: Workload,
    make_scheduler: MakeScheduler,
    hardware: Hardware,
    *,
    kv_tokens: int | None = None,
    max_model_len: int = 131_072,
    settings: dict[str, Any] | None = None,  # Any: JSON
    hints: bool = True,
    exact: bool = False,
    sample_seconds: float = 5.0,
    on_progress: Callable[[int], None] = lambda finished: None,
) -> SimulationResult:
    """Replay `workload` and return what happened.

    Args:
        workload: What to replay.
        make_scheduler: The scheduler under test.
        hardware: What steps cost.
        kv_tokens: Size of the KV cache in tokens; None: what the hardware has.
        max_model_len: Longest context.
        settings: Goes to the scheduler as `additional_config["agentinfer"]["sched"]`.
        hints: Whether requests carry session hints.
        exact: Take every decode step alone; much slower.
        sample_seconds: Simulated time between two samples.
        on_progress: Called with the number of finished sessions, each time one ends.
    """
    blocks = (kv_tokens or hardware.kv_tokens) // workload.block_size
    parts = make_scheduler_parts(
        blocks=blocks,
        block_size=workload.block_size,
        max_model_len=max_model_len,
        step_tokens=hardware.step_tokens,
        max_seqs=hardware.max_seqs,
        additional_config={"agentinfer": {"sched": settings}} if settings else None,
    )
    replay = _Replay(workload, hardware, hints=hints, exact=exact, sample_seconds=sample_seconds)
    replay.scheduler = make_scheduler(lambda: replay.now, parts)
    replay.on_progress = on_progress
    try:
        return replay.run()
    finally:
        close = getattr(replay.scheduler, "shutdown", None)
        if close is not None:
            close()  # or it would publish its figures as long as the process lives


@dataclass(slots=True)
class _Live:
    """A request inside the scheduler."""

    request: Any
    record: CallRecord
    done: Callable[[], None]
    resumes: int = 0


class _Replay:
    scheduler: Any
    on_progress: Callable[[int], None]

    def __init__(
        self, workload: Workload, hardware: Hardware, *, hints: bool, exact: bool, sample_seconds: float
    ) -> None:
        self.now = 0.0
        self._workload = workload
        self._hardware = hardware
        self._hints = hints
        self._exact = exact
        self._sample_seconds = sample_seconds
        self._next_sample = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._names = itertools.count()
        self._queue = list(reversed(workload.sessions))
        self._live: dict[str, _Live] = {}
        self._result = SimulationResult()
        self._zeros = [0] * 262_144

    def run(self) -> SimulationResult:
        for start in self._workload.start_seconds:
            self._at(start, self._begin_session)
        while self._events or self._live:
            self._take_events()
            if not self._live:
                if self._events:
                    self.now = max(self.now, self._events[0][0])
                continue
            self._step()
        self._result.seconds = self.now
        stats = getattr(self.scheduler, "agentinfer_stats", None)
        self._result.figures = dict(stats()) if stats else {}
        return self._result

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    def _take_events(self) -> None:
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def _begin_session(self) -> None:
        if self._queue:
            _SessionRun(self, self._queue.pop(), started=self.now, done=self._end_session).start()

    def _end_session(self, record: SessionRecord) -> None:
        self._result.sessions.append(record)
        self.on_progress(len(self._result.sessions))
        if not self._workload.open_loop:
            self._begin_session()

    def submit(self, call: Call, *, session: str, index: int, done: Callable[[], None]) -> None:
        name = f"{session}/{index}-{next(self._names)}"
        record = CallRecord(
            session=session,
            index=index,
            one_shot=call.role == "qa",
            prompt_tokens=call.prompt_tokens,
            known_tokens=call.known_tokens,
            arrival=self.now,
            block_ids=call.block_ids[: call.prompt_tokens // self._workload.block_size],
        )
        request = make_request(
            name,
            prompt_tokens=self._zeros[: call.prompt_tokens],
            output_tokens=call.output_tokens,
            arrival=self.now,
            xargs=self._xargs(call, session=session, index=index),
            hasher=_hasher(call, self._workload.block_size),
        )
        self._live[name] = _Live(request, record, done)
        self.scheduler.add_request(request)

    def _xargs(self, call: Call, *, session: str, index: int) -> dict[str, str | int | float] | None:
        if not self._hints:
            return None
        hints = SessionHints(session_id=session, turn=index, role=call.role, final=call.last)
        return hints.to_xargs()

    def _step(self) -> None:
        output = self.scheduler.schedule()
        scheduled: dict[str, int] = output.num_scheduled_tokens
        self._note_admissions(output)
        if not scheduled:
            self.scheduler.update_from_output(output, _runner_output([], []))
            self.now = min(
                self.now + IDLE_SECONDS, self._events[0][0] if self._events else self.now + IDLE_SECONDS
            )
            return
        steps = self._equal_steps(output)
        names = list(scheduled)
        sampled: list[list[int]] = []
        work: list[tuple[int, int]] = []
        for name in names:
            request = self._live[name].request
            computed = request.num_computed_tokens
            decoding = (
                computed - scheduled[name] >= request.num_prompt_tokens and not request.is_prefill_chunk
            )
            work.append((1 if decoding else scheduled[name], computed + steps // 2))
            ready = computed >= request.num_tokens
            left = request.max_tokens - request.num_output_tokens
            sampled.append(self._zeros[: min(steps, left)] if ready else [])
        seconds = self._hardware.step_seconds(work, steps=steps)
        self.now += seconds
        self._result.busy_seconds += seconds
        if any(new > 1 for new, _ in work):
            self._result.prefill_seconds += seconds
        self._result.steps += steps
        self.scheduler.update_from_output(output, _runner_output(names, sampled))
        self._note_progress(names)
        self._sample()

    def _equal_steps(self, output: Any) -> int:
        """How many decode steps may be taken at once: none may end a request or have an event in it."""
        if self._exact or output.scheduled_new_reqs or output.scheduled_cached_reqs.resumed_req_ids:
            return 1
        left = MAX_BUSY_STEPS if len(self.scheduler.waiting) else MAX_STEPS
        work = []
        for name in output.num_scheduled_tokens:
            request = self._live[name].request
            if request.num_computed_tokens < request.num_tokens:
                return 1
            if request.num_output_tokens == 0:
                return 1
            left = min(left, request.max_tokens - request.num_output_tokens)
            work.append((1, request.num_computed_tokens))
        if self._events:
            seconds = self._hardware.step_seconds(work)
            left = min(left, int((self._events[0][0] - self.now) / seconds) + 1)
        return max(1, left)

    def _note_admissions(self, output: Any) -> None:
        for new in output.scheduled_new_reqs:
            live = self._live[new.req_id]
            record = live.record
            record.admitted = self.now
            record.hit_tokens = new.num_computed_tokens
            record.recomputed_tokens += max(0, record.known_tokens - new.num_computed_tokens)
            self._result.calls.append(record)
        cached = output.scheduled_cached_reqs
        for position, name in enumerate(cached.req_ids):
            if name in cached.resumed_req_ids:
                live = self._live[name]
                live.record.recomputed_tokens += (
                    live.request.num_tokens - cached.num_computed_tokens[position]
                )

    def _note_progress(self, names: Sequence[str]) -> None:
        for name in names:
            live = self._live[name]
            if live.record.first_token < 0 and live.request.num_output_tokens:
                live.record.first_token = self.now
            if live.request.is_finished():
                live.record.finished = self.now
                live.record.preemptions = live.request.num_preemptions
                del self._live[name]
                live.done()

    def _sample(self) -> None:
        if self.now < self._next_sample:
            return
        self._next_sample = self.now + self._sample_seconds
        stats = getattr(self.scheduler, "agentinfer_stats", None)
        pool = self.scheduler.kv_cache_manager.block_pool
        self._result.samples.append(
            Sample(
                time=self.now,
                running=len(self.scheduler.running),
                waiting=len(self.scheduler.waiting),
                used_blocks=pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
                figures=dict(stats()) if stats else {},
            )
        )

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        self._at(self.now + seconds, event)


@dataclass(slots=True)
class _SessionRun:
    """A session going through its calls."""

    replay: _Replay
    session: WorkloadSession
    started: float
    done: Callable[[SessionRecord], None]
    index: int = 0
    open: int = 0

    def start(self) -> None:
        self._submit()

    def _submit(self) -> None:
        call = self.session.calls[self.index]
        self.replay.submit(call, session=self.session.name, index=self.index, done=self._call_done)

    def _call_done(self) -> None:
        call = self.session.calls[self.index]
        self.index += 1
        if self.index == len(self.session.calls):
            self.done(SessionRecord(name=self.session.name, started=self.started, finished=self.replay.now))
            return
        following = self.session.calls[self.index]
        gap = max(following.gap_seconds, following.not_before - self.replay.now)
        self.open = 1 + len(call.one_shots) + len(call.children)
        self.replay.later(gap, self._part_done)
        for number, shot in enumerate(call.one_shots):
            name = f"{self.session.name}#{self.index - 1}.{number}"
            self.replay.submit(shot, session=name, index=self.index - 1, done=self._part_done)
        for child in call.children:
            _SessionRun(self.replay, child, started=self.replay.now, done=self._child_done).start()

    def _child_done(self, record: SessionRecord) -> None:
        self._part_done()

    def _part_done(self) -> None:
        self.open -= 1
        if not self.open:
            self._submit()


def _hasher(call: Call, block_size: int) -> Callable[[Any], list[bytes]]:
    hashes = [number.to_bytes(8, "little", signed=True) for number in call.block_ids.tolist()]

    def new_hashes(request: Any) -> list[bytes]:
        return hashes[len(request.block_hashes) : request.num_tokens // block_size]

    return new_hashes


def _runner_output(names: list[str], sampled: list[list[int]]) -> Any:
    from vllm.v1.outputs import ModelRunnerOutput

    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: index for index, name in enumerate(names)},
        sampled_token_ids=sampled,
    )
