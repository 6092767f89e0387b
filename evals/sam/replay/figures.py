"""Teacher-forced replay of speculative decoding: how many tokens a forward pass would have emitted.

Recorded outputs are the truth: a draft is accepted as far as it agrees with what the model wrote, as greedy
verification does. A pass emits the accepted tokens and one more, up to the end of the output; the first token of an
output comes from the prefill and is not counted. Sessions run one after the other, so a drafter may know every earlier
session. All sessions run; only those of the half asked for are counted.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from agentinfer_lg.errors import AgentInferError, UserInputError
from agentinfer_lg.evals.common.bootstrap import FloatArray, Interval, bootstrap, summed
from agentinfer_lg.evals.datasets.trajectories import Half, Session, in_half
from agentinfer_lg.evals.sam.replay.drafters import Costs, ReplayDrafter

COSTS = (0.01, 0.03, 0.1, 0.3)
"""Marginal costs c of verifying one more token, as shares of a forward pass."""


@dataclass(slots=True)
class Tally:
    """Counts of one session."""

    group: str = ""
    outputs: int = 0
    steps: int = 0
    """Forward passes."""
    emitted: int = 0
    """Tokens that these passes emitted."""
    drafts: int = 0
    """Steps with a draft."""
    drafted: int = 0
    accepted: int = 0


@dataclass(slots=True)
class Times:
    """Seconds that an engine would have waited for the drafter."""

    steps: list[float] = field(default_factory=list)
    """Per step: from the emitted tokens to the next draft, learning included."""
    first_turns: list[float] = field(default_factory=list)
    """Per session: to take in the first prompt."""
    next_turns: list[float] = field(default_factory=list)
    """Per further turn: to take in its prompt."""

    def extend(self, other: Times) -> None:
        """Add those of another session."""
        self.steps += other.steps
        self.first_turns += other.first_turns
        self.next_turns += other.next_turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Result of one replay, over the sessions counted."""

    sessions: tuple[Tally, ...]
    times: Times
    costs: Costs
    """Over all sessions, counted or not."""

    def total(self, field: str) -> int:
        """Sum of a field of `Tally` over the sessions."""
        return sum(getattr(tally, field) for tally in self.sessions)

    @property
    def tokens_per_pass(self) -> float:
        """Tokens per forward pass, called OTE in the paper."""
        return self.total("emitted") / max(self.total("steps"), 1)

    @property
    def hit_rate(self) -> float:
        """Share of the drafted tokens that were accepted, called SHR in the paper."""
        return self.total("accepted") / max(self.total("drafted"), 1)

    @property
    def drafted_per_pass(self) -> float:
        """Drafted tokens per forward pass, passes without a draft included."""
        return self.total("drafted") / max(self.total("steps"), 1)

    def speedup(self, cost: float) -> float:
        """Speed-up of decoding if verifying one more token costs this share of a pass."""
        return self.tokens_per_pass / (1 + cost * self.drafted_per_pass)

    def row(self) -> dict[str, float | int]:
        """All figures as a flat JSON object; times in microseconds."""
        return {
            "tokens_per_pass": self.tokens_per_pass,
            "hit_rate": self.hit_rate,
            "drafted_per_pass": self.drafted_per_pass,
            **{f"speedup_at_{str(cost).replace('.', '_')}": self.speedup(cost) for cost in COSTS},
            "propose_us_p50": _micro(np.median, self.times.steps),
            "propose_us_p99": _micro(_p99, self.times.steps),
            "step_us_mean": _micro(np.mean, self.times.steps),
            "first_turn_us_p50": _micro(np.median, self.times.first_turns),
            "next_turn_us_p50": _micro(np.median, self.times.next_turns),
            "next_turn_us_p99": _micro(_p99, self.times.next_turns),
            "build_us_per_token": 1e6 * self.costs.build_seconds / max(self.costs.build_tokens, 1),
            "build_tokens": self.costs.build_tokens,
            "bytes_per_token": self.costs.held_bytes / max(self.costs.held_tokens, 1),
            "sessions": len(self.sessions),
            **{
                name: self.total(name)
                for name in ("outputs", "steps", "emitted", "drafts", "drafted", "accepted")
            },
        }


def _p99(values: npt.NDArray[np.float64]) -> np.float64:
    return np.float64(np.percentile(values, 99))


def _micro(statistic: Callable[[npt.NDArray[np.float64]], Any], seconds: Sequence[float]) -> float:
    return 1e6 * float(statistic(np.asarray(seconds))) if seconds else 0.0


def replay(
    sessions: Sequence[Session],
    drafter: ReplayDrafter,
    *,
    k: int,
    half: Half = "report",
    before: Sequence[Session] = (),
    apart: bool = False,
    on_session: Callable[[], None] = lambda: None,
) -> Score:
    """Replay sessions in their order through a drafter.

    Args:
        sessions: As `trajectories.load_sessions` returns them.
        drafter: A fresh one.
        k: Most drafted tokens per step.
        half: Which sessions to count.
        before: Sessions that run first and are not counted.
        apart: Run each session in a fork of this process, so that it may draw on those of `before` and on itself, but
            on no other of `sessions`. Times then hold the page faults of the fork.
        on_session: Called after each session.

    Raises:
        UserInputError: There is no session, or `k` is less than 1.
    """
    if not sessions or k < 1:
        msg = "A replay needs at least one session and one drafted token (k >= 1)."
        raise UserInputError(msg)
    for session in before:
        _replay_session(session, drafter, k)
        on_session()
    results: list[_Result] = []
    for session in sessions:
        is_last = session is sessions[-1]
        if not apart:
            results.append(_replay_session(session, drafter, k, ask_costs=is_last))
        elif in_half(session, half):
            results.append(_in_fork(session, drafter, k))
        on_session()
    counted = [result for result in results if in_half(result.session, half)]
    times = Times()
    for result in counted:
        times.extend(result.times)
    costs = results[-1].costs if results else Costs()
    return Score(sessions=tuple(result.tally for result in counted), times=times, costs=costs)


@dataclass(slots=True)
class _Result:
    session: Session
    tally: Tally
    times: Times
    costs: Costs


def _in_fork(session: Session, drafter: ReplayDrafter, k: int) -> _Result:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        sender.send(_replay_session(session, drafter, k, ask_costs=True))

    process = context.Process(target=run)
    with warnings.catch_warnings():
        # The other threads of this process draw its progress bar; nothing here waits for them.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    try:
        result: _Result = receiver.recv()
    except EOFError as error:
        msg = f"The replay of session {session.id} failed in its own process."
        raise AgentInferError(msg) from error
    finally:
        process.join()
    return result


def speedup_ratio(ours: Score, other: Score, *, cost: float = 0.03) -> Interval:
    """Return the ratio of the speed-ups of two replays of the same sessions.

    Groups are drawn, not sessions: sessions on the same task are not independent.

    Args:
        ours: Numerator.
        other: Denominator.
        cost: Marginal cost of verifying one more token.
    """

    def speed(sums: FloatArray) -> FloatArray:
        return np.asarray(sums[..., 0] / np.maximum(sums[..., 1] + cost * sums[..., 2], 1e-9))

    both = np.concatenate([_per_group(ours), _per_group(other)], axis=1)
    return bootstrap(both, lambda sums: speed(sums[..., :3]) / speed(sums[..., 3:]))


def _per_group(score: Score) -> FloatArray:
    return summed((each.group, (each.emitted, each.steps, each.drafted)) for each in score.sessions)


def _replay_session(session: Session, drafter: ReplayDrafter, k: int, *, ask_costs: bool = False) -> _Result:
    result = _Result(session, Tally(session.group), Times(), Costs())
    context = np.concatenate([part for turn in session.turns for part in (turn.prompt, turn.output)])
    end = 0
    drafter.begin_session(session)
    for number, turn in enumerate(session.turns):
        end += len(turn.prompt)
        start = time.perf_counter()
        drafter.begin_turn(context[:end])
        kind = result.times.next_turns if number else result.times.first_turns
        kind.append(time.perf_counter() - start)
        _replay_turn(turn.output.tolist(), drafter, k, result.tally, result.times.steps)
        end += len(turn.output)
        if ask_costs and number == len(session.turns) - 1:
            result.costs = drafter.costs()
        drafter.end_turn()
    drafter.end_session()
    return result


def _replay_turn(output: list[int], drafter: ReplayDrafter, k: int, tally: Tally, times: list[float]) -> None:
    tally.outputs += 1
    emitted, done = output[:1], 1
    while done < len(output):
        start = time.perf_counter()
        drafter.accept(emitted)
        draft = drafter.propose(k)[:k]
        times.append(time.perf_counter() - start)
        accepted = _agreement(draft, output, done)
        emitted = output[done : done + accepted + 1]
        done += len(emitted)
        tally.steps += 1
        tally.emitted += len(emitted)
        tally.drafts += bool(draft)
        tally.drafted += len(draft)
        tally.accepted += accepted
    drafter.accept(emitted)


def _agreement(draft: Sequence[int], output: Sequence[int], start: int) -> int:
    """How many tokens of the draft are those of the output from `start` on."""
    same = 0
    for drafted, true in zip(draft, output[start : start + len(draft)], strict=False):
        if drafted != true:
            break
        same += 1
    return same
