"""What drafting for a whole batch costs: several sessions at once, the same steps for every drafter.

Each running request gets `ADVANCE` tokens of its recorded output per step, whatever was drafted, so that all drafters
work on the same contexts. Sessions fill the batch in their order; when one ends, the next takes its place. The time
of a step is that of the call that an engine makes between two forward passes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.trajectories import Session
from agentinfer_lg.evals.sam.replay.drafters import missing_package
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sam.types import IntArray

ADVANCE = 3
"""Tokens per request and step; about what speculation emits per pass on these sessions."""
BATCH_DRAFTERS = ("arctic", "ours")

Row = dict[str, str | float | int]


class BatchDrafter(Protocol):
    """A drafter that serves several requests."""

    def start(self, request: str, prompt: IntArray, hints: SessionHints) -> None:
        """A request begins."""

    def step(
        self, requests: Sequence[str], emitted: Sequence[list[int]], contexts: Sequence[IntArray]
    ) -> None:
        """Draft for each request after what it emitted; a context ends with that."""

    def finish(self, request: str) -> None:
        """A request is over."""

    def end_session(self) -> None:
        """The session of the request that finished last is over."""


class _Arctic:
    """vLLM's loop over the batch."""

    def __init__(self, k: int) -> None:
        from arctic_inference.suffix_decoding import SuffixDecodingCache

        self._cache = SuffixDecodingCache(max_tree_depth=24, max_cached_requests=10_000)
        self._k = k

    def start(self, request: str, prompt: IntArray, hints: SessionHints) -> None:
        self._cache.start_request(request, prompt)

    def step(
        self, requests: Sequence[str], emitted: Sequence[list[int]], contexts: Sequence[IntArray]
    ) -> None:
        for request, tokens, context in zip(requests, emitted, contexts, strict=True):
            self._cache.add_active_response(request, tokens)
            self._cache.speculate(
                request, context[-24:], max_spec_tokens=self._k, max_spec_factor=1.0, min_token_prob=0.1
            )

    def finish(self, request: str) -> None:
        self._cache.stop_request(request)

    def end_session(self) -> None:
        pass


class _Ours:
    def __init__(self, k: int) -> None:
        from agentinfer_lg.serving.sam.draft.drafter import Drafter
        from agentinfer_lg.serving.sam.draft.options import DrafterOptions

        self._drafter = Drafter(DrafterOptions(max_draft=k, marginal_cost=0.03), background=False)

    def start(self, request: str, prompt: IntArray, hints: SessionHints) -> None:
        self._drafter.start(request, prompt, hints=hints)

    def step(
        self, requests: Sequence[str], emitted: Sequence[list[int]], contexts: Sequence[IntArray]
    ) -> None:
        self._drafter.step(requests, emitted)

    def finish(self, request: str) -> None:
        self._drafter.finish(request)

    def end_session(self) -> None:
        self._drafter.end_idle()


@dataclass(slots=True)
class _Running:
    """A session in the batch."""

    name: str
    tokens: IntArray
    turns: list[tuple[int, int]]
    """Where the outputs that are still to come begin and end; the first one is running."""
    turn: int = 0
    done: int = field(default=0)
    """Tokens known so far."""

    @property
    def request(self) -> str:
        return f"{self.name}/{self.turn}"

    @property
    def hints(self) -> SessionHints:
        return SessionHints(session_id=self.name, turn=self.turn)

    def advance(self, count: int) -> list[int]:
        end = min(self.done + count, self.turns[0][1])
        emitted: list[int] = self.tokens[self.done : end].tolist()
        self.done = end
        return emitted


def measure(sessions: Sequence[Session], name: str, *, k: int, batch: int) -> Row:
    """Run all sessions through a batch; the first half of the steps is not measured.

    Args:
        sessions: Recorded sessions.
        name: One of `BATCH_DRAFTERS`.
        k: Most drafted tokens per request and step.
        batch: Sessions at once.

    Returns:
        drafter, k, batch, steps, and the microseconds of a step for the whole batch as step_us_p50, step_us_p99,
        step_us_mean.

    Raises:
        UserInputError: The drafter cannot be measured like this, its package is missing, or there are fewer sessions
            than `batch`.
    """
    if not 1 <= batch <= len(sessions):
        msg = f"A batch holds 1 to {len(sessions)} sessions here, not {batch}."
        raise UserInputError(msg)
    if name not in BATCH_DRAFTERS or missing_package(name):
        msg = missing_package(name) or f"Batches are measured for {' and '.join(BATCH_DRAFTERS)}, not {name}."
        raise UserInputError(msg)
    drafter: BatchDrafter = _Arctic(k) if name == "arctic" else _Ours(k)
    micro = 1e6 * np.asarray(list(_steps(sessions, drafter, batch)))
    micro = micro[len(micro) // 2 :]
    p50, p99 = np.percentile(micro, [50, 99])
    figures = {"step_us_p50": float(p50), "step_us_p99": float(p99), "step_us_mean": float(micro.mean())}
    return {"drafter": name, "k": k, "batch": batch, "steps": len(micro), **figures}


def _steps(sessions: Sequence[Session], drafter: BatchDrafter, batch: int) -> Iterator[float]:
    """Seconds of each step with a full batch."""
    waiting = [_running(number, session) for number, session in enumerate(sessions)][::-1]
    running: list[_Running] = []
    while waiting or running:
        while waiting and len(running) < batch:
            running.append(waiting.pop())
            _begin_turn(running[-1], drafter)
        requests = [each.request for each in running]
        emitted = [each.advance(ADVANCE) for each in running]
        contexts = [each.tokens[: each.done] for each in running]
        start = time.perf_counter()
        drafter.step(requests, emitted, contexts)
        if len(running) == batch:
            yield time.perf_counter() - start
        running = [each for each in running if _goes_on(each, drafter)]


def _running(number: int, session: Session) -> _Running:
    turns, end = [], 0
    for turn in session.turns:
        begin = end + len(turn.prompt)
        end = begin + len(turn.output)
        turns.append((begin, end))
    parts = [part for turn in session.turns for part in (turn.prompt, turn.output)]
    return _Running(f"session-{number}", np.concatenate(parts), turns)


def _begin_turn(each: _Running, drafter: BatchDrafter) -> None:
    each.done = each.turns[0][0]
    drafter.start(each.request, each.tokens[: each.done], each.hints)


def _goes_on(each: _Running, drafter: BatchDrafter) -> bool:
    """Begin the next turn if this one is over; whether the session has more."""
    if each.done < each.turns[0][1]:
        return True
    drafter.finish(each.request)
    each.turns.pop(0)
    each.turn += 1
    if each.turns:
        _begin_turn(each, drafter)
    else:
        drafter.end_session()
    return bool(each.turns)
