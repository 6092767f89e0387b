"""Contexts in vLLM's real block pool: moved, held and given up, with its books in order."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm")

from support.small_cache import SmallCache

from agentinfer_lg.serving.sched.policy.cached_context import CachedContext


@pytest.fixture(scope="module", autouse=True)
def _vllm() -> None:
    """Its dependencies warn of each other, which is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SmallCache()


@pytest.fixture
def small() -> SmallCache:
    return SmallCache()


class TestLooking:
    def test_finds_the_cached_beginning_and_changes_nothing(self, small: SmallCache) -> None:
        small.run("abcd")
        before = [block.block_id for block in small.pool.free_block_queue.get_all_free_blocks()]
        assert small.hit("abcd") == 4
        assert small.hit("abxy") == 2
        assert small.hit("abcdef") == 4
        assert small.hit("x") == 0
        after = [block.block_id for block in small.pool.free_block_queue.get_all_free_blocks()]
        assert after == before
        small.check()

    def test_finds_what_vllm_would_find(self, small: SmallCache) -> None:
        small.run("abcdefgh")
        small.evict(small.cache.total - 5)  # the end of it is gone
        for text in ("a", "abc", "abcdefgh", "abcdefghijk", "b"):
            request = small.request(text)
            assert small.cache.hit_blocks(request) == small.manager.get_computed_blocks(request)[1] // 4

    def test_a_context_is_what_a_request_holds_without_its_last_tokens(self, small: SmallCache) -> None:
        context = small.run("abc")
        assert len(context) == 3
        assert [block.block_hash for block in context.blocks] == context.hashes
        assert small.cache.free == small.cache.total == 20

    def test_the_front_is_what_is_taken_next(self, small: SmallCache) -> None:
        small.run("abc")
        small.run("xyz")
        front = [block.block_id for block in small.cache.front(15)]
        assert [block.block_id for block in small.take(15)] == front
        assert len(list(small.cache.front(100))) == 5
        assert list(small.cache.front(0)) == []


class TestShrinking:
    def test_forgets_what_was_evicted(self, small: SmallCache) -> None:
        context = small.run("abcdef")
        assert context.shrink() == 6
        small.evict(small.cache.total - 2)
        assert context.shrink() == len(context) == small.hit("abcdef") == 2
        small.evict(small.cache.total)
        assert context.shrink() == 0

    def test_parts_of_contexts(self, small: SmallCache) -> None:
        one, other = small.run("abcd"), small.run("abxy")
        assert one.beyond(other).hashes == one.hashes[2:]
        assert one.joined(other).hashes == [*one.hashes, *other.hashes[2:]]
        assert one.beyond(one).hashes == []
        assert CachedContext().joined(one).hashes == one.hashes


class TestRefreshing:
    def test_lets_it_outlive_what_is_newer(self, small: SmallCache) -> None:
        old = small.run("abcd")
        small.run("vwxyz")
        assert small.cache.refresh(old) == 4
        small.check()
        small.evict(small.cache.total - 4)
        assert small.hit("abcd") == 4
        assert small.hit("vwxyz") == 0

    def test_it_is_evicted_from_its_end(self, small: SmallCache) -> None:
        context = small.run("abcd")
        small.cache.refresh(context)
        small.evict(small.cache.total - 3)
        assert small.hit("abcd") == 3

    def test_leaves_blocks_in_use_alone(self, small: SmallCache) -> None:
        context = small.run("abcd")
        running = small.start("abxy")
        assert small.cache.refresh(context) == 2
        small.check(held=small.manager.get_blocks(running.request_id).blocks[0])
        small.finish(running)
        small.check()

    def test_of_nothing_is_nothing(self, small: SmallCache) -> None:
        context = small.run("abcd")
        small.evict(small.cache.total)
        assert small.cache.refresh(context) == 0
        assert small.cache.refresh(CachedContext()) == 0
        small.check()


class TestDemoting:
    def test_lets_it_be_evicted_first_from_its_end(self, small: SmallCache) -> None:
        small.run("old")
        context = small.run("abcd")
        assert small.cache.demote(context.blocks, context.hashes) == 4
        small.check()
        small.take(3)
        assert small.hit("abcd") == 1
        assert small.hit("old") == 3

    def test_leaves_alone_what_is_used_or_holds_something_else(self, small: SmallCache) -> None:
        context = small.run("abcd")
        running = small.start("ab")
        assert small.cache.demote(context.blocks, context.hashes) == 2
        small.finish(running)
        small.evict(small.cache.total)
        small.run("vwxyz")
        assert small.cache.demote(context.blocks, context.hashes) == 0
        assert small.hit("vwxyz") == 5
        small.check()


class TestPinning:
    def test_holds_it_against_everything_until_it_is_let_go(self, small: SmallCache) -> None:
        context = small.run("abcd")
        small.cache.pin(context)
        small.check(held=context.blocks)
        assert small.cache.free == 16
        small.evict(16)
        assert small.hit("abcd") == 4
        small.cache.unpin(context)
        small.check()
        small.evict(17)
        assert small.hit("abcd") == 3

    def test_two_that_share_a_beginning(self, small: SmallCache) -> None:
        one, other = small.run("abcd"), small.run("abxy")
        small.cache.pin(one)
        small.cache.pin(other)
        assert small.cache.free == 14
        small.cache.unpin(one)
        assert small.cache.free == 16
        small.check(held=other.blocks)
        small.cache.unpin(other)
        small.check()

    def test_beside_requests_that_use_it(self, small: SmallCache) -> None:
        context = small.run("abcd")
        small.cache.pin(context)
        running = small.start("abcdef")
        small.cache.unpin(context)
        assert small.cache.free == small.cache.total - 7
        small.finish(running)
        small.check()
        assert small.hit("abcdef") == 6

    def test_only_what_is_left_of_it_is_pinned(self, small: SmallCache) -> None:
        context = small.run("abcd")
        small.evict(18)
        small.cache.pin(context)
        assert small.cache.free == 18
        small.cache.unpin(context)
        small.check()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run", "start", "finish", "refresh", "demote", "pin", "unpin", "evict"]),
            st.text("ab", min_size=1, max_size=6),
            st.integers(0, 7),
        ),
        max_size=40,
    )
)
def test_whatever_is_done_the_books_are_right(steps: list[tuple[str, str, int]]) -> None:
    small = SmallCache()
    contexts = [small.run("abab")]
    pinned: list[CachedContext] = []
    running = []
    for action, text, number in steps:
        context = contexts[number % len(contexts)]
        match action:
            case "run" if small.cache.free > len(text):
                contexts.append(small.run(text))
            case "start" if small.cache.free > len(text):
                running.append(small.start(text))
            case "finish" if running:
                contexts.append(small.finish(running.pop(number % len(running))))
            case "refresh":
                small.cache.refresh(context)
            case "demote":
                others = {held for each in contexts if each is not context for held in each.hashes}
                alone = [
                    pair for pair in zip(context.blocks, context.hashes, strict=True) if pair[1] not in others
                ]
                small.cache.demote([block for block, _ in alone], [held for _, held in alone])
            case "pin" if context not in pinned:
                small.cache.pin(context)
                pinned.append(context)
            case "unpin" if pinned:
                small.cache.unpin(pinned.pop())
            case "evict" if small.cache.free:
                small.evict(min(number, small.cache.free))
        held = [block for each in pinned for block in each.blocks]
        for request in running:
            held += small.manager.get_blocks(request.request_id).blocks[0]
        small.check(held=held)
        counts = Counter(block.block_id for block in held)
        assert all(block.ref_cnt == counts[block.block_id] for block in held)
        request = small.request(text)
        assert small.cache.hit_blocks(request) == small.manager.get_computed_blocks(request)[1] // 4
    for request in running:
        small.finish(request)
    for context in pinned:
        small.cache.unpin(context)
    small.check()
    assert small.manager.reset_prefix_cache()
