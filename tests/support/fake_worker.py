"""A worker of vLLM without a model: what it generates depends on every token that its KV cache holds for a request.

It keeps the requests and their block tables as vLLM's model runner does, writes each computed token into the slot that
the block table names, and reads the whole context back from there. Blocks that were handed out twice, reused too early
or claimed as computed too soon therefore change the text of a request, and the text can be foretold.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ("FakeWorker", "continuation", "next_token")

VOCABULARY = 1000
UNWRITTEN = -1


def next_token(context: Sequence[int] | np.ndarray) -> int:
    """Return what follows `context`: a checksum of it."""
    return zlib.crc32(np.asarray(context, dtype=np.int32).tobytes()) % VOCABULARY


def continuation(prompt: Sequence[int], *, tokens: int) -> list[int]:
    """Return what is generated after `prompt`, however it is scheduled."""
    text = list(prompt)
    for _ in range(tokens):
        text.append(next_token(text))
    return text[len(prompt) :]


@dataclass(slots=True)
class WorkerRequest:
    """What the worker knows of a request."""

    tokens: list[int]
    blocks: list[int]
    computed: int
    """Tokens whose KV entries are valid."""
    draft: list[int] = field(default_factory=list)


class FakeWorker:
    """Executes the steps of a scheduler in the order in which they were scheduled.

    Args:
        blocks: Blocks of the KV cache, vLLM's null block included.
        block_size: Tokens per block.
        draft_tokens: Most tokens drafted for a request and step; some are right and some are wrong.
        overlap: Whether the next step is scheduled before the tokens of this one are known.
    """

    def __init__(self, *, blocks: int, block_size: int, draft_tokens: int = 0, overlap: bool = False) -> None:
        self._cache = np.full(blocks * block_size, UNWRITTEN, dtype=np.int32)
        self._block_size = block_size
        self._draft_tokens = draft_tokens
        self._overlap = overlap
        self._requests: dict[str, WorkerRequest] = {}
        self.accepted = 0
        """Drafted tokens that were right."""
        self.rejected = 0
        self.chunked = 0
        """Steps that computed a part of a prompt."""

    def execute(self, step: Any) -> Any:  # Any: vLLM's SchedulerOutput and ModelRunnerOutput
        """Compute one step and return the sampled tokens."""
        from vllm.v1.outputs import ModelRunnerOutput

        self._update(step)
        names = list(step.num_scheduled_tokens)
        sampled = [
            self._compute(
                self._requests[name],
                step.num_scheduled_tokens[name],
                drafted=step.scheduled_spec_decode_tokens.get(name, ()),
            )
            for name in names
        ]
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )

    def take_drafts(self, step: Any) -> Any:  # Any: vLLM's SchedulerOutput and DraftTokenIds
        """Return what was drafted for the requests of `step`."""
        from vllm.v1.outputs import DraftTokenIds

        names = list(step.num_scheduled_tokens)
        return DraftTokenIds(names, [list(self._requests[name].draft) for name in names])

    def write(self, block: int, token: int) -> None:
        """Fill a block with one token, as another request might by mistake."""
        self._cache[block * self._block_size : (block + 1) * self._block_size] = token

    def _update(self, step: Any) -> None:
        for name in step.finished_req_ids:
            self._requests.pop(name, None)
        for new in step.scheduled_new_reqs:
            self._requests[new.req_id] = WorkerRequest(
                list(new.prompt_token_ids), list(new.block_ids[0]), new.num_computed_tokens
            )
        cached = step.scheduled_cached_reqs
        for name, blocks, computed in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            if name in cached.resumed_req_ids:
                self._requests[name] = WorkerRequest(
                    list(cached.all_token_ids[name]), list(blocks[0]), computed
                )
                continue
            request = self._requests[name]
            request.blocks += blocks[0] if blocks else []
            # While steps overlap, the scheduler takes all drafts in flight for accepted.
            assert computed >= request.computed if self._overlap else computed == request.computed

    def _compute(self, request: WorkerRequest, scheduled: int, *, drafted: Sequence[int]) -> list[int]:
        """Compute `scheduled` tokens, the last of which are drafts; return the tokens that follow, if any."""
        known = len(request.tokens)
        end = request.computed + scheduled
        drafts = self._drafts(request, drafted)
        assert end - len(drafts) <= known, "more tokens are scheduled than there are"
        text = (request.tokens + drafts)[:end]
        slots = self._slots(request.blocks, end)
        self._cache[slots[request.computed :]] = text[request.computed :]
        if end < known:  # a part of the prompt
            self.chunked += 1
            request.computed = end
            request.draft = []
            return []
        sampled = self._verify(self._cache[slots], known=known, drafts=drafts)
        request.computed = known + len(sampled) - 1
        request.tokens += sampled
        request.draft = self._propose(request.tokens)
        return sampled

    def _drafts(self, request: WorkerRequest, scheduled: Sequence[int]) -> list[int]:
        if not self._overlap:
            return list(scheduled)
        # The scheduler knows only how many drafts there are, and adds some to requests that have none yet.
        return (request.draft + [UNWRITTEN] * len(scheduled))[: len(scheduled)]

    def _slots(self, blocks: Sequence[int], tokens: int) -> np.ndarray:
        positions = np.arange(tokens)
        return np.asarray(blocks)[positions // self._block_size] * self._block_size + (
            positions % self._block_size
        )

    def _verify(self, context: np.ndarray, *, known: int, drafts: Sequence[int]) -> list[int]:
        sampled = [next_token(context[:known])]
        for draft in drafts:
            if draft != sampled[-1]:
                break
            sampled.append(next_token(context[: known + len(sampled)]))
        self.accepted += len(sampled) - 1
        self.rejected += len(drafts) - len(sampled) + 1
        return sampled

    def _propose(self, tokens: Sequence[int]) -> list[int]:
        """Draft a few tokens, right up to a place that depends on the text."""
        right = tokens[-1] % (self._draft_tokens + 1)
        draft = continuation(tokens, tokens=right) + [0] * (self._draft_tokens - right)
        # Where the scheduler hears of drafts, there may be fewer than the most.
        return draft if self._overlap else draft[: tokens[-1] // 7 % (self._draft_tokens + 1)]
