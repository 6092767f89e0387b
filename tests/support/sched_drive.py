"""vLLM's engine loop around a scheduler, with a worker that has no model: steps, arrivals, aborts and a clock.

    drive = SchedulerDrive(make_scheduler, overlap=True, draft_tokens=3)
    drive.add("a", prompt, tokens=20)
    drive.drain()
    assert drive.texts["a"] == continuation(prompt, tokens=20)

After every step it compares what the scheduler says of itself with what is true: no request is lost, no block leaks.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from unittest.mock import patch

from support.fake_worker import FakeWorker

from agentinfer_lg.serving.parts.settings import VARIABLE

__all__ = ("BLOCK_SIZE", "STEP_SECONDS", "Grammar", "SchedulerDrive")

BLOCK_SIZE = 4
STEP_SECONDS = 0.02


class Grammar:
    """Stands in for a grammar, and for the request of one: everything conforms once it is compiled."""

    reasoning_ended = True
    reasoning_end_token_index = None

    def __init__(self) -> None:
        self.compiled = False

    @property
    def grammar(self) -> Grammar | None:
        """As vLLM asks whether it is compiled."""
        return self if self.compiled else None

    def accept_tokens(self, *_: Any) -> bool:
        """Let every token pass."""
        return True

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """Let every draft pass."""
        return tokens

    def is_terminated(self) -> bool:
        """Never end early."""
        return False


class SchedulerDrive:
    """Runs a scheduler as vLLM's engine core does.

    Args:
        make: What vLLM calls with keyword arguments to get its scheduler.
        blocks: Usable blocks of the KV cache.
        overlap: Whether the next step is scheduled while the last one runs (asynchronous scheduling).
        draft_tokens: Most tokens drafted for a request and step (speculative decoding); 0 for none.
        settings: Goes to the scheduler by the variable `AGENTINFER_CONFIG`, which works with vLLM-Ascend too.
        max_model_len: Longest context in tokens.
        step_tokens: Most tokens computed in one step.
        max_seqs: Most requests computed together.
    """

    def __init__(
        self,
        make: Callable[..., Any],  # Any: a scheduler of vLLM
        *,
        blocks: int = 40,
        overlap: bool = False,
        draft_tokens: int = 0,
        settings: Mapping[str, Any] | None = None,  # Any: JSON
        max_model_len: int = 128,
        step_tokens: int = 32,
        max_seqs: int = 4,
    ) -> None:
        parts = scheduler_parts(
            blocks=blocks,
            overlap=overlap,
            draft_tokens=draft_tokens,
            max_model_len=max_model_len,
            step_tokens=step_tokens,
            max_seqs=max_seqs,
        )
        self.now = 1000.0
        self.blocks = blocks
        with patch.dict(os.environ, {VARIABLE: json.dumps({"sched": dict(settings or {})})}):
            self.scheduler = make(**parts)
        self.scheduler.clock = lambda: self.now
        self.worker = FakeWorker(
            blocks=blocks + 1, block_size=BLOCK_SIZE, draft_tokens=draft_tokens, overlap=overlap
        )
        self.texts: dict[str, list[int]] = {}
        """Generated tokens of every request."""
        self.reasons: dict[str, str] = {}
        """Why requests finished."""
        self.waited: dict[str, float] = {}
        """Seconds from arrival to the first step of a request."""
        self.live: set[str] = set()
        """Requests that are neither finished nor aborted."""
        self.preemptions = 0
        self.hit_tokens = 0
        """Prompt tokens that new requests found in the cache."""
        self.steps = 0
        self.may_fail = False
        """Whether the scheduler may count errors of its own."""
        self._arrivals: dict[str, float] = {}
        self._overlap = overlap
        self._draft_tokens = draft_tokens
        self._hasher = block_hasher()
        self._in_flight: deque[tuple[Any, Any]] = deque()

    def add(
        self,
        name: str,
        prompt: Sequence[int],
        *,
        tokens: int,
        hints: Mapping[str, Any] | None = None,  # Any: what a client sends, right or wrong
        grammar: Grammar | None = None,
        resumable: bool = False,
        seed: int | None = None,
    ) -> None:
        """Hand a request to the scheduler.

        Args:
            name: Its id.
            prompt: Token ids.
            tokens: Tokens to generate.
            hints: Session hints on the wire.
            grammar: What its text must conform to; it waits until the grammar is compiled.
            resumable: Whether the prompt comes in pieces; the next piece comes under the same name.
            seed: Of its sampling.
        """
        from vllm.v1.request import RequestStatus
        from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

        from agentinfer_lg.evals.sched.replay.engine_parts import make_request

        request = make_request(
            name,
            prompt_tokens=prompt,
            output_tokens=tokens,
            arrival=self.now,
            xargs=hints,
            hasher=self._hasher,
        )
        request.sampling_params.seed = seed
        if grammar is not None:
            StructuredOutputGrammar.register(Grammar)  # vLLM 0.28 and 0.29 want to see one
            request.structured_output_request = grammar
            request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        if resumable:
            request.resumable = True
            request.streaming_queue = deque()
        self.texts.setdefault(name, [])
        self._arrivals[name] = self.now
        self.live.add(name)
        self.scheduler.add_request(request)
        self.check()

    def abort(self, names: str | Iterable[str] | None) -> None:
        """Finish requests from outside, as when a client goes away; None for all."""
        from vllm.v1.request import RequestStatus

        names = names if names is None or isinstance(names, str) else list(names)
        self.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)
        gone = set(self.live) if names is None else {names} if isinstance(names, str) else set(names)
        self.live -= gone
        self.check()

    def step(self, *, abort: str | Iterable[str] | None = ()) -> int:
        """Take one turn of the engine's loop and return the number of tokens scheduled in it.

        Args:
            abort: Requests whose clients go away while the model runs.
        """
        scheduled = 0
        if self.scheduler.has_requests():
            scheduled = self._schedule()
            if self._overlap and len(self._in_flight) < 2 and (scheduled or self.scheduler.has_requests()):
                return scheduled
        elif not self._in_flight:
            return 0
        if abort is None or abort:
            self.abort(abort)
        self._deliver(*self._in_flight.popleft())
        return scheduled

    def drain(self, *, steps: int = 2000) -> None:
        """Step until nothing is left to do; fail after `steps` steps."""
        for _ in range(steps):
            if not self.scheduler.has_requests() and not self._in_flight:
                return
            self.step()
        raise AssertionError(f"after {steps} steps there are still {sorted(self.live)}")

    def settle(self) -> None:
        """Deliver the steps that are in flight."""
        while self._in_flight:
            self._deliver(*self._in_flight.popleft())

    def free_blocks(self) -> int:
        """Return the number of blocks that no request and no pin holds."""
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def figures(self) -> dict[str, float]:
        """Return the scheduler's own figures; empty for vLLM's own scheduler."""
        read = getattr(self.scheduler, "agentinfer_stats", dict)
        return dict(read())

    def check(self) -> None:
        """Fail if a request is lost, or if a block is neither free nor held, or both."""
        scheduler = self.scheduler
        if not scheduler.pause_state:  # while it is paused, vLLM counts what still runs
            unfinished = len(self.live) - scheduler.num_waiting_for_streaming_input
            assert scheduler.get_num_unfinished_requests() == unfinished
            assert scheduler.has_unfinished_requests() == bool(unfinished)
        assert set(scheduler.requests) == self.live
        assert sum(scheduler.get_request_counts()) == len(self.live)
        pool = scheduler.kv_cache_manager.block_pool
        free = pool.free_block_queue.get_all_free_blocks()
        held = [block for block in pool.blocks if block.ref_cnt > 0 and not block.is_null]
        assert len(free) == pool.get_num_free_blocks()
        assert all(block.ref_cnt == 0 for block in free)
        assert len({block.block_id for block in free}) == len(free)
        assert len(free) + len(held) == self.blocks
        assert self.may_fail or self.figures().get("errors", 0) == 0

    def _schedule(self) -> int:
        step = self.scheduler.schedule()
        self.steps += 1
        self.now += STEP_SECONDS
        for new in step.scheduled_new_reqs:
            self.waited[new.req_id] = self.now - self._arrivals[new.req_id]
            self.hit_tokens += new.num_computed_tokens
        self.preemptions += len(step.preempted_req_ids or ())
        if not step.total_num_scheduled_tokens and not self._in_flight:
            assert self.scheduler.pause_state or not self._ready(), (
                "the engine is idle although requests wait"
            )
        self._in_flight.append((step, self.worker.execute(step)))
        self.check()
        return int(step.total_num_scheduled_tokens)

    def _ready(self) -> list[str]:
        """Return the requests that wait for nothing but the scheduler."""
        return [
            name
            for name, request in self.scheduler.requests.items()
            if request.status.name in ("WAITING", "PREEMPTED")
        ]

    def _deliver(self, step: Any, result: Any) -> None:
        batches = self.scheduler.update_from_output(step, result)
        for batch in batches.values():
            for output in batch.outputs:
                self.texts[output.request_id] += output.new_token_ids
                if output.finish_reason is not None and output.request_id not in self.scheduler.requests:
                    self.reasons[output.request_id] = str(output.finish_reason)
                    self.live.discard(output.request_id)
        if self._draft_tokens and not self._overlap and step.total_num_scheduled_tokens:
            self.scheduler.update_draft_token_ids(self.worker.take_drafts(step))
        self.check()


@cache
def scheduler_parts(
    *,
    blocks: int,
    overlap: bool,
    draft_tokens: int,
    max_model_len: int,
    step_tokens: int,
    max_seqs: int,
) -> dict[str, Any]:
    """Return the keyword arguments with which vLLM makes a scheduler; schedulers may share them.

    Args:
        blocks: As for `SchedulerDrive`, like all the others.
    """
    from agentinfer_lg.evals.sched.replay.engine_parts import make_scheduler_parts

    parts = make_scheduler_parts(
        blocks=blocks,
        block_size=BLOCK_SIZE,
        max_model_len=max_model_len,
        step_tokens=step_tokens,
        max_seqs=max_seqs,
        asynchronous=overlap,
    )
    if draft_tokens:
        config = parts["vllm_config"]
        config.speculative_config = _speculation(config, draft_tokens)
    return parts


def _speculation(config: Any, tokens: int) -> Any:
    """Return the configuration of the simplest speculation; what is drafted is up to the fake worker.

    It is added to a finished configuration, because vLLM overlaps steps with other methods only, which need a model.
    """
    from vllm.config import SpeculativeConfig

    return SpeculativeConfig(
        method="ngram",
        num_speculative_tokens=tokens,
        prompt_lookup_max=2,
        prompt_lookup_min=1,
        target_model_config=config.model_config,
        target_parallel_config=config.parallel_config,
    )


def block_hasher() -> Callable[[Any], list[Any]]:
    """Return what names the full blocks of a request by their tokens, as vLLM does by default."""
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    init_none_hash(sha256)
    return get_request_block_hasher(BLOCK_SIZE, sha256)
