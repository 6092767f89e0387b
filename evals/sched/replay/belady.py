"""How many prompt tokens a prefix cache could have served at best, for the order and the concurrency that a replay had.

What vLLM does is compared with the optimum that knows the future (Belady 1966: evict what is needed again last). Both run over
the calls of a replay in the order of their admission. Blocks of a running call cannot be evicted between its admission and its
end, and a block only counts as a hit if all blocks before it are hits as well.

Blocks that are always used by the same calls are handled together: calls form a radix tree, whose nodes are such runs of blocks.
A node is never needed later than those below it, so that both policies evict from the ends of contexts and nothing is ever cached
without its prefix; therefore Belady's rule is optimal here too, and its result is a bound for every policy that admits calls at
the same times. A policy that admits them at other times can do better.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

IdArray = npt.NDArray[np.int64]
NEVER = 1 << 60


class AdmittedCall(Protocol):
    """What is needed of a call; `simulation.CallRecord` has it."""

    session: str
    one_shot: bool
    prompt_tokens: int
    known_tokens: int
    admitted: float
    finished: float
    block_ids: Any  # Any: IdArray


@dataclass(frozen=True, slots=True, kw_only=True)
class HitRates:
    """Shares of all prompt tokens, from 0 to 1."""

    lru: float
    """With the block evicted that was not used for the longest time, as vLLM does it."""
    belady: float
    """With the best evictions."""
    unlimited: float
    """With a cache that holds everything."""


def hit_rates(calls: Sequence[AdmittedCall], *, blocks: int, block_size: int) -> HitRates:
    """Return the hit rates of a cache.

    Args:
        calls: In the order of admission.
        blocks: Blocks of the cache.
        block_size: Tokens per block.
    """
    total = max(1, sum(call.prompt_tokens for call in calls))

    def rate(policy: Literal["lru", "belady"], size: int | None) -> float:
        return float(hit_tokens(calls, blocks=size, block_size=block_size, policy=policy).sum()) / total

    return HitRates(lru=rate("lru", blocks), belady=rate("belady", blocks), unlimited=rate("lru", None))


def hit_tokens(
    calls: Sequence[AdmittedCall], *, blocks: int | None, block_size: int, policy: Literal["lru", "belady"]
) -> IdArray:
    """Return for each call how many of its prompt's tokens the cache serves, shape (calls,).

    Args:
        calls: In the order of admission.
        blocks: Blocks of the cache; None: as many as it takes.
        block_size: Tokens per block.
        policy: Which block is evicted.
    """
    tree = _Tree()
    prompts = [np.asarray(call.block_ids, dtype=np.int64) for call in calls]
    contexts = _contexts(calls, prompts, block_size)
    # the last token is always computed, so the last block of a prompt that fills its blocks is never a hit
    useful = [
        ids[: max(0, call.prompt_tokens - 1) // block_size] for ids, call in zip(prompts, calls, strict=True)
    ]
    for ids in (*useful, *prompts, *contexts):
        tree.insert(ids)
    paths = [tree.path(ids) for ids in prompts]
    for index, ids in enumerate(useful):
        for node in tree.path(ids):
            node.uses.append(index)
    added = [tree.path(context)[len(path) :] for context, path in zip(contexts, paths, strict=True)]
    cache = _Cache(blocks, policy)
    hits = np.zeros(len(calls), dtype=np.int64)
    for index, admission in _events(calls):
        if admission:
            hits[index] = min(cache.admit(paths[index]), len(useful[index])) * block_size
        else:
            cache.finish(paths[index], added[index])
    return hits


def _contexts(calls: Sequence[AdmittedCall], prompts: Sequence[IdArray], block_size: int) -> list[IdArray]:
    """Return for each call its prompt's blocks and those of its output that the session's next call has again."""
    contexts = list(prompts)
    latest: dict[str, int] = {}
    for index, call in enumerate(calls):
        if call.one_shot:
            continue
        before = latest.get(call.session)
        latest[call.session] = index
        if before is None:
            continue
        known = prompts[index][: call.known_tokens // block_size]
        length = len(prompts[before])
        if len(known) > length and np.array_equal(known[:length], prompts[before]):
            contexts[before] = known
    return contexts


def _events(calls: Sequence[AdmittedCall]) -> Iterable[tuple[int, bool]]:
    """Yield ends (False) and admissions (True) in the order of time; what ends makes room for what begins then."""
    events = [(call.finished, 0, index) for index, call in enumerate(calls)]
    events += [(call.admitted, 1, index) for index, call in enumerate(calls)]
    for _, kind, index in sorted(events):
        yield index, kind == 1


@dataclass(slots=True, eq=False)
class _Node:
    """A run of blocks that the same calls use."""

    ids: IdArray
    depth: int = 0
    """Blocks before it."""
    children: dict[int, _Node] = field(default_factory=dict)
    uses: list[int] = field(default_factory=list)
    """Calls whose prompt contains it."""
    holders: int = 0
    """Running calls that use it."""
    cached: int = 0
    """Its first blocks that are in the cache."""
    rank: int = 0
    """When it may be evicted: the lowest first."""


class _Tree:
    """Radix tree of block ids."""

    def __init__(self) -> None:
        self._root = _Node(np.empty(0, dtype=np.int64))

    def insert(self, ids: IdArray) -> None:
        """Make sure that nodes end where `ids` does."""
        node, at = self._root, 0
        while at < len(ids):
            child = node.children.get(int(ids[at]))
            if child is None:
                node.children[int(ids[at])] = _Node(ids[at:], at)
                return
            same = _common(child.ids, ids[at:])
            if same < len(child.ids):
                self._split(node, child, same)
                child = node.children[int(ids[at])]
            node, at = child, at + same

    def path(self, ids: IdArray) -> list[_Node]:
        """Return the nodes of ids that were inserted before."""
        node, at = self._root, 0
        path: list[_Node] = []
        while at < len(ids):
            node = node.children[int(ids[at])]
            path.append(node)
            at += len(node.ids)
        return path

    @staticmethod
    def _split(parent: _Node, child: _Node, length: int) -> None:
        upper = _Node(child.ids[:length], child.depth)
        child.ids = child.ids[length:]
        child.depth += length
        upper.children[int(child.ids[0])] = child
        parent.children[int(upper.ids[0])] = upper


class _Cache:
    """A cache of blocks, by nodes."""

    def __init__(self, blocks: int | None, policy: Literal["lru", "belady"]) -> None:
        self._blocks = blocks
        self._policy = policy
        self._stored = 0
        self._releases = 0
        self._admitted = -1
        self._evictable: list[tuple[int, int, int, _Node]] = []
        self._pushed = 0

    def admit(self, path: Sequence[_Node]) -> int:
        """Hold a call's blocks, store the missing ones, and return how many were there from the beginning."""
        self._admitted += 1
        hits, whole = 0, True
        for node in path:
            node.holders += 1
            if whole:
                hits += node.cached
                whole = node.cached == len(node.ids)
        self._store(path)
        return hits

    def finish(self, path: Sequence[_Node], added: Sequence[_Node]) -> None:
        """Store the blocks of a call's output and let go of all its blocks."""
        for node in added:
            node.holders += 1
        self._store(added)
        self._releases += 1
        for node in (*path, *added):
            node.holders -= 1
            if not node.holders:
                self._offer(node)

    def _offer(self, node: _Node) -> None:
        """Let a node that nobody holds be evicted."""
        if self._policy == "lru":
            node.rank = self._releases
        else:
            later = bisect_right(node.uses, self._admitted)
            node.rank = -(node.uses[later] if later < len(node.uses) else NEVER)
        self._pushed += 1
        heapq.heappush(self._evictable, (node.rank, -node.depth, self._pushed, node))

    def _store(self, path: Sequence[_Node]) -> None:
        missing = sum(len(node.ids) - node.cached for node in path)
        if self._blocks is not None:
            self._evict(self._stored + missing - self._blocks)
        self._stored += missing
        for node in path:
            node.cached = len(node.ids)

    def _evict(self, count: int) -> None:
        """Evict blocks from the ends of nodes; if too many are held, fewer are evicted than were asked for."""
        while count > 0 and self._evictable:
            rank, _, _, node = self._evictable[0]
            if node.holders or not node.cached or rank != node.rank:
                heapq.heappop(self._evictable)
                continue
            gone = min(count, node.cached)
            node.cached -= gone
            self._stored -= gone
            count -= gone


def _common(one: IdArray, other: IdArray) -> int:
    """Return the length of the common beginning."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length
