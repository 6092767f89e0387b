"""The conversation trace of Mooncake (FAST'25), as an open-loop workload.

https://github.com/kvcache-ai/Mooncake (Apache-2.0). A request has its time of arrival, its lengths and the hashes of its blocks
of 512 tokens, of which each depends on all blocks before; it names no session. A request that begins with all full blocks of
an earlier one continues it. Sessions begin when they began; a later request comes at its recorded time, or as soon as the
answer before is there, if that is later.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.agent_traces import Part
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession

HASHED_TOKENS = 512
"""Tokens per recorded hash."""
BLOCK_SIZE = 64
"""Tokens per block of the replay, as in the other trace."""
LEAST_COMMON_BLOCKS = 2
"""Full blocks that make a continuation; the first block alone is often a system prompt that many share."""

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MooncakeRequest:
    """One recorded request."""

    arrival: float
    """Seconds since the start of the trace."""
    prompt_tokens: int
    output_tokens: int
    hashes: tuple[int, ...]
    """Of each 512 tokens of the prompt; the last may be of fewer."""

    @property
    def full_hashes(self) -> tuple[int, ...]:
        """Those of 512 tokens."""
        return self.hashes[: self.prompt_tokens // HASHED_TOKENS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Requests that continue each other."""

    name: str
    requests: tuple[MooncakeRequest, ...]

    @property
    def seconds(self) -> float:
        """Time from the first request to the last."""
        return self.requests[-1].arrival - self.requests[0].arrival


def load_mooncake(folder: Path, *, part: Part | None = None) -> list[Conversation]:
    """Read the trace and chain its requests, in the order in which conversations begin.

    Args:
        folder: The data folder, with the file `mooncake/conversation_trace.jsonl`.
        part: Which half; None: all. Halves are by the parity of the conversation's number.

    Raises:
        UserInputError: The folder has no such file.
    """
    file = folder / "mooncake" / "conversation_trace.jsonl"
    if not file.is_file():
        msg = f"there is no Mooncake trace in {folder}: see docs/data.md"
        raise UserInputError(msg)
    with file.open(encoding="utf-8") as stream:
        found = _chained([_request(line) for line in stream])
    rest = {"tune": 1, "report": 0}
    return [
        Conversation(name=f"mooncake-{number}", requests=tuple(requests))
        for number, requests in enumerate(found)
        if part is None or number % 2 == rest[part]
    ]


def open_sessions(conversations: Sequence[Conversation]) -> float:
    """Return how many conversations are between their first and their last request, on average over the trace."""
    end = max((each.requests[-1].arrival for each in conversations), default=0.0)
    return sum(each.seconds for each in conversations) / end if end else 0.0


def build_open_workload(
    conversations: Sequence[Conversation],
    *,
    name: str,
    concurrency: int,
    max_tokens: int = 131_072,
    max_calls: int = 40,
    seed: int = 0,
) -> Workload:
    """Make a workload of a random share of the conversations, at their recorded times.

    Args:
        conversations: Of the trace, in order.
        name: Of the trace.
        concurrency: Conversations between their first and their last request, on average: decides the share.
        max_tokens: Longest context; a conversation ends before the first request that exceeds it.
        max_calls: Most requests per conversation.
        seed: The same seed makes the same workload.

    Raises:
        UserInputError: The trace has fewer conversations at the same time.
    """
    present = open_sessions(conversations)
    if concurrency > present:
        msg = f"{name} has {present:.0f} conversations at the same time, not {concurrency}; take fewer"
        raise UserInputError(msg)
    rng = random.Random(f"{seed}-{name}")
    taken = rng.sample(range(len(conversations)), round(len(conversations) * concurrency / present))
    chosen = [conversations[number] for number in sorted(taken)]
    made = [
        (each.requests[0].arrival, WorkloadSession(name=each.name, calls=calls))
        for number, each in enumerate(chosen)
        if (calls := _calls(each, number, max_tokens=max_tokens, max_calls=max_calls))
    ]
    return Workload(
        name=name,
        block_size=BLOCK_SIZE,
        sessions=_with_known_tokens([session for _, session in made]),
        start_seconds=tuple(start for start, _ in made),
        open_loop=True,
    )


def _request(line: str) -> MooncakeRequest:
    recorded = json.loads(line)
    return MooncakeRequest(
        arrival=float(recorded["timestamp"]) / 1000,
        prompt_tokens=max(1, int(recorded["input_length"])),
        output_tokens=max(1, int(recorded["output_length"])),
        hashes=tuple(int(number) for number in recorded["hash_ids"]),
    )


def _chained(requests: Sequence[MooncakeRequest]) -> list[list[MooncakeRequest]]:
    """Join each request to the conversation that it continues by most blocks; a second continuation is one of its own."""
    conversations: list[list[MooncakeRequest]] = []
    ends: dict[tuple[int, int], int] = {}
    for request in requests:
        full = request.full_hashes
        number = next((found for key in _keys(full) if (found := ends.pop(key, None)) is not None), None)
        if number is None:
            number = len(conversations)
            conversations.append([])
        conversations[number].append(request)
        if len(full) >= LEAST_COMMON_BLOCKS:
            ends[len(full), full[-1]] = number
    return conversations


def _keys(full: Sequence[int]) -> list[tuple[int, int]]:
    """Number and last hash of each beginning, longest first: a hash stands for all blocks before it too."""
    return [(length, full[length - 1]) for length in range(len(full), LEAST_COMMON_BLOCKS - 1, -1)]


def _calls(conversation: Conversation, number: int, *, max_tokens: int, max_calls: int) -> tuple[Call, ...]:
    fits = [each.prompt_tokens + each.output_tokens < max_tokens for each in conversation.requests]
    end = fits.index(False) if False in fits else len(fits)
    kept = conversation.requests[: min(end, max_calls)]
    return tuple(
        Call(
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            block_ids=_block_ids(request, following, (number << 16) + index),
            not_before=request.arrival,
        )
        for index, (request, following) in enumerate(zip(kept, (*kept[1:], None), strict=True))
    )


def _block_ids(request: MooncakeRequest, following: MooncakeRequest | None, space: int) -> IdArray:
    """Ids of the full blocks of prompt and output; beyond the recorded hashes those of the next prompt, which has them."""
    end = request.prompt_tokens + request.output_tokens
    count = end // BLOCK_SIZE
    source = following if following is not None and following.prompt_tokens >= end else request
    known = _spread(source.full_hashes)[:count]
    own = -((space << 16) + np.arange(count - len(known), dtype=np.int64) + 1)
    return np.concatenate([known, own])


def _spread(hashes: Sequence[int]) -> IdArray:
    """Several ids per hash."""
    per_hash = HASHED_TOKENS // BLOCK_SIZE
    first = np.array(hashes, dtype=np.int64) * per_hash
    return (first[:, None] + np.arange(per_hash)).reshape(-1)


def _with_known_tokens(sessions: Sequence[WorkloadSession]) -> tuple[WorkloadSession, ...]:
    """Note how much of each prompt an earlier request had computed; none of them says when it is the last."""
    order = sorted(
        (
            (call.not_before, place, index)
            for place, each in enumerate(sessions)
            for index, call in enumerate(each.calls)
        )
    )
    calls = [list(each.calls) for each in sessions]
    seen: set[int] = set()
    for _, place, index in order:
        call = calls[place][index]
        ids = call.block_ids.tolist()
        prompt = ids[: (call.prompt_tokens - 1) // BLOCK_SIZE]
        common = next((length for length, number in enumerate(prompt) if number not in seen), len(prompt))
        seen.update(ids)
        calls[place][index] = replace(call, known_tokens=common * BLOCK_SIZE)
    return tuple(replace(each, calls=tuple(made)) for each, made in zip(sessions, calls, strict=True))
