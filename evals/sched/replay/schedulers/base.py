"""What the schedulers under comparison share: hooks around vLLM's scheduler that touch its two queues only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from agentinfer_lg.hints import SessionHints, parse_hints

Clock = Callable[[], float]
"""Tells the time in seconds."""
Parts = dict[str, Any]  # Any: objects of vLLM
Request = Any  # vLLM's


def program_of(session: str) -> str:
    """Return the program that a session belongs to: one-shot requests have the session id `<program>#<number>`."""
    return session.split("#", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Blocks that cannot be evicted until they are unpinned."""

    blocks: list[Any]  # Any: vLLM's blocks


class RivalScheduler(Scheduler):  # type: ignore[misc]  # vLLM is not typed for us
    """vLLM's scheduler with hooks; as it is, it serves first come, first served.

    A subclass overrides `arrange` (which requests may be admitted, and in which order), `protect` (order of the running
    requests, of which vLLM preempts the last), `before_step`, `arrived`, `finished` and `preempted`.
    """

    def __init__(self, clock: Clock, parts: Parts) -> None:
        super().__init__(**parts)
        self.clock = clock
        self.step_seconds = 0.0
        self.step_tokens = 0
        self._step_began = 0.0
        self._hints: dict[str, SessionHints] = {}
        self._arrivals: dict[str, int] = {}
        self._arrived = 0
        self._hits: dict[str, int] = {}

    def arrange(self, waiting: list[Request], now: float) -> tuple[list[Request], list[Request]]:
        """Return the waiting requests that may be admitted, best first, and those that are held back in this step."""
        return waiting, []

    def protect(self, running: list[Request], now: float) -> list[Request]:
        """Return the running requests so that the one to preempt first is the last."""
        return running

    def before_step(self, now: float) -> None:
        """Called before each step."""

    def after_schedule(self, admitted: int) -> None:
        """Called when a step is put together, with the number of requests that were admitted to it."""

    def after_step(self, now: float) -> None:
        """Called after each step's results are in; `step_seconds` and `step_tokens` tell what it took."""

    def arrived(self, request: Request, now: float) -> None:
        """Called when a request has arrived."""

    def finished(self, request: Request, now: float) -> None:
        """Called when a request ends, before its blocks are freed."""

    def preempted(self, request: Request, now: float) -> None:
        """Called when a request was preempted."""

    def hints(self, request: Request) -> SessionHints:
        """Return what the agent told about a request that has not ended."""
        return self._hints[request.request_id]

    def program(self, request: Request) -> str:
        """Return the program of a request; one without hints is a program of its own."""
        return program_of(self.hints(request).session_id) or str(request.request_id)

    def is_one_shot(self, request: Request) -> bool:
        """Tell whether a request is not part of its program's growing context."""
        return "#" in self.hints(request).session_id

    def was_preempted(self, request: Request) -> bool:
        """Tell whether a waiting request was running already."""
        return bool(request.status == RequestStatus.PREEMPTED)

    def arrival_order(self, request: Request) -> int:
        """Return the place of a request among all that arrived."""
        return self._arrivals[request.request_id]

    def hit_tokens(self, request: Request) -> int:
        """Return how many tokens of a request are in the prefix cache now; a pure look-up."""
        limit = (request.num_tokens - 1) // self.block_size
        name = request.request_id
        known = self._hits[name] = self._cached_blocks(request.block_hashes, limit, self._hits.get(name, 0))
        return known * int(self.block_size)

    def pin(self, request: Request, *, tokens: int | None = None) -> Pin:
        """Keep the cached blocks of a request that is about to end from being evicted.

        Args:
            request: The request.
            tokens: How many of its tokens; None: all.
        """
        groups = self.kv_cache_manager.get_blocks(request.request_id).blocks
        length = None if tokens is None else tokens // self.block_size
        blocks = [
            block
            for group in groups
            for block in group[:length]
            if block.block_hash is not None and not block.is_null
        ]
        self.kv_cache_manager.block_pool.touch(blocks)
        return Pin(blocks=blocks)

    def unpin(self, pin: Pin) -> None:
        """Let blocks be evicted, the end of the context first."""
        self.kv_cache_manager.block_pool.free_blocks(reversed(pin.blocks))

    @property
    def total_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return int(self.kv_cache_manager.block_pool.num_gpu_blocks - 1) * int(self.block_size)

    @property
    def free_blocks(self) -> int:
        """Blocks that no running request and no pin holds."""
        return int(self.kv_cache_manager.block_pool.get_num_free_blocks())

    @override
    def add_request(self, request: Request) -> None:
        self._hints[request.request_id] = parse_hints(
            request.sampling_params and request.sampling_params.extra_args
        ).hints
        self._arrivals[request.request_id] = self._arrived
        self._arrived += 1
        self.arrived(request, self.clock())
        super().add_request(request)

    @override
    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        now = self.clock()
        self._step_began = now
        self.before_step(now)
        if len(self.running) > 1:
            self.running[:] = self.protect(list(self.running), now)
        ready, held = self.arrange(list(self.waiting), now) if len(self.waiting) else ([], [])
        if ready or held:
            self._set_waiting(ready)
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self.waiting.extend(held)
        self.step_tokens = output.total_num_scheduled_tokens
        self.after_schedule(
            len(output.scheduled_new_reqs) + len(output.scheduled_cached_reqs.resumed_req_ids)
        )
        return output

    @override
    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        now = self.clock()
        self.step_seconds = now - self._step_began
        outputs = super().update_from_output(*args, **kwargs)
        self.after_step(now)
        return outputs

    def _set_waiting(self, requests: Sequence[Request]) -> None:
        self.waiting.clear()
        self.waiting.extend(requests)

    @override
    def _free_blocks(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        name = request.request_id
        if name in self._hints:
            self.finished(request, self.clock())
        self._hits.pop(name, None)
        self._arrivals.pop(name, None)
        self._hints.pop(name, None)
        return super()._free_blocks(request, *args, **kwargs)

    @override
    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        result = super()._preempt_request(request, *args, **kwargs)
        self.preempted(request, self.clock())
        return result

    def _cached_blocks(self, hashes: Sequence[Any], limit: int, guess: int) -> int:
        """Return the length of the cached beginning; chains are evicted from their end, so a binary search finds it.

        Args:
            hashes: Of the request's full blocks.
            limit: Most blocks that may be taken from the cache.
            guess: The length when it was last asked for, which is mostly still right.
        """
        cached = self.kv_cache_manager.block_pool.get_cached_block
        low, high = 0, min(limit, len(hashes))
        if 0 < guess <= high:
            if cached(hashes[guess - 1], [0]) is None:
                high = guess - 1
            else:
                low = guess
        if low < high:
            if cached(hashes[low], [0]) is None:
                return low
            low += 1
        while low < high:
            middle = (low + high) // 2
            if cached(hashes[middle], [0]) is None:
                high = middle
            else:
                low = middle + 1
        return low
