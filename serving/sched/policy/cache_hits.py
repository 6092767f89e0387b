"""How much of each waiting prompt is cached, asked now and then, and how much of that several prompts share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from agentinfer_lg.serving.sched.policy.cached_context import PrefixCache, common_length
from agentinfer_lg.serving.sched.policy.request_info import RequestInfo

_LOOKS = 8
"""Waiting requests for which the cache is asked again in each plan, besides new ones."""
_BEGINNINGS = 1024
"""Different beginnings of prompts that are remembered."""


class CacheHits:
    """What the cache holds of waiting prompts."""

    def __init__(self, cache: PrefixCache) -> None:
        """Look into a cache.

        Args:
            cache: The cache.
        """
        self._cache = cache
        self._plans = 0
        self._distinct = 0
        self._counted = -1  # waiting requests of which they were counted; -1: to be counted again
        self._beginnings: dict[Any, Any] = {}  # by the hash of its first block, who began so first

    def look(self, waiting: Sequence[RequestInfo]) -> None:
        """Ask the cache about new requests, the first ones, and some of the others in turn."""
        self._plans += 1
        least = sorted(info.looked for info in waiting)[: _LOOKS + 1][-1]
        looks = _LOOKS if self._cache.simple else 1
        for position, info in enumerate(waiting):
            if info.looked < 0 or position < 2 or (looks > 0 and info.looked <= least):
                looks -= info.looked >= 0 and position >= 2
                self._look_up(info)

    def distinct(self, waiting: Sequence[RequestInfo]) -> int:
        """Count the cached blocks that waiting requests would use; what sessions have in common counts once."""
        if self._counted != len(waiting):
            self._distinct, self._counted = _distinct_hits(waiting), len(waiting)
        return self._distinct

    def changed(self) -> None:
        """Count again: a request has ended, and the cache holds something else."""
        self._counted = -1

    def _look_up(self, info: RequestInfo) -> None:
        hit = self._cache.hit_blocks(info.request)
        total = -(-info.request.num_tokens // self._cache.block_size)
        if info.looked < 0 or hit != info.hit_blocks or total != info.total_blocks:
            info.hit_blocks, info.total_blocks, info.need_blocks = hit, total, total - hit
            info.common_blocks = self._common_blocks(info)
            info.score = math.nan
            self.changed()
        info.looked = self._plans

    def _common_blocks(self, info: RequestInfo) -> int:
        """Of the cached blocks of a prompt, those that it has in common with the first one that began alike."""
        hashes = info.request.block_hashes
        if not info.hit_blocks:
            return 0
        if len(self._beginnings) > _BEGINNINGS:
            self._beginnings.clear()
        first = self._beginnings.setdefault(hashes[0], hashes)
        return common_length(hashes, first, info.hit_blocks)


def _distinct_hits(waiting: Sequence[RequestInfo]) -> int:
    """Of a session only one request counts: the others would use the same blocks."""
    own: dict[Any, int] = {}
    common: dict[Any, int] = {}
    for info in waiting:
        if info.hit_blocks:
            own[info.session or info] = info.hit_blocks - info.common_blocks
            beginning = info.request.block_hashes[0]
            common[beginning] = max(common.get(beginning, 0), info.common_blocks)
    return sum(own.values()) + sum(common.values())
