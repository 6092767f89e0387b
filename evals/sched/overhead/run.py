"""What scheduling itself costs: vLLM's scheduler and AgentSched side by side, with running and waiting requests of agents.

No model is run. Every step counts as 20 ms on the schedulers' clock, as on a real server; what is measured is the time that
a scheduler takes for it on this machine. All schedulers get the same requests and take their steps in turn, so whatever
else the machine does meets all of them. Sessions come back with what they had in the cache and some new tokens, as many
as end, so that the number of waiting requests stays the same.
"""

from __future__ import annotations

import gc
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay.engine_parts import make_request, make_scheduler_parts
from agentinfer_lg.hints import SessionHints

STEP_SECONDS = 0.02
"""Length of a step on the schedulers' clock."""
SUBJECTS: Mapping[str, Mapping[str, Any] | None] = {
    "vllm": None,
    "agentsched": {},
    "agentsched, every step": {"overhead_share": 0.0},
}
"""What is measured: vLLM's own scheduler, ours as it is by default, and ours where every step is planned."""

_STEP_TOKENS = 8192
_SHARED_TOKENS = 1024
_NEW_TOKENS = 512
_OUTPUT_TOKENS = 200
_CACHED_CONTEXTS = 2
"""Size of the cache: this many times what the running requests would hold at their longest."""
_WARM_UP = 20
"""Steps before measuring."""

Row = dict[str, str | float | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadOptions:
    """One measurement."""

    waiting: int
    """Requests that wait."""
    running: int = 16
    """Requests that run."""
    idle: int = 64
    """Sessions that are waiting for a tool."""
    block_size: int = 16
    """Tokens per block of the cache."""
    context_tokens: int = 32_768
    """Longest context; they begin between an eighth and a half of it, and grow."""
    steps: int = 300
    """Steps measured."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.context_tokens < 4 * (_SHARED_TOKENS + _NEW_TOKENS):
            msg = f"contexts must have {4 * (_SHARED_TOKENS + _NEW_TOKENS)} tokens or more, not {self.context_tokens}"
            raise UserInputError(msg)

    @property
    def cache_blocks(self) -> int:
        """Blocks of the cache."""
        return _CACHED_CONTEXTS * self.running * self.context_tokens // self.block_size


def measure_overhead(
    options: OverheadOptions,
    *,
    subjects: Mapping[str, Mapping[str, Any] | None] = SUBJECTS,  # Any: JSON
    on_step: Callable[[int], None] = lambda step: None,
) -> list[Row]:
    """Return a row per scheduler; times in milliseconds.

    `schedule` is what a scheduler takes for the call of that name, `own` the part of it that it takes for planning, `all`
    that call with requests that arrive and end.

    Args:
        options: What to measure.
        subjects: Settings of AgentSched by name; None stands for vLLM's own scheduler.
        on_step: Called with the number of steps taken.
    """
    servers = {name: _Server(options, settings) for name, settings in subjects.items()}
    try:
        for server in servers.values():
            server.fill()
        with _frozen_heap():
            for step in range(_WARM_UP + options.steps):
                for server in servers.values():
                    server.step()
                on_step(step + 1)
        return [server.row(name) for name, server in servers.items()]
    finally:
        for server in servers.values():
            server.close()


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """vLLM's engine does the same: what lives long is not looked at by the garbage collector again and again."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass(slots=True)
class _Session:
    number: int
    tokens: int
    turn: int = 0
    hashes: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Times:
    schedule: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    everything: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)


class _Server:
    """One scheduler with its sessions."""

    def __init__(self, options: OverheadOptions, settings: Mapping[str, Any] | None) -> None:
        self._options = options
        self._ours = settings is not None
        self._now = 1000.0
        self._rng = random.Random(options.seed)
        self._made = 0
        self._idle: deque[_Session] = deque()
        self._live: dict[str, tuple[Any, _Session]] = {}
        self._zeros = [0] * (options.context_tokens + _OUTPUT_TOKENS)
        self._times = _Times()
        self._spent = 0.0
        parts = make_scheduler_parts(
            blocks=options.cache_blocks,
            block_size=options.block_size,
            max_model_len=options.context_tokens + 2 * _OUTPUT_TOKENS,
            step_tokens=_STEP_TOKENS,
            max_seqs=options.running,
            additional_config={"agentinfer": {"sched": dict(settings)}} if settings is not None else None,
        )
        self._scheduler = self._make(parts)

    def _make(self, parts: dict[str, Any]) -> Any:
        if self._ours:
            from agentinfer_lg.serving.sched.vllm.factory import make_scheduler

            scheduler = make_scheduler(**parts)
            scheduler.clock = lambda: self._now
            return scheduler
        from vllm.v1.core.sched.scheduler import Scheduler

        return Scheduler(**parts)

    def fill(self) -> None:
        """Let every session have one turn, then let as many as shall wait come back."""
        options = self._options
        for _ in range(options.waiting + options.running + options.idle):
            self._arrive(self._new_session(), output_tokens=2)
            while len(self._live) > options.running:
                self._step()
        while self._live:
            self._step()
        for _ in range(options.waiting + options.running):
            self._arrive(self._idle.popleft())
        self._times = _Times()

    def step(self) -> None:
        """Take a step; as many sessions come back as requests ended in it."""
        self._step()
        self._spent = 0.0
        for _ in range(self._options.waiting + self._options.running - len(self._live)):
            self._arrive(self._idle.popleft())

    def close(self) -> None:
        """Stop the scheduler, which would publish its figures as long as the process lives."""
        self._scheduler.shutdown()

    def _new_session(self) -> _Session:
        longest = self._options.context_tokens
        self._made += 1
        return _Session(self._made, self._rng.randint(longest // 8, longest // 2))

    def _arrive(self, session: _Session, *, output_tokens: int = 0) -> None:
        options = self._options
        output_tokens = output_tokens or self._rng.randint(1, 2 * _OUTPUT_TOKENS)
        hints = SessionHints(
            session_id=f"session-{session.number}",
            turn=session.turn,
            tool_seconds=self._rng.choice((1.0, 5.0, 20.0)),
        )
        request = make_request(
            f"{session.number}/{session.turn}",
            prompt_tokens=self._zeros[: session.tokens],
            output_tokens=output_tokens,
            arrival=self._now,
            xargs=hints.to_xargs(),
            hasher=_hasher(session, options.block_size),
        )
        self._live[request.request_id] = (request, session)
        self._timed(lambda: self._scheduler.add_request(request))

    def _timed(self, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        self._spent += time.perf_counter() - began
        return result

    def _step(self) -> None:
        before, own = self._spent, self._own_seconds()
        output = self._timed(self._scheduler.schedule)
        self._times.schedule.append(self._spent - before)
        self._times.own.append(self._own_seconds() - own)
        self._times.running.append(len(self._scheduler.running))
        names = list(output.num_scheduled_tokens)
        requests = [self._live[name][0] for name in names]
        ready = [request.num_computed_tokens >= request.num_tokens for request in requests]
        sampled = [[0] if each else [] for each in ready]
        result = _runner_output(names, sampled)
        self._now += STEP_SECONDS
        self._timed(lambda: self._scheduler.update_from_output(output, result))
        self._times.everything.append(self._spent)
        for request in requests:
            if request.is_finished():
                self._end(request.request_id)

    def _own_seconds(self) -> float:
        return float(self._scheduler.agentinfer_stats()["overhead_seconds"]) if self._ours else 0.0

    def _end(self, name: str) -> None:
        request, session = self._live.pop(name)
        session.turn += 1
        session.tokens = request.num_tokens + _NEW_TOKENS
        too_long = session.tokens > self._options.context_tokens
        self._idle.append(self._new_session() if too_long else session)

    def row(self, name: str) -> Row:
        """Return the figures of what was measured."""
        times = self._times
        row: Row = {
            "waiting": self._options.waiting,
            "scheduler": name,
            "running": float(np.mean(times.running[_WARM_UP:])),
            **_figures("schedule", times.schedule),
            **_figures("own", times.own),
            **_figures("all", times.everything),
        }
        row["own_share"] = float(np.mean(times.own[_WARM_UP:])) / STEP_SECONDS
        if self._ours:
            row["errors"] = int(self._scheduler.agentinfer_stats()["errors"])
        return row


def _figures(name: str, seconds: list[float]) -> dict[str, float]:
    times = 1000.0 * np.array(seconds[_WARM_UP:])
    return {
        f"{name}_ms": float(times.mean()),
        f"{name}_p50_ms": float(np.median(times)),
        f"{name}_p99_ms": float(np.quantile(times, 0.99)),
    }


def _hasher(session: _Session, block_size: int) -> Callable[[Any], list[bytes]]:
    """Hashes that stand for a session's tokens; all sessions begin with the same ones."""
    shared = _SHARED_TOKENS // block_size

    def new_hashes(request: Any) -> list[bytes]:
        blocks = request.num_tokens // block_size
        for index in range(len(session.hashes), blocks):
            number = index if index < shared else (session.number << 32) + index
            session.hashes.append(number.to_bytes(8, "little"))
        return session.hashes[len(request.block_hashes) : blocks]

    return new_hashes


def _runner_output(names: list[str], sampled: list[list[int]]) -> Any:
    from vllm.v1.outputs import ModelRunnerOutput

    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: index for index, name in enumerate(names)},
        sampled_token_ids=sampled,
    )
