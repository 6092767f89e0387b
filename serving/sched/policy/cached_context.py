"""What a request left in the prefix cache, and the prefix cache as the policy sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Block = Any  # has `block_id`, `block_hash` and `ref_cnt`, as a KVCacheBlock of vLLM


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


class PrefixCache(Protocol):
    """A prefix cache, in blocks. `vllm.cache.BlockCache` is that of vLLM."""

    block_size: int
    """Tokens per block."""
    simple: bool
    """Whether a cached context is a beginning of it."""

    @property
    def free(self) -> int:
        """Blocks that no request holds, cached ones included."""

    @property
    def total(self) -> int:
        """Usable blocks."""

    def hit_blocks(self, request: Any) -> int:
        """Return how many blocks of a waiting request are cached."""

    def refresh(self, context: CachedContext) -> int:
        """Let a context be evicted last; return the number of blocks moved."""

    def demote(self, blocks: Sequence[Block], hashes: Sequence[Any]) -> int:
        """Let blocks be evicted first; return the number of blocks moved."""

    def pin(self, context: CachedContext) -> None:
        """Hold a context by force."""

    def unpin(self, context: CachedContext) -> None:
        """Give up a context that was pinned."""

    def front(self, count: int) -> Iterator[Block]:
        """Yield the blocks that the next `count` allocations take."""
