"""What a recorded long session shows: round by round, compaction by compaction, and all in all. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Any

from agentinfer_lg.evals.compression.long_session.scripted_search import Exchange

_SESSION_ROLES = ("think", "progress")
"""Roles of requests that leave the session's context in the cache."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Something with the monotonic time in seconds at which it was seen."""

    at: float
    values: Mapping[str, Any]  # Any: an event, or figures by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Everything that was written down of one session."""

    block_size: int
    """Tokens per block of the KV cache."""
    exchanges: tuple[Exchange, ...]
    events: tuple[Timed, ...]
    series: tuple[Timed, ...]
    """AgentSched's figures at the end of each round, and last of all."""
    prompts: tuple[tuple[int, ...], ...]
    """Tokens of `prompts_to_count(exchanges)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """One round, from its Think request to the next one."""

    turn: int
    prompt_tokens: int
    """Of the Think request."""
    cached_tokens: int
    output_tokens: int
    think_seconds: float
    seconds: float
    """The whole round."""
    boundary_seconds: float
    """From the end of the round before to the Think request; 0 for the first round."""
    distilling: bool
    """Whether a distillation ran during the round, or a part of it."""
    swapped: bool
    """Whether the Think request was the first one after a compaction."""
    extends: bool
    """Whether its prompt begins with the prompt of the round before."""

    @property
    def hit_share(self) -> float:
        """Share of the prompt that was in the prefix cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """One distillation."""

    ticket: str
    turn: int
    """First turn after it was asked for."""
    calls: int
    seconds: float
    """From its first model call to the end of its last one."""
    prompt_tokens: int
    output_tokens: int
    boundaries: int
    """Boundaries between rounds that were reached while it ran."""
    left: int
    """Of those, the ones after which the next Think request was sent while it still ran."""
    waited_seconds: float
    """Longest time for which it ran within one boundary: the most that a round can have waited for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionFigures:
    """One compaction; tokens are those that the engine counted."""

    turn: int
    lag: int
    """Turns since the distillation was asked for."""
    tokens_before: int
    """Length that the prompt of this turn would have had without the compaction."""
    tokens_after: int
    """Length that it had."""
    common_tokens: int
    """Length of the beginning that both have in common."""
    cached_tokens: int
    """Of the prompt of this turn."""
    bulk_tokens: int
    """Prefilled ahead of the compaction, while the agent went on."""
    rest_tokens: int
    """Prefilled at the boundary, as a part of the compaction."""
    rest_seconds: float
    """How long that took."""
    boundary_seconds: float
    superseded_blocks: int
    """Blocks of the old context that AgentSched gave up."""
    expected_blocks: int
    """Full blocks of the old context beyond the common beginning."""

    @property
    def ratio(self) -> float:
        """Context after the compaction as a share of what it was."""
        return self.tokens_after / self.tokens_before

    @property
    def hit_share(self) -> float:
        """Share of the first prompt after the compaction that was in the prefix cache."""
        return self.cached_tokens / self.tokens_after

    @property
    def warm_share(self) -> float:
        """The same share before anything was prefilled at the boundary."""
        return max(0, self.cached_tokens - self.rest_tokens) / self.tokens_after

    @property
    def common_share(self) -> float:
        """What would have been in the cache without any prefill."""
        return self.common_tokens / self.tokens_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One session."""

    rounds: tuple[RoundFigures, ...]
    distillations: tuple[Distillation, ...]
    swaps: tuple[CompactionFigures, ...]
    events: tuple[Mapping[str, Any], ...]
    """As they were streamed, each with its time from the beginning (`at`)."""
    series: tuple[Mapping[str, float], ...]
    roles: Mapping[str, Mapping[str, float]]
    """Calls, tokens and seconds by role."""

    @property
    def longest_context(self) -> int:
        """Tokens of the longest prompt of a Think request."""
        return max((each.prompt_tokens for each in self.rounds), default=0)

    @property
    def seconds(self) -> float:
        """All rounds together."""
        return sum(each.seconds for each in self.rounds)

    @property
    def prompt_tokens(self) -> int:
        """Of all requests."""
        return int(sum(role["prompt_tokens"] for role in self.roles.values()))

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens of all requests that were in no cache."""
        return self.prompt_tokens - int(sum(role["cached_tokens"] for role in self.roles.values()))

    def mean_think_seconds(self, *, distilling: bool) -> float | None:
        """Return the mean time of Think requests with or without a distillation beside them; None if there were none.

        A request after a compaction counts as neither.
        """
        found = [
            each.think_seconds for each in self.rounds if each.distilling == distilling and not each.swapped
        ]
        return mean(found) if found else None


def measure(recording: Recording) -> Figures:
    """Return the figures of a recorded session."""
    exchanges = recording.exchanges
    start = exchanges[0].sent if exchanges else 0.0
    distillations = _distillations(recording)
    return Figures(
        rounds=tuple(_rounds(recording, [span for _, span in distillations])),
        distillations=tuple(each for each, _ in distillations),
        swaps=tuple(_swaps(recording)),
        events=tuple({"at": round(event.at - start, 3), **event.values} for event in recording.events),
        series=tuple({"at": round(each.at - start, 3), **each.values} for each in recording.series),
        roles=_roles(exchanges),
    )


def prompts_to_count(exchanges: Sequence[Exchange]) -> list[tuple[dict[str, Any], ...]]:
    """Return two prompts per compaction: what the turn would have seen without it, and what it saw.

    The last round is whole in both, so the first is the prompt of the round before, with the last step and its results.
    """
    wanted: list[tuple[dict[str, Any], ...]] = []
    for before, after in pairwise(_thinks(exchanges)):
        if after.supersedes:
            wanted += [(*before.messages, *after.messages[-2:]), after.messages]
    return wanted


_Span = tuple[float, float]


def _thinks(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The last Think request of each turn, in order."""
    last = {exchange.turn: exchange for exchange in exchanges if exchange.role == "think"}
    return [last[turn] for turn in sorted(last)]


def _ends(recording: Recording) -> dict[int, float]:
    """When each round ended: the boundary begins with its Progress event."""
    return {
        event.values["turn"]: event.at
        for event in recording.events
        if event.values.get("event") == "progress"
    }


def _rounds(recording: Recording, spans: Sequence[_Span]) -> list[RoundFigures]:
    thinks, ends = _thinks(recording.exchanges), _ends(recording)
    found = []
    for position, think in enumerate(thinks):
        following = (
            thinks[position + 1].sent if position + 1 < len(thinks) else ends.get(think.turn, think.done)
        )
        before = thinks[position - 1] if position else None
        found.append(
            RoundFigures(
                turn=think.turn,
                prompt_tokens=think.prompt_tokens,
                cached_tokens=think.cached_tokens,
                output_tokens=think.output_tokens,
                think_seconds=think.seconds,
                seconds=following - think.sent,
                boundary_seconds=_boundary_seconds(think, ends),
                distilling=any(begin < following and end > think.sent for begin, end in spans),
                swapped=think.supersedes,
                extends=before is None or think.messages[: len(before.messages)] == before.messages,
            )
        )
    return found


def _boundary_seconds(think: Exchange, ends: Mapping[int, float]) -> float:
    return max(0.0, think.sent - ends.get(think.turn - 1, think.sent))


def _distillations(recording: Recording) -> list[tuple[Distillation, _Span]]:
    begun = [event for event in recording.events if event.values.get("event") == "distill_start"]
    ends = _ends(recording)
    found = []
    for number, event in enumerate(begun):
        until = begun[number + 1].at if number + 1 < len(begun) else float("inf")
        calls = [
            each for each in recording.exchanges if each.role == "distill" and event.at <= each.sent < until
        ]
        span = (calls[0].sent, max(call.done for call in calls)) if calls else (event.at, event.at)
        boundaries = [
            (ends[think.turn - 1], think.sent)
            for think in _thinks(recording.exchanges)
            if think.turn - 1 in ends
        ]
        # The boundary at which it was asked for counts: that it is not waited for there is the point.
        reached = [(a, b) for a, b in boundaries if a < span[1] and b > span[0]]
        reached += [(a, b) for a, b in boundaries if a <= event.at <= b <= span[0]]
        found.append(
            (
                Distillation(
                    ticket=event.values["ticket"],
                    turn=event.values["turn"],
                    calls=len(calls),
                    seconds=span[1] - span[0],
                    prompt_tokens=sum(call.prompt_tokens for call in calls),
                    output_tokens=sum(call.output_tokens for call in calls),
                    boundaries=len(reached),
                    left=sum(b < span[1] for _, b in reached),
                    waited_seconds=max(
                        (max(0.0, min(b, span[1]) - max(a, span[0])) for a, b in reached), default=0.0
                    ),
                ),
                span,
            )
        )
    return found


def _swaps(recording: Recording) -> list[CompactionFigures]:
    events = {
        event.values["turn"]: event.values
        for event in recording.events
        if event.values.get("event") == "swap" and event.values.get("ok")
    }
    thinks, ends = _thinks(recording.exchanges), _ends(recording)
    swapped = [think for think in thinks if think.supersedes]
    found = []
    for number, think in enumerate(swapped):
        before, after = recording.prompts[2 * number : 2 * number + 2]
        common = _common(before, after)
        ahead = [
            each
            for each in recording.exchanges
            if each.role == "prewarm"
            and (swapped[number - 1].sent if number else 0.0) < each.sent
            and each.done <= think.sent
        ]
        rest = [each for each in ahead if each.sent >= ends.get(think.turn - 1, think.sent)]
        bulk = [each for each in ahead if each not in rest]
        old = _context_before(recording.exchanges, think)
        found.append(
            CompactionFigures(
                turn=think.turn,
                lag=int(events.get(think.turn, {}).get("lag", 0)),
                tokens_before=len(before),
                tokens_after=think.prompt_tokens,
                common_tokens=common,
                cached_tokens=think.cached_tokens,
                bulk_tokens=sum(each.prompt_tokens - each.cached_tokens for each in bulk),
                rest_tokens=sum(each.prompt_tokens - each.cached_tokens for each in rest),
                rest_seconds=sum(each.seconds for each in rest),
                boundary_seconds=_boundary_seconds(think, ends),
                superseded_blocks=_superseded(recording, swapped, number),
                expected_blocks=old // recording.block_size - common // recording.block_size,
            )
        )
    return found


def _context_before(exchanges: Sequence[Exchange], think: Exchange) -> int:
    """Tokens that the session's last request before this one left in the cache: the last token is never computed."""
    earlier = [each for each in exchanges if each.role in _SESSION_ROLES and each.done <= think.sent]
    return earlier[-1].prompt_tokens + earlier[-1].output_tokens - 1 if earlier else 0


def _superseded(recording: Recording, swapped: Sequence[Exchange], number: int) -> int:
    """Blocks that were given up from this compaction to the next: nothing else moves this counter."""
    last = number + 1 == len(swapped)
    until = float("inf") if last else swapped[number + 1].sent
    values = [
        (each.at, each.values.get("superseded_blocks", 0.0))
        for each in sorted(recording.series, key=lambda each: each.at)
        if each.at < until
    ]
    before = [value for at, value in values if at < swapped[number].sent]
    return int((values[-1][1] if values else 0.0) - (before[-1] if before else 0.0))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _roles(exchanges: Sequence[Exchange]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for each in exchanges:
        role = found.setdefault(
            each.role,
            dict.fromkeys(("calls", "prompt_tokens", "cached_tokens", "output_tokens", "seconds"), 0),
        )
        role["calls"] += 1
        role["prompt_tokens"] += each.prompt_tokens
        role["cached_tokens"] += each.cached_tokens
        role["output_tokens"] += each.output_tokens
        role["seconds"] += each.seconds
    return found
