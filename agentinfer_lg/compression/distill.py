"""Distillation: a small model writes notes on tool results, in the background; code checks every line against the originals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from langchain_core.messages import BaseMessage, HumanMessage

from agentinfer_lg.compression.distillate import (
    Distillate,
    distillate_regex,
    extracted,
    read_notes,
    verified,
    with_details,
)
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.calling import Called
from agentinfer_lg.llm.chat import ContextOverflowError, Guide
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.prompts import Prompts
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import CallRecord
from agentinfer_lg.tools import split_passages

_CHUNK_TOKENS = 2500
"""Most tokens of results in one call: a small model loses what is in the middle of more."""
_LEAST_TOKENS = 200
"""Results of fewer tokens are not halved any more when they do not fit."""
_AT_ONCE = 4
"""Calls of one distillation at the same time: an engine writes several notes together in little more time than one."""
_LINE_TOKENS = 40
_MIN_LINES, _MAX_LINES = 2, 10
_TOKENS_PER_LINE = 150
"""Tokens of results for which one more line of notes is allowed."""
_EXTRACT_SHARE = 0.2
"""Length of notes made without a model, as a share of the results."""


class DistillCaller(Protocol):
    """Calls the model that distills; `llm.calling.Caller` is one."""

    async def call(
        self,
        tier: Tier,
        messages: Sequence[BaseMessage],
        *,
        role: Literal["distill"],
        max_tokens: int,
        guide: Guide | None,
        fallback: bool,
    ) -> Called:
        """Return the reply and its record.

        Raises:
            EndpointError: The model does not answer.
            ContextOverflowError: The prompt does not fit.
        """


@dataclass(slots=True)
class Distilled:
    """Notes on some results, and how they were made."""

    notes: Distillate
    removed: int = 0
    """Lines of the model that the originals did not bear out."""
    failure: str = ""
    """Why notes, or a part of them, were made without a model."""
    seconds: float = 0.0
    calls: list[CallRecord] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object, as it is kept in the store."""
        return {
            "notes": self.notes.to_json(),
            "removed": self.removed,
            "failure": self.failure,
            "seconds": round(self.seconds, 3),
            "calls": [dict(call) for call in self.calls],
        }


async def distill(
    caller: DistillCaller,
    prompts: Prompts,
    originals: Sequence[Original],
    queries: Sequence[str],
    *,
    tier: Tier,
    window: int | None,
    seconds: float,
    summary: bool = True,
    detail_tokens: int,
) -> Distilled:
    """Make notes on `originals`; never raises for what a model or an endpoint does.

    Where no model answers in time, or nothing of what it wrote is borne out by the originals, the sentences that match the
    question best stand in, word for word.

    Args:
        caller: Calls the model on behalf of the agent.
        prompts: Texts in the agent's language.
        originals: Results to distill, in order.
        queries: The question, then what was searched lately.
        tier: Which model distills.
        window: Its context window in tokens, if known.
        seconds: Time allowed for all calls together.
        summary: False leaves the notes empty (an ablation).
        detail_tokens: Most tokens of exact strings that are listed for recall.
    """
    started = time.monotonic()
    done = Distilled(Distillate())
    chunks = _chunks(originals, _chunk_tokens(window)) if summary else []
    work = [partial(_notes, caller, prompts, chunk, queries, tier, done) for chunk in chunks]
    made = await _in_time(work, seconds=seconds)
    if None in made:
        done.failure = f"the {tier} model did not distill within {seconds:.0f} s"
    parts = [
        notes_without_model(chunk, queries) if notes is None else notes
        for notes, chunk in zip(made, chunks, strict=True)
    ]
    done.notes = with_details(Distillate.joined(parts), originals, tokens=detail_tokens)
    done.seconds = time.monotonic() - started
    return done


async def _in_time(
    work: Sequence[Callable[[], Coroutine[Any, Any, Distillate]]], *, seconds: float
) -> list[Distillate | None]:
    """Do work, a few at a time, and return what it gave in order; None for what was not done within `seconds`."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(make: Callable[[], Coroutine[Any, Any, Distillate]]) -> Distillate:
        async with gate:
            return await make()

    tasks = [asyncio.create_task(one(make)) for make in work]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        return [task.result() if task.done() else None for task in tasks]
    finally:
        for task in tasks:
            task.cancel()


async def _notes(
    caller: DistillCaller,
    prompts: Prompts,
    chunk: Sequence[Original],
    queries: Sequence[str],
    tier: Tier,
    done: Distilled,
) -> Distillate:
    """Let the model write notes on one chunk; what fails is made without it."""
    lines = max(_MIN_LINES, min(_MAX_LINES, _tokens(chunk) // _TOKENS_PER_LINE))
    try:
        called = await _written(caller, prompts, chunk, queries, tier, lines=lines)
    except ContextOverflowError as error:
        halves = _halves(chunk) if _tokens(chunk) > _LEAST_TOKENS else []
        if len(halves) < 2:
            done.failure = str(error)
            return notes_without_model(chunk, queries)
        return Distillate.joined(
            [await _notes(caller, prompts, half, queries, tier, done) for half in halves]
        )
    except EndpointError as error:
        done.failure = str(error)
        return notes_without_model(chunk, queries)
    done.calls.append(called.record)
    is_cut = called.reply.cut or called.record["output_tokens"] >= lines * _LINE_TOKENS
    notes, removed = verified(read_notes(called.reply.text, _numbers(chunk), cut=is_cut), chunk)
    done.removed += removed
    if not notes.facts:
        done.failure = f"nothing that the {tier} model wrote is borne out by the results"
        return notes_without_model(chunk, queries)
    return notes


async def _written(
    caller: DistillCaller,
    prompts: Prompts,
    chunk: Sequence[Original],
    queries: Sequence[str],
    tier: Tier,
    *,
    lines: int,
) -> Called:
    """Have the model write at most so many lines of notes on one chunk."""
    results = "\n".join(f"[{original.number}] {original.title}: {original.text}" for original in chunk)
    prompt = prompts.distill.format(results=results, question=queries[0] if queries else "")
    return await caller.call(
        tier,
        [HumanMessage(prompt)],
        role="distill",
        max_tokens=lines * _LINE_TOKENS,
        guide=Guide(regex=distillate_regex(_numbers(chunk), lines=lines)),
        fallback=False,
    )


def _numbers(originals: Sequence[Original]) -> list[int]:
    return [original.number for original in originals]


def _tokens(originals: Sequence[Original]) -> int:
    return sum(estimate_tokens(original.text) for original in originals)


def notes_without_model(originals: Sequence[Original], queries: Sequence[str]) -> Distillate:
    """Return what stands in for notes where no model wrote any: the sentences that match the queries best."""
    return extracted(originals, queries, tokens=max(60, int(_EXTRACT_SHARE * _tokens(originals))))


def _chunk_tokens(window: int | None) -> int:
    """Half of the window at most: the rest is for the question, the notes, and what the estimate is off by."""
    return _CHUNK_TOKENS if window is None else max(_LEAST_TOKENS, min(_CHUNK_TOKENS, window // 2))


def _chunks(originals: Sequence[Original], tokens: int) -> list[list[Original]]:
    """Group results so that each group fits into one call; a longer one is cut at the borders of its passages."""
    pieces = [
        Original(original.number, original.title, text)
        for original in originals
        for text in (
            [original.text]
            if estimate_tokens(original.text) <= tokens
            else split_passages(original.text, size=_characters(original.text, tokens))
        )
    ]
    chunks: list[list[Original]] = []
    left = 0
    for piece in pieces:
        size = estimate_tokens(piece.text)
        if not chunks or size > left:
            chunks.append([])
            left = tokens
        chunks[-1].append(piece)
        left -= size
    return chunks


def _characters(text: str, tokens: int) -> int:
    """Return about how many characters of `text` have `tokens` tokens: fewer of Chinese, and of digits."""
    return max(1, len(text) * tokens // max(1, estimate_tokens(text)))


def _halves(chunk: Sequence[Original]) -> list[list[Original]]:
    if len(chunk) > 1:
        middle = len(chunk) // 2
        return [list(chunk[:middle]), list(chunk[middle:])]
    original = chunk[0]
    parts = split_passages(original.text, size=max(100, len(original.text) // 2 + 1))
    middle = max(1, len(parts) // 2)
    texts = ["\n".join(parts[:middle]), "\n".join(parts[middle:])]
    return [[Original(original.number, original.title, text)] for text in texts if text]
