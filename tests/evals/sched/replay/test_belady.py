from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.evals.sched.replay.belady import IdArray, hit_rates, hit_tokens

SIZE = 4


@dataclass(slots=True)
class _Call:
    session: str
    block_ids: IdArray
    prompt_tokens: int
    admitted: float
    finished: float
    known_tokens: int = 0
    one_shot: bool = False


def _calls(prompts: Sequence[str], spans: Sequence[tuple[float, float]], tails: Sequence[int]) -> list[_Call]:
    """Calls whose prompts are made of letters, a block each; equal beginnings are equal blocks."""
    numbers: dict[str, int] = {}
    calls = [
        _Call(
            session=f"s{index}",
            block_ids=np.array(
                [numbers.setdefault(text[: end + 1], len(numbers)) for end in range(len(text))],
                dtype=np.int64,
            ),
            prompt_tokens=len(text) * SIZE + tail,
            admitted=span[0],
            finished=span[1],
        )
        for index, (text, span, tail) in enumerate(zip(prompts, spans, tails, strict=True))
    ]
    return sorted(calls, key=lambda call: call.admitted)


@st.composite
def _workloads(draw: st.DrawFn, *, most: int, longest: int) -> list[_Call]:
    prompts = draw(st.lists(st.text("ab", min_size=1, max_size=longest), min_size=1, max_size=most))
    times = draw(st.permutations(range(2 * len(prompts))))
    spans = [(float(min(pair)), float(max(pair))) for pair in zip(times[::2], times[1::2], strict=True)]
    tails = draw(st.lists(st.integers(0, SIZE - 1), min_size=len(prompts), max_size=len(prompts)))
    return _calls(prompts, spans, tails)


def _held_most(calls: Sequence[_Call]) -> int:
    """Most blocks that are held at one time."""
    return max(
        len(
            {
                block
                for other in calls
                if other.admitted <= call.admitted < other.finished
                for block in other.block_ids.tolist()
            }
        )
        for call in calls
    )


def _events(calls: Sequence[_Call]) -> list[tuple[float, int, bool]]:
    return sorted(
        [(call.finished, index, False) for index, call in enumerate(calls)]
        + [(call.admitted, index, True) for index, call in enumerate(calls)]
    )


def _hits(call: _Call, cached: frozenset[int] | set[int]) -> int:
    hits = 0
    for block in call.block_ids.tolist():
        if block not in cached:
            break
        hits += 1
    return min(hits, (call.prompt_tokens - 1) // SIZE)


def _useful(call: _Call) -> list[int]:
    """Blocks that can be hits: the last token is always computed."""
    ids: list[int] = call.block_ids[: (call.prompt_tokens - 1) // SIZE].tolist()
    return ids


def _by_blocks(calls: Sequence[_Call], blocks: int, policy: Literal["lru", "belady"]) -> list[int]:
    """The same, block by block."""
    cached: set[int] = set()
    held: list[int] = []
    freed: dict[int, tuple[int, int]] = {}
    hits = [0] * len(calls)
    for number, (_, index, admission) in enumerate(_events(calls)):
        ids = calls[index].block_ids.tolist()
        if not admission:
            for block in ids:
                held.remove(block)
            for depth, block in enumerate(ids):
                freed[block] = (number, -depth)
            continue
        hits[index] = _hits(calls[index], cached) * SIZE
        held.extend(ids)
        later = calls[index + 1 :]

        def next_use(block: int, later: Sequence[_Call] = later) -> int:
            return next((at for at, call in enumerate(later) if block in _useful(call)), 1 << 30)

        missing = [block for block in ids if block not in cached]
        while len(cached) + len(missing) > blocks:
            idle = [block for block in cached if block not in held]
            victim = min(
                idle,
                key=lambda block: freed[block] if policy == "lru" else (-next_use(block), freed[block][1]),
            )
            cached.remove(victim)
        cached.update(missing)
    return hits


def _best(calls: Sequence[_Call], blocks: int) -> int:
    """The most hits of all ways to evict, by trying them."""
    events = _events(calls)

    @cache
    def best(at: int, cached: frozenset[int]) -> int:
        if at == len(events):
            return 0
        time, index, admission = events[at]
        if not admission:
            return best(at + 1, cached)
        ids = frozenset(calls[index].block_ids.tolist())
        held = {
            block
            for call in calls
            if call.admitted < time < call.finished
            for block in call.block_ids.tolist()
        }
        gained = _hits(calls[index], cached) * SIZE
        full = cached | ids
        spare = len(full) - blocks
        if spare <= 0:
            return gained + best(at + 1, full)
        idle = sorted(full - ids - held)
        return gained + max(best(at + 1, full - gone) for gone in _subsets(idle, spare))

    return best(0, frozenset())


def _subsets(items: Sequence[int], size: int) -> list[frozenset[int]]:
    if size == 0:
        return [frozenset()]
    if len(items) < size:
        return []
    rest = _subsets(items[1:], size)
    return [subset | {items[0]} for subset in _subsets(items[1:], size - 1)] + rest


@settings(deadline=None)
@given(_workloads(most=9, longest=5), st.integers(0, 4))
def test_nodes_give_what_blocks_give(calls: list[_Call], spare: int) -> None:
    blocks = _held_most(calls) + spare

    assert hit_tokens(calls, blocks=blocks, block_size=SIZE, policy="lru").tolist() == _by_blocks(
        calls, blocks, "lru"
    )
    belady = hit_tokens(calls, blocks=blocks, block_size=SIZE, policy="belady")
    assert belady.sum() == sum(_by_blocks(calls, blocks, "belady"))


@settings(max_examples=150, deadline=None)
@given(_workloads(most=6, longest=3), st.integers(0, 2))
def test_no_way_to_evict_is_better_than_the_bound(calls: list[_Call], spare: int) -> None:
    blocks = _held_most(calls) + spare

    bound = hit_tokens(calls, blocks=blocks, block_size=SIZE, policy="belady").sum()

    assert bound == _best(calls, blocks)


@settings(deadline=None)
@given(_workloads(most=9, longest=5), st.integers(1, 12))
def test_order_of_the_rates(calls: list[_Call], blocks: int) -> None:
    rates = hit_rates(calls, blocks=max(blocks, _held_most(calls)), block_size=SIZE)

    assert 0.0 <= rates.lru <= rates.belady + 1e-9
    assert rates.belady <= rates.unlimited + 1e-9
    assert rates.unlimited < 1.0


def test_the_future_is_worth_something() -> None:
    spans = [(float(time), time + 0.5) for time in range(8)]
    calls = _calls(["aaaa", "bbbb", "aabb", "abab", "aaaa", "bbbb", "bbaa", "aaaa"], spans, [1] * 8)

    rates = hit_rates(calls, blocks=6, block_size=SIZE)

    assert rates.lru < rates.belady < rates.unlimited


def test_output_that_the_next_prompt_contains_is_a_hit() -> None:
    first, second = _calls(["ab", "abba"], [(0.0, 1.0), (2.0, 3.0)], [1, 1])
    first.session = second.session = "s"
    second.known_tokens = 3 * SIZE

    assert hit_tokens([first, second], blocks=9, block_size=SIZE, policy="lru").tolist() == [0, 3 * SIZE]


def test_the_last_token_is_always_computed() -> None:
    calls = _calls(["abab", "abab"], [(0.0, 1.0), (2.0, 3.0)], [0, 0])

    assert hit_tokens(calls, blocks=9, block_size=SIZE, policy="lru").tolist() == [0, 3 * SIZE]


def test_more_held_than_there_is_room_for_loses_nothing_that_is_held() -> None:
    calls = _calls(["aaaa", "bbbb", "aaaa"], [(0.0, 9.0), (1.0, 8.0), (2.0, 7.0)], [1, 1, 1])

    assert hit_tokens(calls, blocks=4, block_size=SIZE, policy="belady").tolist() == [0, 0, 4 * SIZE]
