"""The engine's requests as the drafter must see them: every token once, in order, whatever the batch does.

vLLM keeps the running requests in the rows of one table. Rows move when the batch is condensed, are empty while a
prompt is computed, and steps may pass in which no proposer is asked. This module turns that into calls of the
drafter. With request ids (the model runner is bound) a row is known by its id; without, by its content.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from agentinfer_lg.hints import SessionHints, parse_hints
from agentinfer_lg.serving.sam.types import IntArray

_TAIL = 8
"""Tokens compared to know a row again by its content."""
_NEW, _STALE = -2, -1
"""Instead of a number of known tokens: the drafter has never heard of it; it must start again."""
_PATIENCE = 32
"""Steps after which a request that is in no row any more counts as finished, where ids are not known."""


class Drafting(Protocol):
    """The part of the drafter that is used here."""

    def start(self, request: str, prompt: IntArray, *, hints: SessionHints = ...) -> None:
        """Take in a request."""

    def step(
        self,
        requests: Sequence[str],
        verified: Sequence[Sequence[int]],
        *,
        limits: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Take in new tokens and return drafts."""

    def finish(self, request: str) -> None:
        """Forget a request."""


@dataclass(slots=True)
class _Request:
    known: int
    """Tokens that the drafter has, or `_NEW` or `_STALE`."""
    end: int
    """Length at which the request ends at the latest."""
    hints: SessionHints = field(default_factory=SessionHints)
    row: int = -1
    tail: IntArray | None = None
    absent: int = 0


class RequestTracker:
    """Follows requests through the rows of the batch and asks the drafter for all of them at once."""

    def __init__(
        self, drafter: Drafting | None, *, max_draft: int, max_model_len: int, vocab_size: int
    ) -> None:
        """Track requests for one engine.

        Args:
            drafter: Where drafts come from; None: set later, there are no drafts until then.
            max_draft: Most drafted tokens per request and step.
            max_model_len: Longest context of the engine, in tokens.
            vocab_size: Token ids are below it.
        """
        self.drafter = drafter
        """Where drafts come from; None while it is being made."""
        self._max_draft = max_draft
        self.max_model_len = max_model_len
        """Longest context of the engine, in tokens."""
        self._vocab_size = vocab_size
        self._requests: dict[str, _Request] = {}
        self._silent: set[str] = set()  # requests without token ids, such as prompts given as embeddings
        self._unnamed = 0
        self.resyncs = 0
        """Rows whose length was not the expected one."""
        self.rejected_hints = 0
        """Hints of the wrong type or out of range, which were ignored."""

    @property
    def live(self) -> int:
        """Number of requests that the drafter knows."""
        return len(self._requests)

    def begin(
        self,
        request: str,
        prompt: Sequence[int] | None,
        *,
        xargs: object = None,
        max_tokens: int | None = None,
    ) -> None:
        """Take in a request before its prompt is computed.

        Args:
            request: Its id.
            prompt: Token ids; None if it has none, then it gets no drafts.
            xargs: Extra arguments of the request, from which hints are read.
            max_tokens: Most tokens that it may generate.
        """
        self.end((request,))
        if prompt is None:
            self._silent.add(request)
            return
        parsed = parse_hints(xargs if isinstance(xargs, Mapping) else None)
        self.rejected_hints += len(parsed.rejected)
        tokens = np.asarray(prompt, dtype=np.int32)
        end = self.max_model_len if max_tokens is None else len(tokens) + max_tokens
        entry = self._requests[request] = _Request(_NEW, end, parsed.hints)
        if self.drafter is not None:
            self.drafter.start(request, tokens, hints=parsed.hints)
            entry.known = len(tokens)

    def end(self, requests: Collection[str]) -> None:
        """Forget requests that are finished or aborted; unknown ones are left alone."""
        for request in requests:
            self._silent.discard(request)
            if self._requests.pop(request, None) is not None and self.drafter is not None:
                self.drafter.finish(request)

    def restart_all(self) -> None:
        """After an error: give the drafter every request anew, as soon as its row comes up."""
        for entry in self._requests.values():
            entry.known = _STALE

    def propose(
        self,
        sampled: Sequence[Sequence[int]],
        lengths: IntArray,
        tokens: IntArray,
        *,
        requests: Sequence[str] | None = None,
    ) -> list[list[int]]:
        """Return one draft per row.

        Args:
            sampled: Tokens that each row got in this step; empty while its prompt is computed.
            lengths: Tokens of each row, those of this step included.
            tokens: Token ids of each row; two-dimensional.
            requests: Id of each row; None: rows are known by their content.
        """
        result: list[list[int]] = [[] for _ in sampled]
        drafter = self.drafter
        if drafter is None:
            return result
        names = self._recognise(sampled, lengths, tokens) if requests is None else requests
        active = [i for i, new in enumerate(sampled) if len(new) and names[i] not in self._silent]
        verified = [self._catch_up(drafter, names[i], sampled[i], int(lengths[i]), tokens[i]) for i in active]
        limits = [self._limit(names[i], int(lengths[i])) for i in active]
        drafts = drafter.step([names[i] for i in active], verified, limits=limits)
        for i, draft, limit in zip(active, drafts, limits, strict=True):
            result[i] = self._checked(draft, limit)
        return result

    def _catch_up(
        self, drafter: Drafting, request: str, new: Sequence[int], length: int, row: IntArray
    ) -> Sequence[int]:
        """Return the tokens that the drafter has not seen, after starting the request if need be."""
        entry = self._requests.setdefault(request, _Request(_NEW, self.max_model_len))
        before = length - len(new)
        if not 0 <= entry.known <= before:
            if entry.known != _NEW:
                self.resyncs += 1
                drafter.finish(request)
            drafter.start(request, np.array(row[:before], dtype=np.int32), hints=entry.hints)
            entry.known = before
        missed, entry.known = before - entry.known, length
        if not missed:
            return new
        self.resyncs += 1
        return [int(token) for token in row[before - missed : length]]

    def _limit(self, request: str, length: int) -> int:
        """Draft no token that could not be used: each step also yields one that is not drafted."""
        end = min(self._requests[request].end, self.max_model_len)
        return max(0, min(self._max_draft, end - length - 1))

    def _checked(self, draft: Sequence[int], limit: int) -> list[int]:
        """Cut a draft at its limit and before the first thing that is no token of the model."""
        kept = [int(token) for token in draft[:limit]]
        for position, token in enumerate(kept):
            if not 0 <= token < self._vocab_size:
                return kept[:position]
        return kept

    def _recognise(self, sampled: Sequence[Sequence[int]], lengths: IntArray, tokens: IntArray) -> list[str]:
        """Name each row by what it contained one step ago."""
        free = dict(self._requests)
        last_in_row = {entry.row: name for name, entry in free.items() if not entry.absent}
        bases = [int(lengths[i]) - len(new) for i, new in enumerate(sampled)]
        names = [""] * len(sampled)
        for i, new in enumerate(sampled):  # most rows stay where they are
            name = last_in_row.get(i, "")
            if name and self._continues(free[name], bases[i], tokens[i]):
                names[i] = name if new else ""
                free.pop(name).absent = 0
        for i, new in enumerate(sampled):
            if new and not names[i]:
                names[i] = self._moved(bases[i], tokens[i], free) or self._next_name()
        self._place(names, sampled, lengths, tokens)
        for entry in free.values():
            entry.absent += 1
        self.end([name for name, entry in free.items() if entry.absent >= _PATIENCE])
        return names

    def _moved(self, base: int, row: IntArray, free: dict[str, _Request]) -> str:
        """Take the request that continues in this row out of `free`; exact continuations before those with a gap."""
        found = [
            (base - entry.known, name) for name, entry in free.items() if self._continues(entry, base, row)
        ]
        if not found:
            return ""
        name = min(found)[1]
        del free[name]
        return name

    @staticmethod
    def _continues(entry: _Request, base: int, row: IntArray) -> bool:
        if entry.tail is None or not 0 <= entry.known <= base:
            return False
        start = entry.known - len(entry.tail)
        return bool(np.array_equal(row[start : entry.known], entry.tail))

    def _place(
        self, names: Sequence[str], sampled: Sequence[Sequence[int]], lengths: IntArray, tokens: IntArray
    ) -> None:
        """Remember where each request is and how it ends, to know it again in the next step."""
        for i, name in enumerate(names):
            if not name:
                continue
            length = int(lengths[i])
            entry = self._requests.setdefault(name, _Request(_NEW, self.max_model_len))
            entry.row, entry.absent = i, 0
            entry.tail = np.array(tokens[i][max(0, length - _TAIL) : length])

    def _next_name(self) -> str:
        self._unnamed += 1
        return f"row-{self._unnamed}"
