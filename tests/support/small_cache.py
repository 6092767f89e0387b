"""A real KV cache manager of vLLM, small, and requests that come and go in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from support.sched_drive import BLOCK_SIZE, block_hasher, scheduler_parts

from agentinfer_lg.evals.sched.replay.engine_parts import make_request
from agentinfer_lg.serving.sched.policy.cached_context import CachedContext
from agentinfer_lg.serving.sched.vllm.cache import BlockCache

__all__ = ("SmallCache",)


class SmallCache:
    """Requests are named by their text: each letter is a block."""

    def __init__(self, *, blocks: int = 20) -> None:
        from vllm.v1.core.sched.scheduler import Scheduler

        parts = scheduler_parts(
            blocks=blocks,
            overlap=False,
            draft_tokens=0,
            max_model_len=1024,
            step_tokens=1024,
            max_seqs=8,
        )
        scheduler = Scheduler(**parts)
        self.manager: Any = scheduler.kv_cache_manager
        self.pool = self.manager.block_pool
        self.cache = BlockCache(self.manager, block_size=BLOCK_SIZE)
        self._hasher = block_hasher()
        self._names = 0

    def request(self, text: str) -> Any:
        """A request whose prompt has a block per letter, and one token more."""
        self._names += 1
        tokens = [token for letter in text for token in [ord(letter)] * BLOCK_SIZE]
        return make_request(
            f"{text}-{self._names}",
            prompt_tokens=[*tokens, 0],
            output_tokens=1,
            arrival=0.0,
            hasher=self._hasher,
        )

    def start(self, text: str) -> Any:
        """Let a request compute its prompt."""
        request = self.request(text)
        found = self.manager.get_computed_blocks(request)
        new = request.num_tokens - found[1]
        assert self.manager.allocate_slots(request, new, found[1], found[0]) is not None
        return request

    def finish(self, request: Any) -> CachedContext:
        """End it, and return what it leaves."""
        context = self.cache.context_of(request)
        self.manager.free(request)
        return context

    def run(self, text: str) -> CachedContext:
        """A request from its beginning to its end."""
        return self.finish(self.start(text))

    def hit(self, text: str) -> int:
        """Blocks of a prompt that are cached."""
        return self.cache.hit_blocks(self.request(text))

    def evict(self, count: int) -> None:
        """Let `count` blocks be taken from the free ones and given back empty, as decoding does."""
        blocks = self.pool.get_new_blocks(count)
        self.pool.free_blocks(blocks)

    def take(self, count: int) -> list[Any]:
        """Let `count` blocks be taken from the free ones."""
        blocks: list[Any] = self.pool.get_new_blocks(count)
        return blocks

    def check(self, *, held: Sequence[Any] = ()) -> None:
        """Every block is either free or held by `held`, and the list of free ones is whole."""
        free = self.pool.free_block_queue.get_all_free_blocks()
        assert len(free) == self.pool.get_num_free_blocks() == self.cache.free
        ids = {block.block_id for block in free}
        assert len(ids) == len(free)
        assert all(block.ref_cnt == 0 and not block.is_null for block in free)
        assert not ids & {block.block_id for block in held}
        assert ids | {block.block_id for block in held} == set(range(1, self.cache.total + 1))
        backwards, block = [], self.pool.free_block_queue.fake_free_list_tail.prev_free_block
        while block.prev_free_block is not None:
            backwards.append(block)
            block = block.prev_free_block
        assert backwards[::-1] == free
