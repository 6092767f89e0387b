"""PLAS (program-level attained service): the program that has been served least first.

Source: Autellix, arXiv 2502.13965 (algorithm 1). No code of the authors is public; queues, quanta and the starvation rule are
those of the simulator `Crystalclear9/Autellix` at c7a38cf.

As there: a call enters the queue of the time for which its program's completed calls have run; within a queue the order is first
come, first served; a call that has run for its queue's quantum goes to the next queue; a call goes to the first queue when its
program has waited eight times as long as it has run. Waiting calls are admitted, and running ones preempted, by queue.

Simplified: a running call is preempted only when blocks are short, because vLLM has no swap space and preempting for a turn at
the queue would compute the context again; one engine, so no load balancing. Bounds and quanta are a multiple of the simulator's,
which are 0, 2, 4, ... 64 time units: sessions of coding agents run for many minutes, and in seconds nearly every call would be in
the last queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from agentinfer_lg.evals.sched.replay.schedulers.base import Clock, RivalScheduler

BOUNDS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Upper ends of all queues but the last, in time units."""
QUANTA = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(slots=True)
class _Program:
    service: float = 0.0
    """Run time of completed calls."""
    waited: float = 0.0
    """Waiting time of completed calls."""


@dataclass(slots=True)
class _Call:
    program: _Program
    queue: int
    order: int
    quantum: float
    ran: float = 0.0
    waited: float = 0.0
    waited_since_promotion: float = 0.0
    ran_since_promotion: float = 0.0


class Plas(RivalScheduler):
    """Queues by attained service."""

    def __init__(
        self,
        clock: Clock,
        parts: dict[str, Any],  # Any: objects of vLLM
        *,
        unit_seconds: float = 1.0,
        starvation: float = 8.0,
    ) -> None:
        """Make the scheduler.

        Args:
            clock: Tells the time.
            parts: As vLLM gives them.
            unit_seconds: Time unit of bounds and quanta.
            starvation: Ratio of waiting to running from which a call goes to the first queue.
        """
        super().__init__(clock, parts)
        self._unit = unit_seconds
        self._starvation = starvation
        self._programs: dict[str, _Program] = {}
        self._calls: dict[str, _Call] = {}
        self._moves = 0
        self._last = 0.0
        self.demotions = 0
        self.promotions = 0

    def agentinfer_stats(self) -> dict[str, float]:
        """Return what happened so far."""
        return {"demotions": self.demotions, "promotions": self.promotions}

    @override
    def arrived(self, request: Any, now: float) -> None:
        program = self._programs.setdefault(self.program(request), _Program())
        queue = sum(program.service >= bound * self._unit for bound in BOUNDS)
        self._calls[request.request_id] = _Call(program, queue, self._next(), QUANTA[queue] * self._unit)

    @override
    def before_step(self, now: float) -> None:
        elapsed, self._last = now - self._last, now
        for request in self.running:
            self._run(self._calls[request.request_id], elapsed)
        for request in self.waiting:
            since = min(elapsed, now - request.arrival_time)
            self._wait(self._calls[request.request_id], since)

    @override
    def arrange(self, waiting: list[Any], now: float) -> tuple[list[Any], list[Any]]:
        return sorted(waiting, key=self._key), []

    @override
    def protect(self, running: list[Any], now: float) -> list[Any]:
        return sorted(running, key=self._key)

    @override
    def finished(self, request: Any, now: float) -> None:
        call = self._calls.pop(request.request_id)
        self._run(call, now - self._last)
        call.program.service += call.ran
        call.program.waited += call.waited
        if self.hints(request).final and not self.is_one_shot(request):
            self._programs.pop(self.program(request), None)

    def _run(self, call: _Call, seconds: float) -> None:
        call.ran += seconds
        call.ran_since_promotion += seconds
        call.quantum -= seconds
        if call.quantum <= 0.0 and call.queue < len(QUANTA) - 1:
            self._move(call, call.queue + 1)
            self.demotions += 1

    def _wait(self, call: _Call, seconds: float) -> None:
        call.waited += seconds
        call.waited_since_promotion += seconds
        wait = call.program.waited + call.waited_since_promotion
        service = max(self._unit, call.program.service + call.ran_since_promotion)
        if call.queue and wait / service >= self._starvation:
            self._move(call, 0)
            call.waited_since_promotion = call.ran_since_promotion = 0.0
            self.promotions += 1

    def _move(self, call: _Call, queue: int) -> None:
        call.queue = queue
        call.quantum = QUANTA[queue] * self._unit
        call.order = self._next()

    def _next(self) -> int:
        self._moves += 1
        return self._moves

    def _key(self, request: Any) -> tuple[int, int]:
        call = self._calls[request.request_id]
        return call.queue, call.order
