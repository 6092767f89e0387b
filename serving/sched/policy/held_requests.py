"""Which waiting requests are held back, so that what they need is not taken from contexts that are worth more."""

from __future__ import annotations

from collections.abc import Sequence

from agentinfer_lg.serving.sched.policy.admission import admit
from agentinfer_lg.serving.sched.policy.cached_context import PrefixCache
from agentinfer_lg.serving.sched.policy.context_retention import ContextRetention
from agentinfer_lg.serving.sched.policy.request_info import RequestInfo


class HeldRequests:
    """The requests that should not start now, and the blocks that running prompts still need."""

    def __init__(self, cache: PrefixCache, retention: ContextRetention, *, long_tokens: float) -> None:
        """Hold nothing back yet.

        Args:
            cache: Where the blocks are.
            retention: Knows which of them are worth keeping.
            long_tokens: Uncached tokens from which on a prompt is long.
        """
        self._cache = cache
        self._retention = retention
        self._long_tokens = long_tokens
        self._long_blocks = max(1, int(long_tokens) // cache.block_size)
        self.ids: set[str] = set()
        """Ids of the requests."""
        self.count = 0
        """Times that a request was held back."""
        self.coming = 0
        """Blocks that running prompts still need."""

    def decide(self, ordered: Sequence[RequestInfo], running: Sequence[int], *, hit_blocks: int) -> None:
        """Decide anew.

        Args:
            ordered: At least one waiting request, the first one to start first.
            running: For each running request the tokens of its text that are not in the cache yet.
            hit_blocks: Cached blocks that waiting requests would use.
        """
        idle = not running
        long_running = self.count_coming(running)
        pinned = self._retention.pinned
        if pinned.blocks and (idle or ordered[0].must):
            pinned.unpin_for(self.coming + ordered[0].total_blocks + 1)
        free = self._cache.free - self.coming
        decisions = admit(
            ordered,
            free_blocks=free,
            spare_blocks=free - self._retention.kept.blocks - hit_blocks,
            long_blocks=self._long_blocks,
            long_running=long_running,
            idle=idle,
        )
        held = {info.request.request_id for info, may in zip(ordered, decisions, strict=True) if not may}
        self.count += len(held - self.ids)
        self.ids = held

    def count_coming(self, running: Sequence[int]) -> bool:
        """Count the blocks that running prompts still need; return whether one of them is long."""
        self.coming, long_running = 0, False
        for left in running:
            if left > 1:
                self.coming += -(-left // self._cache.block_size)
                long_running = long_running or left > self._long_tokens
        return long_running
