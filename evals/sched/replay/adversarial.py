"""Made-up load in which some requests could make others wait for ever.

Sessions under attack share the engine with one-call requests of others:

* `short-stream`: agent sessions of 20K to 60K tokens against short prompts. As soon as one is answered the next comes, and
  more of them are there than the engine takes at once, so that a scheduler which prefers short prompts always finds one.
* `long-stream`: chats of 2K to 4K tokens against prompts of 60K, in the same way.
* `bursts`: the agent sessions, and by the clock, every minute, 40 prompts of 8K at once.

A stream has so many requests for each call of the sessions that first come, first served gives both their share to the end;
who is passed over waits until it is over.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession

Attack = Literal["short-stream", "long-stream", "bursts"]
ATTACKS: tuple[Attack, ...] = ("short-stream", "long-stream", "bursts")

BLOCK_SIZE = 64
"""Tokens per block of the replay, as in the recorded traces."""
LEAST_TOKENS = 66_000
"""What the longest context takes."""
MEAN_GAP_SECONDS = 5.0
"""Between the calls of a session."""

Span = tuple[int, int]
"""From and to, both included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """One-call requests."""

    prompt_tokens: Span
    output_tokens: Span
    per_call: int
    """How many there are for each call of a session under attack, at least; bursts are always whole."""
    clients: int
    """How many are there at the same time; in bursts, at once."""
    every_seconds: float | None = None
    """Time between two bursts; None: the next one comes as soon as one is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attacked:
    """Sessions under attack: their contexts grow evenly."""

    context_tokens: Span
    """First and last prompt."""
    output_tokens: Span
    calls: int


_AGENTS = _Attacked(context_tokens=(20_000, 60_000), output_tokens=(50, 150), calls=12)
_CHATS = _Attacked(context_tokens=(2_000, 4_000), output_tokens=(20, 60), calls=12)
_SHORT = _Stream(prompt_tokens=(1_500, 2_500), output_tokens=(4, 16), per_call=40, clients=96)
_LONG = _Stream(prompt_tokens=(58_000, 62_000), output_tokens=(20, 60), per_call=2, clients=12)
_BURSTS = _Stream(
    prompt_tokens=(7_000, 9_000), output_tokens=(20, 60), per_call=3, clients=40, every_seconds=60.0
)
_PARTS: dict[Attack, tuple[_Attacked, _Stream]] = {
    "short-stream": (_AGENTS, _SHORT),
    "long-stream": (_CHATS, _LONG),
    "bursts": (_AGENTS, _BURSTS),
}


def build_attack(
    name: Attack,
    *,
    concurrency: int,
    max_tokens: int = 131_072,
    max_calls: int = 40,
    final: bool = True,
    seed: int = 0,
) -> Workload:
    """Make the workload `name`.

    Args:
        name: Which one.
        concurrency: Sessions under attack; the stream lasts the longer the more they are.
        max_tokens: Longest context.
        max_calls: Most calls per session.
        final: Whether requests of the stream tell that nothing follows them.
        seed: The same seed makes the same workload.

    Raises:
        UserInputError: The longest context does not fit.
    """
    if max_tokens < LEAST_TOKENS:
        msg = f"{name} has contexts of up to {LEAST_TOKENS} tokens, more than the {max_tokens} that fit"
        raise UserInputError(msg)
    kind, stream = _PARTS[name]
    rng = random.Random(f"{seed}-{name}")
    calls = min(kind.calls, max_calls)
    attacked = [_session(kind, number, calls, rng) for number in range(concurrency)]
    count = -(-stream.per_call * calls * concurrency // stream.clients) * stream.clients
    requests = [_request(stream, number, rng, final=final) for number in range(count)]
    return Workload(
        name=name,
        block_size=BLOCK_SIZE,
        sessions=(*attacked, *requests),
        start_seconds=(
            *sorted(rng.uniform(0.0, MEAN_GAP_SECONDS) for _ in attacked),
            *_stream_starts(stream, count),
        ),
        open_loop=stream.every_seconds is not None,
        attacked=frozenset(session.name for session in attacked),
    )


def _stream_starts(stream: _Stream, count: int) -> list[float]:
    """When places begin, after the sessions under attack: one per client, or one per request of a burst."""
    if stream.every_seconds is None:
        return [MEAN_GAP_SECONDS] * stream.clients
    return [stream.every_seconds * (1 + number // stream.clients) for number in range(count)]


def _session(kind: _Attacked, number: int, calls: int, rng: random.Random) -> WorkloadSession:
    first, last = kind.context_tokens
    prompts = [round(each * rng.uniform(0.97, 1.03)) for each in np.linspace(first, last, calls)]
    made: list[Call] = []
    end = 0
    for index, planned in enumerate(prompts):
        prompt = max(planned, end + 1)
        output = rng.randint(*kind.output_tokens)
        made.append(
            Call(
                prompt_tokens=prompt,
                output_tokens=output,
                block_ids=_ids(prompt + output, space=number),
                gap_seconds=rng.uniform(0.5, 1.5) * MEAN_GAP_SECONDS if index else 0.0,
                known_tokens=min(end // BLOCK_SIZE * BLOCK_SIZE, prompt - 1),
                last=index == calls - 1,
            )
        )
        end = prompt + output
    return WorkloadSession(name=f"attacked-{number}", calls=tuple(made))


def _request(stream: _Stream, number: int, rng: random.Random, *, final: bool) -> WorkloadSession:
    prompt, output = rng.randint(*stream.prompt_tokens), rng.randint(*stream.output_tokens)
    call = Call(
        prompt_tokens=prompt,
        output_tokens=output,
        block_ids=_ids(prompt + output, space=(1 << 20) + number),
        last=final,
    )
    return WorkloadSession(name=f"stream-{number}", calls=(call,))


def _ids(tokens: int, *, space: int) -> npt.NDArray[np.int64]:
    """Ids of full blocks; contents differ between spaces."""
    return np.arange(tokens // BLOCK_SIZE, dtype=np.int64) + (space << 32)
