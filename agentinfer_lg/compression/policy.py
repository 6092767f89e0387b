"""When to distill, and when notes may take effect (pure). Algorithm 2 leaves both to a threshold; here they also have to pay."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NotRequired

from langchain_core.messages import AnyMessage, ToolMessage
from typing_extensions import TypedDict

from agentinfer_lg.compression.view import Round, message_tokens, split_rounds

_VERSION = "1"
"""Changes when notes are made differently: what an older version made is then made again."""
_MIN_SHARE = 0.15
"""Share of the context that a distillation must take in."""
_FEWEST_TURNS = 2


class Job(TypedDict):
    """One distillation, asked for and not yet in force. Saved runs hold it."""

    id: str
    """Content address: the same results give the same job, in a fork or after a crash too."""
    upto: str
    """Id of the last message that it takes in."""
    turn: int
    """Turn at whose end it was asked for."""
    noticed: bool
    """Whether its end was told and its calls were counted."""
    question: NotRequired[str]
    """What was asked when it was opened; not there in runs of an earlier version."""
    warming: NotRequired[str]
    """Which prefill of the new context is the latest one; not there: the first."""


def covered(messages: Sequence[AnyMessage], upto: str) -> int:
    """Return how many rounds end at or before the message `upto`; 0 if there is no such message."""
    for number, round_ in enumerate(split_rounds(messages), start=1):
        if round_.last_id == upto:
            return number
    return 0


def to_distill(
    messages: Sequence[AnyMessage], *, done: int, keep_rounds: int, context_tokens: int
) -> list[Round]:
    """Return the rounds whose results are next to be distilled; empty while it is too early.

    Args:
        messages: The whole transcript, at the end of a round.
        done: Rounds that the compaction in force stands for.
        keep_rounds: Last rounds whose results stay whole.
        context_tokens: Length of the context.
    """
    rounds = split_rounds(messages)
    candidates = rounds[done : max(done, len(rounds) - keep_rounds)]
    while candidates and not candidates[-1].results:  # the notes stand where a result stood
        candidates.pop()
    results: list[ToolMessage] = [result for round_ in candidates for result in round_.results]
    if not results or message_tokens(results) < _MIN_SHARE * context_tokens:
        return []
    return candidates


def job_id(question: str, earlier: str, rounds: Sequence[Round]) -> str:
    """Return the content address of a distillation.

    Args:
        question: The task.
        earlier: Job of the notes that it goes on from; empty: there are none.
        rounds: What it takes in.
    """
    digest = hashlib.sha256()
    parts = [_VERSION, question, earlier]
    parts += [f"{result.name}\0{result.content}" for round_ in rounds for result in round_.results]
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:24]


def expected_turns(turn: int, *, limit: int) -> int:
    """Guess how many turns are to come: as many as there were, within the budget."""
    return max(0, min(limit - turn, max(_FEWEST_TURNS, turn)))


def pays(*, saved: int, prefill: int, turns: int) -> bool:
    """Whether tokens saved in each of the turns to come are worth the prefill of the new prefix.

    Args:
        saved: Tokens by which the context shrinks.
        prefill: Tokens of the new context that no cache has.
        turns: Turns to come.
    """
    return saved > 0 and saved * turns > prefill


def shared_tokens(before: Sequence[AnyMessage], after: Sequence[AnyMessage]) -> int:
    """Estimate the length of the prefix that two contexts have in common."""
    count = 0
    for old, new in zip(before, after, strict=False):
        if old.id != new.id or old.content != new.content:
            break
        count += 1
    return message_tokens(after[:count])


def fold_until(rounds: Sequence[Round], *, folded: str, limit: int) -> str:
    """Return the id of the last message of the steps that are to be left out of the context with their thoughts.

    The agent's own steps stay word for word, until after very many rounds they alone are longer than `limit`; then the
    oldest go, until half of it is left.

    Args:
        rounds: Those that the notes stand for.
        folded: Id of the last message left out so far, or empty.
        limit: Most tokens (estimated) of the steps.
    """
    kept = list(rounds)
    for position, round_ in enumerate(rounds):
        if round_.last_id == folded:
            kept = list(rounds[position + 1 :])
    tokens = [message_tokens([round_.step]) for round_ in kept]
    if sum(tokens) <= limit:
        return folded
    left = sum(tokens)
    for (round_, _), size in zip(
        pairwise(kept), tokens, strict=False
    ):  # the last one stays: it carries the notes
        folded = round_.last_id
        left -= size
        if left <= limit // 2:
            break
    return folded
