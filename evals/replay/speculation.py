"""Teacher-forced replay of speculative decoding: how many tokens a forward pass would have emitted.

Recorded outputs are the truth: a draft is accepted as far as it agrees with what the model wrote, as greedy
verification does. A pass emits the accepted tokens and one more, up to the end of the output; the first token of an
output comes from the prefill and is not counted. Sessions run one after the other, so a drafter may know every earlier
session. All sessions run; only those of the half asked for are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.replay.rivals import Costs, ReplayDrafter
from agentinfer_lg.evals.replay.trajectories import Half, Session, in_half

__all__ = ("COSTS", "Score", "Tally", "Times", "paired_interval", "replay")

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
    remember: bool = True,
    on_session: Callable[[], None] = lambda: None,
) -> Score:
    """Replay sessions in their order through a drafter.

    Args:
        sessions: As `trajectories.load_sessions` returns them.
        drafter: A fresh one.
        k: Most drafted tokens per step.
        half: Which sessions to count.
        before: Sessions that run first, are remembered, and are not counted.
        remember: Whether a session may draw on the earlier ones of `sessions`; on those of `before` it may always.
        on_session: Called after each session.

    Raises:
        UserInputError: There is no session, or `k` is less than 1.
    """
    if not sessions or k < 1:
        msg = "A replay needs at least one session and one drafted token (k >= 1)."
        raise UserInputError(msg)
    for session in before:
        for _ in _replay_session(session, drafter, k, Tally(), Times(), remember=True):
            pass
        on_session()
    tallies: list[Tally] = []
    all_times = Times()
    costs = Costs()
    for number, session in enumerate(sessions):
        tally, times = Tally(session.group), Times()
        for turn in _replay_session(session, drafter, k, tally, times, remember=remember):
            if number == len(sessions) - 1 and turn == len(session.turns) - 1:
                costs = drafter.costs()
        if in_half(session, half):
            tallies.append(tally)
            all_times.extend(times)
        on_session()
    return Score(sessions=tuple(tallies), times=all_times, costs=costs)


def paired_interval(
    ours: Score, other: Score, *, cost: float = 0.03, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of the speed-ups of two replays of the same sessions, with its 95% bootstrap interval.

    Groups are resampled, not sessions: sessions on the same task are not independent.

    Args:
        ours: Numerator.
        other: Denominator.
        cost: Marginal cost of verifying one more token.
        resamples: Number of bootstrap samples.
        seed: Of the random numbers.

    Returns:
        The ratio, and the 2.5% and 97.5% quantiles.
    """
    both = np.stack([_per_group(ours), _per_group(other)])  # [2, groups, (emitted, steps, drafted)]
    draws = np.random.default_rng(seed).integers(0, both.shape[1], size=(resamples, both.shape[1]))

    def ratio(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        speed = sums[..., 0] / np.maximum(sums[..., 1] + cost * sums[..., 2], 1e-9)
        return np.asarray(speed[0] / speed[1])

    low, high = np.percentile(ratio(both[:, draws].sum(axis=2)), [2.5, 97.5])
    return float(ratio(both.sum(axis=1))), float(low), float(high)


def _per_group(score: Score) -> npt.NDArray[np.float64]:
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for tally in score.sessions:
        own = np.array([tally.emitted, tally.steps, tally.drafted], dtype=np.float64)
        sums[tally.group] = sums.get(tally.group, 0) + own
    return np.stack(list(sums.values()))


def _replay_session(
    session: Session, drafter: ReplayDrafter, k: int, tally: Tally, times: Times, *, remember: bool
) -> Iterator[int]:
    """Replay one session; yields the number of each turn before the drafter is told of its end."""
    context = np.concatenate([part for turn in session.turns for part in (turn.prompt, turn.output)])
    end = 0
    drafter.begin_session(session, remember=remember)
    for number, turn in enumerate(session.turns):
        end += len(turn.prompt)
        start = time.perf_counter()
        drafter.begin_turn(context[:end])
        (times.next_turns if number else times.first_turns).append(time.perf_counter() - start)
        _replay_turn(turn.output.tolist(), drafter, k, tally, times)
        end += len(turn.output)
        yield number
        drafter.end_turn()
    drafter.end_session()


def _replay_turn(output: list[int], drafter: ReplayDrafter, k: int, tally: Tally, times: Times) -> None:
    tally.outputs += 1
    emitted, done = output[:1], 1
    while done < len(output):
        start = time.perf_counter()
        drafter.accept(emitted)
        draft = drafter.propose(k)[:k]
        times.steps.append(time.perf_counter() - start)
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
