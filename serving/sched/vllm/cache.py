"""vLLM's prefix cache as the scheduler sees it: what is cached, what is free, and in which order it is evicted.

vLLM evicts from the front of its list of free blocks. A context is kept by moving its blocks to the end of the list (a soft
pin), given up by moving them to the front, or held by force by counting as their user (a hard pin). Nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agentinfer_lg.serving.sched.policy.cached_context import Block, CachedContext

Request = Any  # a Request of vLLM


class BlockCache:
    """The block pool behind a KV cache manager of vLLM."""

    def __init__(self, manager: Any, *, block_size: int) -> None:
        """Look at a cache.

        Args:
            manager: vLLM's KV cache manager.
            block_size: Tokens per block of the scheduler.
        """
        self._manager = manager
        self._groups = [0]
        self.block_size = block_size
        """Tokens per block."""
        single = len(getattr(manager.coordinator, "single_type_managers", ())) == 1
        spec = manager.kv_cache_config.kv_cache_groups
        self._bisect = (
            single
            and len(spec) == 1
            and type(spec[0].kv_cache_spec).__name__ == "FullAttentionSpec"
            and spec[0].kv_cache_spec.block_size == block_size
        )
        self.caching: bool = bool(manager.enable_caching)
        """Whether there is a prefix cache at all."""
        self.simple: bool = self.caching and self._bisect
        """Whether all layers attend to everything, so that a cached context is a beginning of it."""

    @property
    def _pool(self) -> Any:
        return self._manager.block_pool

    @property
    def free(self) -> int:
        """Blocks that no request holds, cached ones included."""
        return int(self._pool.get_num_free_blocks())

    @property
    def total(self) -> int:
        """Usable blocks."""
        return int(self._pool.num_gpu_blocks) - 1

    def hit_blocks(self, request: Request) -> int:
        """Return how many blocks of a waiting request are cached; a pure look, nothing is counted or touched.

        Where the model has one kind of full attention, cached blocks form a beginning (ends are evicted first), so a
        binary search finds its length.
        """
        hashes = request.block_hashes
        if not self.caching or not hashes:
            return 0
        usable = (request.num_tokens - 1) // self.block_size
        if not self._bisect:
            found = self._manager.coordinator.find_longest_cache_hit(hashes, request.num_tokens - 1)
            return int(found[1]) // self.block_size
        lookup = self._pool.get_cached_block
        low, high = 0, min(len(hashes), usable)
        while low < high:
            middle = (low + high) // 2
            if lookup(hashes[middle], self._groups) is None:
                high = middle
            else:
                low = middle + 1
        return low

    def context_of(self, request: Request) -> CachedContext:
        """Return the cached blocks that a running request holds; to be called before they are freed.

        Of a model with several kinds of attention nothing is returned: what it keeps of a context is no beginning.
        """
        if not self.simple:
            return CachedContext()
        found = self._manager.get_blocks(request.request_id).blocks
        blocks = [
            block for group in found for block in group if block.block_hash is not None and not block.is_null
        ]
        return CachedContext(blocks, [block.block_hash for block in blocks])

    def refresh(self, context: CachedContext) -> int:
        """Let a context be evicted last, its end before its beginning; return the number of blocks moved."""
        idle = [block for block in context.blocks[: context.shrink()] if block.ref_cnt == 0]
        self._pool.touch(idle)
        self._pool.free_blocks(list(reversed(idle)))
        return len(idle)

    def demote(self, blocks: Sequence[Block], hashes: Sequence[Any]) -> int:
        """Let blocks be evicted first, the last one before the others; return the number of blocks moved.

        Args:
            blocks: Blocks of a context.
            hashes: What they should hold; others are left alone.
        """
        pairs = zip(blocks, hashes, strict=True)
        idle = [block for block, held in pairs if block.ref_cnt == 0 and block.block_hash == held]
        queue = self._pool.free_block_queue
        for block in idle:
            queue.remove(block)
        queue.prepend_n(list(reversed(idle)))
        return len(idle)

    def pin(self, context: CachedContext) -> None:
        """Hold a context by force until `unpin`; its blocks count as used."""
        context.shrink()
        self._pool.touch(context.blocks)

    def unpin(self, context: CachedContext) -> None:
        """Give up a context that was pinned; it is then the last to be evicted."""
        self._pool.free_blocks(list(reversed(context.blocks)))

    def front(self, count: int) -> Iterator[Block]:
        """Yield the blocks that the next `count` allocations take."""
        block = self._pool.free_block_queue.fake_free_list_head.next_free_block
        for _ in range(count):
            if block is None or block.next_free_block is None:  # the last one is a sentinel
                return
            following = block.next_free_block
            yield block
            block = following
