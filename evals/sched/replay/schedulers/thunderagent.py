"""ThunderAgent: whole programs are paused while their contexts do not fit into the cache together, and resumed later.

Source: arXiv 2602.13692; `ThunderAgent-org/ThunderAgent` at a7eef77 (`scheduler/router.py`, `backend/state.py`). There it is a
router in front of the engine; here its decisions hold requests back inside the scheduler, which serves those it lets through
first come, first served, as vLLM does behind the router.

As in the source: every five seconds programs are resumed, then paused. A program reasons while it has a request, and acts
between requests. Paused are acting programs first, the smallest context first; reasoning ones are marked and paused when their
present call ends. Resumed are, as long as they fit, programs with a request beyond their first, then new ones, then acting
ones, each group by ascending context. A new program starts at once if nobody is paused and it fits. A request that was held
back for thirty minutes is let through.

Simplified, or better informed than the source: one replica, so placement is not needed; token counts are exact instead of
estimated from characters; tokens that programs share are counted exactly (the published code leaves them at zero); a program's
one-shot requests count as long as they live, besides its context; a program ends with its last call instead of with a request
to release it. The decay of acting programs (weight 2^-t) is off as in the source, or applies to resuming, as the source's option
`--use-acting-token-decay` does it, or to both, as the paper's equation 7 has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import override

from agentinfer_lg.evals.sched.replay.schedulers.base import Clock, RivalScheduler

BUFFER_TOKENS = 100
"""Reserved for each active program."""


@dataclass(slots=True)
class _Program:
    name: str
    order: int
    tokens: int = 0
    """Of its growing context."""
    hashes: list[Any] = field(default_factory=list)
    calls: int = 0
    acting_since: float = 0.0
    paused: bool = False
    marked: bool = False
    live: dict[str, Any] = field(default_factory=dict)
    """Its requests that have not ended."""
    held: dict[str, float] = field(default_factory=dict)
    """Those of them that are held back, and since when."""

    @property
    def reasoning(self) -> bool:
        return bool(self.live)

    def used(self, is_one_shot: Callable[[Any], bool]) -> int:
        """Tokens in the cache that the program needs."""
        context, shots = self.tokens, 0
        for request in self.live.values():
            if is_one_shot(request):
                shots += request.num_tokens
            else:
                context = max(context, request.num_tokens)
        return context + shots


class ThunderAgent(RivalScheduler):
    """Pauses and resumes programs."""

    def __init__(
        self,
        clock: Clock,
        parts: dict[str, Any],  # Any: objects of vLLM
        *,
        interval_seconds: float = 5.0,
        force_seconds: float = 1800.0,
        acting_weight: float = 1.0,
        decay: Literal["none", "resume", "both"] = "none",
    ) -> None:
        super().__init__(clock, parts)
        self._interval = interval_seconds
        self._force = force_seconds
        self._acting_weight = acting_weight
        self._decay = decay
        self._programs: dict[str, _Program] = {}
        self._next_check = interval_seconds
        self._shared_tokens = 0
        self._released: dict[str, int] = {}
        self._releases = 0
        self._created = 0
        self.pauses = 0
        self.resumes = 0

    def agentinfer_stats(self) -> dict[str, float]:
        """Return what happened so far."""
        paused = sum(program.paused for program in self._programs.values())
        return {"pauses": self.pauses, "resumes": self.resumes, "paused": paused}

    @override
    def arrived(self, request: Any, now: float) -> None:
        self._check_if_due(now)
        name = self.program(request)
        program = self._programs.get(name)
        if program is None:
            program = self._programs[name] = _Program(name, self._created)
            self._created += 1
        program.calls += 1
        program.live[request.request_id] = request
        if not self.is_one_shot(request):
            program.hashes = request.block_hashes
        if program.calls == 1:
            program.paused = not self._may_start(program, now)
        if program.paused:
            program.held[request.request_id] = now
        else:
            self._release(request.request_id)

    @override
    def before_step(self, now: float) -> None:
        self._check_if_due(now)
        for program in self._programs.values():
            if program.held and now - min(program.held.values()) >= self._force:
                self._resume(program)

    @override
    def arrange(self, waiting: list[Any], now: float) -> tuple[list[Any], list[Any]]:
        ready = [request for request in waiting if request.request_id in self._released]
        held = [request for request in waiting if request.request_id not in self._released]
        return sorted(ready, key=lambda request: self._released[request.request_id]), held

    @override
    def finished(self, request: Any, now: float) -> None:
        program = self._programs[self.program(request)]
        program.live.pop(request.request_id)
        program.held.pop(request.request_id, None)
        self._released.pop(request.request_id, None)
        if not self.is_one_shot(request):
            program.tokens = request.num_tokens
            program.hashes = request.block_hashes
            if self.hints(request).final:
                del self._programs[program.name]
                return
        if not program.live:
            program.acting_since = now
        if program.marked:
            self._pause(program)

    def _may_start(self, program: _Program, now: float) -> bool:
        if any(other.paused for other in self._programs.values()):
            return False
        others = [other for other in self._programs.values() if other is not program]
        return self._room(others, now, decay=False) >= self._need(program)

    def _check_if_due(self, now: float) -> None:
        if now < self._next_check:
            return
        self._next_check = (now // self._interval + 1) * self._interval
        self._shared_tokens = self._count_shared()
        self._resume_fitting(now)
        self._pause_until_safe(now)

    def _resume_fitting(self, now: float) -> None:
        paused = sorted(
            (program for program in self._programs.values() if program.paused),
            key=lambda program: (_group(program), self._tokens(program), program.order),
        )
        room = self._room(self._programs.values(), now, decay=self._decay != "none")
        if room <= BUFFER_TOKENS:
            return
        for program in paused:
            need = self._need(program)
            if need <= room:
                room -= need
                self._resume(program)

    def _pause_until_safe(self, now: float) -> None:
        while self._room(self._unmarked(), now, decay=self._decay == "both") < 0:
            active = [
                program for program in self._programs.values() if not (program.paused or program.marked)
            ]
            if not active:
                return
            smallest = min(
                active, key=lambda program: (program.reasoning, self._tokens(program), program.order)
            )
            if smallest.reasoning:
                smallest.marked = True
            else:
                self._pause(smallest)

    def _unmarked(self) -> list[_Program]:
        return [program for program in self._programs.values() if not program.marked]

    def _room(self, programs: Iterable[_Program], now: float, *, decay: bool) -> float:
        """Return the tokens that active programs leave free."""
        used = 0.0
        for program in programs:
            if program.paused:
                continue
            weight = 1.0
            if not program.reasoning:
                weight = self._acting_weight
                if decay:
                    weight *= 2.0 ** (program.acting_since - now)
            used += weight * self._tokens(program) + BUFFER_TOKENS
        return self.total_tokens - used + self._shared_tokens

    def _need(self, program: _Program) -> int:
        return self._tokens(program) + BUFFER_TOKENS

    def _tokens(self, program: _Program) -> int:
        return program.used(self.is_one_shot)

    def _count_shared(self) -> int:
        active = [program.hashes for program in self._programs.values() if not program.paused]
        distinct: set[Any] = set()
        for hashes in active:
            distinct.update(hashes)
        return (sum(map(len, active)) - len(distinct)) * int(self.block_size)

    def _pause(self, program: _Program) -> None:
        program.marked = False
        program.paused = True
        self.pauses += 1

    def _resume(self, program: _Program) -> None:
        program.paused = False
        self.resumes += 1
        for name in program.held:
            self._release(name)
        program.held.clear()

    def _release(self, name: str) -> None:
        self._released[name] = self._releases
        self._releases += 1


def _group(program: _Program) -> int:
    if program.calls == 1:
        return 1
    return 0 if program.reasoning else 2
