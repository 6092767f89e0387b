"""What is replayed against a scheduler: sessions of calls, with contents known by the hashes of their blocks only."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agentinfer_lg.evals.datasets.agent_traces import TraceCall, TraceSession
from agentinfer_lg.hints import AgentRole

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request of a session."""

    prompt_tokens: int
    output_tokens: int
    block_ids: IdArray
    """Identity of each full block of prompt and output; equal ids mean equal tokens up to there."""
    gap_seconds: float = 0.0
    """Time between the end of what went before and this call."""
    not_before: float = 0.0
    """Time of the replay before which the call is not made (open loop)."""
    known_tokens: int = 0
    """Tokens of the prompt that the session (or another one with the same beginning) has had computed before."""
    role: AgentRole = "think"
    last: bool = False
    """Nothing extends this prompt."""
    one_shots: tuple[Call, ...] = ()
    """Tool requests made together right after this call; the next call waits for all of them."""
    children: tuple[WorkloadSession, ...] = ()
    """Sub-agents started right after this call; the next call waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSession:
    """Calls that follow each other, each after its gap."""

    name: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Sessions in the order in which free places take them."""

    name: str
    block_size: int
    sessions: tuple[WorkloadSession, ...]
    start_seconds: tuple[float, ...]
    """When each place begins its first session; the number of places is the concurrency."""
    open_loop: bool = False
    """Whether a place takes one session only, so that sessions begin when they do, however long others take."""
    attacked: frozenset[str] = frozenset()
    """Names of the sessions that the others keep from being served; empty: nobody means harm."""

    @property
    def concurrency(self) -> int:
        """Sessions at the same time."""
        return len(self.start_seconds)


def build_workload(
    sessions: Sequence[TraceSession],
    *,
    name: str,
    concurrency: int,
    sessions_per_place: float = 2.0,
    one_shots: float = 3.0,
    gap_scale: float = 1.0,
    max_gap_seconds: float = 60.0,
    max_tokens: int = 131_072,
    max_calls: int = 40,
    seed: int = 0,
) -> Workload:
    """Make a closed-loop workload of recorded sessions.

    Args:
        sessions: Recorded sessions; the first ones that fit are taken, in an order that depends on the seed.
        name: Of the trace.
        concurrency: Sessions at the same time.
        sessions_per_place: Sessions in all, per concurrent one.
        one_shots: Mean number of one-shot tool requests after each call (document QA and the like).
        gap_scale: Factor on recorded gaps.
        max_gap_seconds: Longest gap, after scaling; longer ones are people who went away.
        max_tokens: Longest context; a session ends before the first call that exceeds it.
        max_calls: Most calls per session.
        seed: The same seed makes the same workload.
    """
    rng = random.Random(f"{seed}-{name}")
    order = list(sessions)
    rng.shuffle(order)
    wanted = max(concurrency, round(concurrency * sessions_per_place))
    made: list[WorkloadSession] = []
    shared: dict[int, int] = {}
    for number in range(wanted * 4):
        if len(made) == wanted:
            break
        source = order[number % len(order)]
        builder = _Builder(
            number=number + 1,
            rng=random.Random(f"{seed}-{source.name}-{number}"),
            one_shots=one_shots,
            gap_scale=gap_scale,
            max_gap_seconds=max_gap_seconds,
            max_tokens=max_tokens,
            max_calls=max_calls,
            shared=shared,
        )
        session = builder.session(source)
        if len(session.calls) >= 4:
            made.append(session)
    spread = 5.0 * concurrency
    starts = tuple(sorted(rng.uniform(0.0, spread) for _ in range(concurrency)))
    return Workload(
        name=name,
        block_size=sessions[0].block_size,
        sessions=tuple(made),
        start_seconds=starts,
    )


@dataclass(slots=True)
class _Builder:
    number: int
    rng: random.Random
    one_shots: float
    gap_scale: float
    max_gap_seconds: float
    max_tokens: int
    max_calls: int
    shared: dict[int, int]
    made: int = 0

    def session(self, source: TraceSession, *, suffix: str = "") -> WorkloadSession:
        size = source.block_size
        calls: list[Call] = []
        space = self._next_space()
        kept: list[TraceCall] = []
        for recorded in source.calls:
            if (
                recorded.prompt_tokens + recorded.output_tokens >= self.max_tokens
                or len(kept) == self.max_calls
            ):
                break
            kept.append(recorded)
        for index, recorded in enumerate(kept):
            following = kept[index + 1] if index + 1 < len(kept) else None
            end = recorded.prompt_tokens + max(1, recorded.output_tokens)
            next_ids = following.block_ids if following else None
            ids = self._ids(source, recorded.block_ids, next_ids, end // size, space, index)
            known = 0
            if calls:
                known = _common(calls[-1].block_ids, ids[: recorded.prompt_tokens // size]) * size
            elif source.shared_tokens in self.shared:
                known = min(source.shared_tokens, recorded.prompt_tokens) // size * size
            last = following is None
            calls.append(
                Call(
                    prompt_tokens=recorded.prompt_tokens,
                    output_tokens=max(1, recorded.output_tokens),
                    block_ids=ids,
                    gap_seconds=min(recorded.gap_seconds * self.gap_scale, self.max_gap_seconds)
                    if calls
                    else 0.0,
                    known_tokens=min(known, recorded.prompt_tokens - 1),
                    last=last,
                    one_shots=() if last else tuple(self._one_shots(size)),
                    children=()
                    if last
                    else tuple(
                        child
                        for number, nested in enumerate(recorded.children)
                        if (child := self.session(nested, suffix=f"{suffix}.{index}.{number}")).calls
                    ),
                )
            )
        if source.shared_tokens:
            self.shared[source.shared_tokens] = 1
        return WorkloadSession(name=f"{source.name}-{self.number}{suffix}", calls=tuple(calls))

    def _ids(
        self,
        source: TraceSession,
        ids: IdArray,
        following: IdArray | None,
        blocks: int,
        space: int,
        index: int,
    ) -> IdArray:
        """Block ids of prompt and output; the output has the ids under which the next prompt contains it."""
        made = np.empty(max(blocks, len(ids)), dtype=np.int64)
        made[: len(ids)] = ids + (space << 32)
        made[len(ids) :] = -((space << 32) + (index << 16) + np.arange(len(made) - len(ids)) + 1)
        if following is not None:
            same = _common(ids, following)
            if same == len(ids):
                usable = min(len(following), blocks)
                made[len(ids) : usable] = following[len(ids) : usable] + (space << 32)
        common = min(source.shared_tokens // source.block_size, len(ids))
        made[:common] = np.arange(common) + (source.shared_tokens << 24) + (1 << 60)
        return made[:blocks]

    def _one_shots(self, size: int) -> Iterable[Call]:
        if self.one_shots <= 0:
            return
        count = min(int(self.rng.expovariate(1 / (self.one_shots + 0.5))), 12)
        for _ in range(count):
            tokens = self.rng.randint(4_000, 16_000)
            output = self.rng.randint(60, 240)
            space = self._next_space()
            yield Call(
                prompt_tokens=tokens,
                output_tokens=output,
                block_ids=np.arange((tokens + output) // size, dtype=np.int64) + (space << 32),
                role="qa",
                last=True,
            )

    def _next_space(self) -> int:
        self.made += 1
        return (self.number << 13) + self.made


def _common(one: IdArray, other: IdArray) -> int:
    """Length of the common beginning."""
    length = min(len(one), len(other))
    different = np.nonzero(one[:length] != other[:length])[0]
    return int(different[0]) if len(different) else length


def without_one_shots(workload: Workload) -> Workload:
    """Return the same sessions without their one-shot requests."""
    return replace(workload, sessions=tuple(_without_one_shots(session) for session in workload.sessions))


def _without_one_shots(session: WorkloadSession) -> WorkloadSession:
    calls = (
        replace(call, one_shots=(), children=tuple(map(_without_one_shots, call.children)))
        for call in session.calls
    )
    return replace(session, calls=tuple(calls))
