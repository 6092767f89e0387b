"""Recorded agent sessions, shrunk so that a small model on a small machine can serve them; nothing is started here.

The shape stays: how far contexts grow from call to call, how long the answers and the tools are relative to each other, and
that sessions begin with the same system prompt. Lengths and gaps are scaled, and every session is append-only: each
prompt is the one before, its answer, and something new.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.agent_traces import TraceCall, TraceSession
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession

_SHARED = 1 << 60
"""First identity of the blocks of the system prompt, which all sessions have in common."""
_FIRST_TOKEN, _LAST_TOKEN = 256, 40_000
"""Range of made-up token ids: no special tokens, and within any vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What sessions are shrunk to; lengths in tokens, times in seconds."""

    block_size: int = 32
    max_tokens: int = 3400
    """Longest context; sessions end at between half of it and all of it."""
    shared_tokens: int = 256
    """System prompt."""
    calls: int = 8
    """Calls per session; sessions with fewer are left out."""
    output_share: float = 1 / 8
    """Length of answers, as a share of the recorded ones."""
    outputs: tuple[int, int] = (8, 48)
    """Shortest and longest answer."""
    gap: float = 2.5
    """Median time that tools take."""
    gaps: tuple[float, float] = (1.0, 6.0)
    """Shortest and longest."""
    one_shots: float = 1.0
    """Mean number of one-shot requests after each call."""
    one_shot_tokens: tuple[int, int] = (300, 900)
    spread: float = 4.0
    """Places begin within so many seconds."""


def shrunk_workload(
    sessions: Sequence[TraceSession], *, scale: Scale, concurrency: int, count: int, seed: int
) -> Workload:
    """Make a closed-loop workload of recorded sessions.

    Args:
        sessions: What was recorded.
        scale: What they are shrunk to.
        concurrency: Sessions at the same time.
        count: Sessions in all.
        seed: Which sessions are taken, and in which order.

    Raises:
        UserInputError: Too few sessions are long enough.
    """
    rng = random.Random(f"shrunk-{seed}")
    long_enough = [session for session in sessions if len(session.calls) >= scale.calls]
    if len(long_enough) < count:
        msg = f"{count} sessions of {scale.calls} calls are needed, but only {len(long_enough)} were recorded"
        raise UserInputError(msg)
    chosen = rng.sample(long_enough, count)
    gaps = [call.gap_seconds for session in chosen for call in session.calls[1 : scale.calls]]
    factor = scale.gap / (median(gaps) or 1.0)
    made = tuple(
        WorkloadSession(
            name=f"{session.name}-{number}",
            calls=tuple(_calls(session.calls[: scale.calls], scale, rng, space=number + 1, factor=factor)),
        )
        for number, session in enumerate(chosen)
    )
    starts = tuple(sorted(rng.uniform(0.0, scale.spread) for _ in range(concurrency)))
    return Workload(name="coding-shrunk", block_size=scale.block_size, sessions=made, start_seconds=starts)


def tokens_between(name: str, start: int, end: int, *, shared: int, salt: str) -> list[int]:
    """Made-up token ids of a session's places `start` to `end`; the first `shared` ones are the same in all sessions.

    Args:
        name: Of the session.
        start: First place.
        end: Place after the last one.
        shared: Length of the common beginning.
        salt: Another salt makes all ids others.
    """
    return [
        *_draw(f"{salt}/shared", start, min(end, shared)),
        *_draw(f"{salt}/{name}", max(start, shared), end),
    ]


def _draw(name: str, start: int, end: int) -> list[int]:
    if start >= end:
        return []
    rng = random.Random(name)
    return [rng.randrange(_FIRST_TOKEN, _LAST_TOKEN) for _ in range(end)][start:]


def _calls(
    recorded: Sequence[TraceCall], scale: Scale, rng: random.Random, *, space: int, factor: float
) -> Iterator[Call]:
    longest = max(call.prompt_tokens + call.output_tokens for call in recorded)
    share = rng.uniform(0.5, 1.0) * scale.max_tokens / longest
    prompts = _lengths(recorded, scale, share)
    before = 0
    for index, (prompt, output) in enumerate(prompts):
        last = index + 1 == len(prompts)
        yield Call(
            prompt_tokens=prompt,
            output_tokens=output,
            block_ids=_ids(space << 32, (prompt + output) // scale.block_size, scale),
            gap_seconds=min(max(recorded[index].gap_seconds * factor, scale.gaps[0]), scale.gaps[1])
            if index
            else 0.0,
            known_tokens=min(before // scale.block_size * scale.block_size, prompt - 1),
            last=last,
            one_shots=() if last else tuple(_one_shots(scale, rng, space=space, index=index)),
        )
        before = prompt + output


def _lengths(recorded: Sequence[TraceCall], scale: Scale, share: float) -> list[tuple[int, int]]:
    """Prompt and output of each call; what does not fit in the longest context any more is left out."""
    lengths: list[tuple[int, int]] = []
    prompt = max(round(recorded[0].prompt_tokens * share), scale.shared_tokens + scale.block_size)
    for index, call in enumerate(recorded):
        output = min(max(round(call.output_tokens * scale.output_share), scale.outputs[0]), scale.outputs[1])
        if prompt + output > scale.max_tokens:
            break
        lengths.append((prompt, output))
        if index + 1 < len(recorded):
            new = recorded[index + 1].prompt_tokens - call.prompt_tokens - call.output_tokens
            prompt += output + max(round(new * share), 16)
    return lengths


def _ids(first: int, blocks: int, scale: Scale) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    ids = np.arange(blocks, dtype=np.int64) + first
    common = min(scale.shared_tokens // scale.block_size, blocks)
    ids[:common] = np.arange(common) + _SHARED
    return ids


def _one_shots(scale: Scale, rng: random.Random, *, space: int, index: int) -> Iterator[Call]:
    """Document questions and the like: another prompt each time, no system prompt."""
    count = min(int(rng.expovariate(1 / (scale.one_shots + 0.5))), 4) if scale.one_shots > 0 else 0
    for number in range(count):
        prompt, output = rng.randint(*scale.one_shot_tokens), rng.randint(*scale.outputs)
        first = (space << 32) + ((index + 1) << 24) + (number << 16)
        yield Call(
            prompt_tokens=prompt,
            output_tokens=output,
            block_ids=np.arange((prompt + output) // scale.block_size, dtype=np.int64) + first,
            role="qa",
            last=True,
        )
