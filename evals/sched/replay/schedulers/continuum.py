"""Continuum (CacheTTL): contexts of programs that are expected back soon are pinned; programs are served in order of arrival.

Source: arXiv 2511.02230; `Hanchenli/vllm-continuum`, read in the fork `Whrlicht/vllm-continuum` at cbd3702
(`v1/core/sched/scheduler.py`, `v1/core/estimate_with_func.py`). The published code is, as its author says (issue 19 there), a
simplification of the paper; both are here.

As in the source: first come requests whose program has a pin, then the others, the program that arrived first leading in both.
A call that is not its program's last one pins its context when it ends, which replaces the program's earlier pin; a pin ends
when it has expired and its program has no waiting request. When a running request gets no blocks, one of the program that began
to run last is preempted, last steps being spared; with at most one request running, the pin that expires last is dropped
instead. A waiting request that does not fit drops that pin only if nothing runs.

How long: published code (`FixedTtl`): two seconds, unless the program's tool has so far taken longer than that on average. Paper
(`CdfTtl`): the time t that maximises P(back within t) * (eta * queueing delay + time to compute the context again) - t, with P
from the last gaps, or, before there are a hundred, an exponential distribution with a mean of one second; the queueing delay is
the mean one of requests without a pin, and eta the correlation of calls done and calls left in ended programs, negated.

Simplified, or better informed than the source: the traces do not name tools, so there is one; one-shot requests pin nothing,
take no pin away and are no tool's return, but count as waiting requests of their program; pins hold full blocks only; the time
to compute a context again comes from the speed of steps so far instead of a profile made beforehand.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from typing_extensions import override

from agentinfer_lg.evals.sched.replay.schedulers.base import Clock, Pin, RivalScheduler


class Ttl(Protocol):
    """How long to pin."""

    def returned(self, gap_seconds: float) -> None:
        """Learn that a program came back after so long."""

    def waited(self, seconds: float) -> None:
        """Learn how long a request without a pin waited for its admission."""

    def ended(self, calls: int) -> None:
        """Learn how many calls a program had."""

    def seconds(self, compute_seconds: float) -> float:
        """Return how long to pin a context that takes `compute_seconds` to compute; 0: not at all."""


@dataclass(slots=True)
class FixedTtl:
    """As in the published code."""

    limit_seconds: float = 2.0
    _total: float = 0.0
    _count: int = 0

    def returned(self, gap_seconds: float) -> None:
        """Learn that a program came back after so long."""
        self._total += gap_seconds
        self._count += 1

    def waited(self, seconds: float) -> None:
        """Nothing is learnt from waits."""

    def ended(self, calls: int) -> None:
        """Nothing is learnt from lengths."""

    def seconds(self, compute_seconds: float) -> float:
        """Return two seconds, or 0 if programs are away for longer on average."""
        mean = self._total / self._count if self._count else 0.0
        return 0.0 if mean > self.limit_seconds else self.limit_seconds


@dataclass(slots=True)
class CdfTtl:
    """As in the paper."""

    least_samples: int = 100
    kept: int = 1000
    prior_seconds: float = 1.0
    _gaps: list[float] = field(default_factory=list)
    _recent: deque[float] = field(default_factory=deque)
    _waits: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    _lengths: deque[int] = field(default_factory=lambda: deque(maxlen=100))

    def returned(self, gap_seconds: float) -> None:
        """Learn that a program came back after so long."""
        if len(self._recent) == self.kept:
            self._gaps.remove(self._recent.popleft())
        self._recent.append(gap_seconds)
        insort(self._gaps, gap_seconds)

    def waited(self, seconds: float) -> None:
        """Learn how long a request without a pin waited for its admission."""
        self._waits.append(seconds)

    def ended(self, calls: int) -> None:
        """Learn how many calls a program had."""
        self._lengths.append(calls)

    def seconds(self, compute_seconds: float) -> float:
        """Return the time with the highest net benefit."""
        wait = sum(self._waits) / len(self._waits) if self._waits else 0.0
        benefit = self._memory() * wait + compute_seconds
        if len(self._gaps) < self.least_samples:
            ratio = benefit / self.prior_seconds
            return self.prior_seconds * math.log(ratio) if ratio > 1.0 else 0.0
        count = len(self._gaps)
        best, time = 0.0, 0.0
        for index, gap in enumerate(self._gaps):
            value = (index + 1) / count * benefit - gap
            if value > best:
                best, time = value, gap
        return time + 0.001 if best > 0.0 else 0.0

    def _memory(self) -> float:
        """Return eta: 1 when the calls left shrink with each call done, 0 when they do not depend on it."""
        done = [call for length in self._lengths for call in range(1, length + 1)]
        left = [length - call for length in self._lengths for call in range(1, length + 1)]
        if len(self._lengths) < 2:
            return 1.0
        mean_done, mean_left = sum(done) / len(done), sum(left) / len(left)
        both = sum((one - mean_done) * (two - mean_left) for one, two in zip(done, left, strict=True))
        spread = sum((one - mean_done) ** 2 for one in done) * sum((two - mean_left) ** 2 for two in left)
        return min(1.0, max(0.0, -both / math.sqrt(spread))) if spread > 0 else 1.0


@dataclass(slots=True)
class _Program:
    name: str
    arrival: int
    calls: int = 0
    departed: float | None = None
    began: float = math.inf
    """When a request of it was first admitted."""
    pin: Pin | None = None
    pinned_until: float = 0.0


class Continuum(RivalScheduler):
    """Serves programs in order of arrival and pins their contexts for a time."""

    def __init__(
        self,
        clock: Clock,
        parts: dict[str, Any],  # Any: objects of vLLM
        *,
        ttl: Ttl,
    ) -> None:
        super().__init__(clock, parts)
        self._ttl = ttl
        self._programs: dict[str, _Program] = {}
        self._pinned: dict[str, _Program] = {}
        self._unseen: dict[str, tuple[float, bool]] = {}
        self._prefill_seconds = 0.0
        self._prefill_tokens = 0
        self._created = 0
        self._now = 0.0
        self.pins = 0
        self.dropped = 0

    def agentinfer_stats(self) -> dict[str, float]:
        """Return what happened so far."""
        blocks = sum(len(program.pin.blocks) for program in self._pinned.values() if program.pin)
        return {"pins": self.pins, "dropped_pins": self.dropped, "pinned_blocks": blocks}

    @override
    def arrived(self, request: Any, now: float) -> None:
        name = self.program(request)
        program = self._programs.get(name)
        if program is None:
            program = self._programs[name] = _Program(name, self._created)
            self._created += 1
        self._unseen[request.request_id] = (now, name in self._pinned)
        if self.is_one_shot(request):
            return
        program.calls += 1
        if program.departed is not None:
            self._ttl.returned(now - program.departed)
            program.departed = None

    @override
    def before_step(self, now: float) -> None:
        self._now = now
        if self._pinned:
            waiting = {self.program(request) for request in self.waiting}
            for program in list(self._pinned.values()):
                if now >= program.pinned_until and program.name not in waiting:
                    self._unpin(program)
        if len(self.running) == 1:
            need = self._step_blocks(self.running[0])
            while self._pinned and self.free_blocks < need:
                self._drop_pin()

    @override
    def arrange(self, waiting: list[Any], now: float) -> tuple[list[Any], list[Any]]:
        return sorted(waiting, key=self._key), []

    @override
    def protect(self, running: list[Any], now: float) -> list[Any]:
        return sorted(running, key=lambda request: (not self._is_last(request), self._program(request).began))

    @override
    def after_schedule(self, admitted: int) -> None:
        if admitted:
            for request in self.running[-admitted:]:
                self._admitted(request)
        elif not self.running and len(self.waiting) and self._pinned:
            self._drop_pin()

    @override
    def after_step(self, now: float) -> None:
        if self.step_tokens >= 1024 and self.step_seconds > 0.0:
            self._prefill_seconds += self.step_seconds
            self._prefill_tokens += self.step_tokens

    @override
    def finished(self, request: Any, now: float) -> None:
        self._unseen.pop(request.request_id, None)
        if self.is_one_shot(request):
            return
        program = self._program(request)
        self._unpin(program)
        if self._is_last(request):
            self._ttl.ended(program.calls)
            del self._programs[program.name]
            return
        program.departed = now
        rate = self._prefill_seconds / self._prefill_tokens if self._prefill_tokens else 0.0
        seconds = self._ttl.seconds(rate * request.num_tokens)
        if seconds > 0.0:
            program.pin = self.pin(request)
            program.pinned_until = now + seconds
            self._pinned[program.name] = program
            self.pins += 1

    def _program(self, request: Any) -> _Program:
        return self._programs[self.program(request)]

    def _is_last(self, request: Any) -> bool:
        return self.hints(request).final and not self.is_one_shot(request)

    def _key(self, request: Any) -> tuple[bool, int, int]:
        program = self._program(request)
        return program.pin is None, program.arrival, self.arrival_order(request)

    def _admitted(self, request: Any) -> None:
        program = self._program(request)
        program.began = min(program.began, self._now)
        seen = self._unseen.pop(request.request_id, None)
        if seen is not None and not seen[1]:
            self._ttl.waited(self._now - seen[0])

    def _step_blocks(self, request: Any) -> int:
        tokens = min(
            request.num_tokens - request.num_computed_tokens, self.scheduler_config.max_num_batched_tokens
        )
        return int(tokens // self.block_size) + 2

    def _drop_pin(self) -> None:
        self.dropped += 1
        self._unpin(max(self._pinned.values(), key=lambda program: (program.pinned_until, program.arrival)))

    def _unpin(self, program: _Program) -> None:
        if program.pin is not None:
            self.unpin(program.pin)
            program.pin = None
            del self._pinned[program.name]


def continuum_code(clock: Clock, parts: dict[str, Any]) -> Continuum:  # Any: objects of vLLM
    """Return the scheduler as published."""
    return Continuum(clock, parts, ttl=FixedTtl())


def continuum_cdf(clock: Clock, parts: dict[str, Any]) -> Continuum:  # Any: objects of vLLM
    """Return the scheduler as the paper describes it."""
    return Continuum(clock, parts, ttl=CdfTtl())
