"""What `agentinfer bench engine` runs, and in which order; nothing is started here.

The work is cut into pieces: a few sessions, replayed at the same time. Each piece is run once per variant, one
variant after the other, and the order of the variants rotates from piece to piece: a machine that becomes slower
or faster meanwhile does so for all. No session is run twice on a server, or its memory would know the answers;
the first piece is not measured, so that memories are not empty and everything has been used once.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.trajectories import Session, in_half

_T = TypeVar("_T")

Spec = Literal["none", "ngram", "suffix", "ours"]
"""How tokens are drafted: not at all, by vLLM's n-gram lookup, by suffix decoding, by session memory."""

SPECS: tuple[Spec, ...] = get_args(Spec)

Outputs = Literal["recorded", "own", "discarded"]
"""What the engine writes. `recorded`: token by token what the recorded model wrote, whatever the served one would
say. `own`: what the served model says; it stays in the context of the session. `discarded`: what the served model
says; what was recorded takes its place in the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Sessions that are replayed at the same time."""

    number: int
    batch: int
    sessions: tuple[Session, ...]
    measured: bool = True


def plan(
    sessions: Sequence[Session],
    *,
    batches: Sequence[int],
    per_batch: int,
    repeats: int = 1,
    warm: int = 16,
    turns: int = 6,
    max_context: int = 4096,
    seed: int = 0,
) -> list[Piece]:
    """Deal the sessions out, at random but always in the same way.

    Args:
        sessions: What was recorded. Those with fewer than `turns` turns in `max_context` tokens are left out, so that
            all sessions of a piece last about as long. Measured are only those of the half that figures are reported
            on (`in_half`); parameters were chosen on the other.
        batches: Numbers of sessions at the same time.
        per_batch: Sessions measured per batch size, at least; rounded up to whole pieces.
        repeats: Pieces per batch size, at least.
        warm: Sessions replayed before anything is measured.
        turns: Requests per session.
        max_context: Longest context, in tokens.
        seed: Of the order.

    Raises:
        UserInputError: There are too few sessions.
    """
    fitting = [short for each in sessions if (short := cut(each, turns=turns, max_context=max_context))]
    random.Random(seed).shuffle(fitting)
    held_out = [each for each in fitting if in_half(each, "report")]
    counts = {batch: max(repeats, math.ceil(per_batch / batch)) for batch in batches}
    measured = sum(batch * count for batch, count in counts.items())
    if len(held_out) < measured or len(fitting) < measured + warm:
        msg = (
            f"{measured} sessions are needed to measure and {warm} to warm up, but of {len(sessions)} sessions only "
            f"{len(fitting)} have {turns} turns within {max_context} tokens, {len(held_out)} of them in the half that "
            "figures are reported on: lower --turns, --batch, --sessions or --repeats, raise --max-context, or name "
            "more than one --set"
        )
        raise UserInputError(msg)
    chosen = held_out[:measured]
    taken = {id(each) for each in chosen}
    others = [each for each in fitting if id(each) not in taken]
    return list(_deal(chosen, others[:warm], counts))


def _deal(chosen: Sequence[Session], warm: Sequence[Session], counts: Mapping[int, int]) -> Iterator[Piece]:
    if warm:
        yield Piece(number=0, batch=min(len(warm), max(counts)), sessions=tuple(warm), measured=False)
    left = iter(chosen)
    sizes = [batch for batch, count in counts.items() for _ in range(count)]
    for number, batch in enumerate(sizes, start=1):
        yield Piece(number=number, batch=batch, sessions=tuple(itertools.islice(left, batch)))


def cut(session: Session, *, turns: int, max_context: int) -> Session | None:
    """Return the first `turns` turns, or None if there are fewer within `max_context` tokens."""
    short = Session(session.id, session.group, session.turns[:turns])
    return short if len(short.turns) == turns and short.tokens <= max_context else None


def rotated(specs: Sequence[_T], number: int) -> list[_T]:
    """Return the variants in the order in which they run piece `number`."""
    first = number % len(specs)
    return [*specs[first:], *specs[:first]]


def speculation_config(spec: Spec, *, k: int) -> dict[str, str | int] | None:
    """Return what vLLM's `--speculative-config` is to say; None where the variant is chosen in another way.

    Args:
        spec: The variant.
        k: Most drafted tokens per step. Suffix decoding chooses by itself: its defaults are left alone.
    """
    match spec:
        case "ngram":
            return {
                "method": "ngram",
                "num_speculative_tokens": k,
                "prompt_lookup_min": 2,
                "prompt_lookup_max": 5,
            }
        case "suffix":
            return {"method": "suffix"}
        case _:
            return None
