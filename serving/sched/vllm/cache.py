"""vLLM's prefix cache as the scheduler sees it: what is cached, what is free, and in which order it is evicted.

vLLM evicts from the front of its list of free blocks. A context is kept by moving its blocks to the end of the list (a soft
pin), given up by moving them to the front, or held by force by counting as their user (a hard pin). Nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Block = Any  # a KVCacheBlock of vLLM
Request = Any  # a Request of vLLM


def common_length(one: Sequence[Any], other: Sequence[Any], most: int | None = None) -> int:
    """Return how many block hashes two prompts have in common at their beginning; each hash stands for all before it.

    Args:
        one: Hashes of one.
        other: Hashes of the other.
        most: Look at no more than this many.
    """
    low, high = 0, min(len(one), len(other))
    if most is not None:
        high = min(high, most)
    if high and one[high - 1] == other[high - 1]:
        return high
    while low < high:
        middle = (low + high) // 2
        if one[middle] == other[middle]:
            low = middle + 1
        else:
            high = middle
    return low


class CachedContext:
    """Blocks of a context whose request has ended, as long as they still hold it."""

    __slots__ = ("all_ids", "blocks", "hashes")

    def __init__(self, blocks: Sequence[Block] = (), hashes: Sequence[Any] = ()) -> None:
        """Remember a context.

        Args:
            blocks: Its blocks, from the beginning.
            hashes: What each holds now: a block that holds something else is not ours any more.
        """
        self.blocks = list(blocks)
        self.hashes = list(hashes)
        self.all_ids = [block.block_id for block in self.blocks]
        """Ids of all blocks that were ever part of it."""

    def __len__(self) -> int:
        return len(self.blocks)

    def shrink(self) -> int:
        """Forget the blocks that were evicted since, and return how many are left.

        A context is evicted from its end, so the part that is left is a beginning.
        """
        low, high = 0, len(self.blocks)
        while low < high:
            middle = (low + high) // 2
            if self.blocks[middle].block_hash == self.hashes[middle]:
                low = middle + 1
            else:
                high = middle
        if low < len(self.blocks):
            del self.blocks[low:]
            del self.hashes[low:]
        return low

    def shared_with(self, other: CachedContext) -> int:
        """Return the number of blocks at the beginning that both have."""
        return common_length(self.hashes, other.hashes)

    def beyond(self, other: CachedContext) -> CachedContext:
        """Return the blocks that are not in `other`."""
        theirs = set(other.all_ids)
        kept = [pair for pair in zip(self.blocks, self.hashes, strict=True) if pair[0].block_id not in theirs]
        return CachedContext([block for block, _ in kept], [held for _, held in kept])

    def joined(self, other: CachedContext) -> CachedContext:
        """Return these blocks and those that only `other` has."""
        more = other.beyond(self)
        return CachedContext([*self.blocks, *more.blocks], [*self.hashes, *more.hashes])


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
