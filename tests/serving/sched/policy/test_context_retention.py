"""Which contexts are kept in vLLM's real block pool, and that they are."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm")

from support.small_cache import SmallCache

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.policy.cached_context import CachedContext
from agentinfer_lg.serving.sched.policy.context_retention import ContextRetention
from agentinfer_lg.serving.sched.policy.retention import GapModel, RetentionSettings
from agentinfer_lg.serving.sched.policy.session import Session
from agentinfer_lg.serving.sched.policy.sessions import SessionTable

KEEP_SECONDS = 30.0


@pytest.fixture(scope="module", autouse=True)
def _vllm() -> None:
    """Its dependencies warn of each other, which is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SmallCache()


class Engine:
    """Sessions in a small cache, and a retention."""

    def __init__(self, *, blocks: int = 20, pin_share: float = 0.0, reserve_share: float = 0.0) -> None:
        self.small = SmallCache(blocks=blocks)
        self.now = 100.0
        gaps = GapModel(default_seconds=10.0, max_seconds=300.0)
        self.sessions = SessionTable(gaps, max_gap_seconds=300.0)
        self.retention = ContextRetention(
            self.small.cache,
            self.sessions,
            gaps,
            RetentionSettings(horizon_seconds=KEEP_SECONDS),
            reserve_share=reserve_share,
            pin_share=pin_share,
        )

        self.given_up = 0

    def turn(self, name: str, text: str, *, gap: float | None = None, **hints: object) -> Session:
        """A request of a session from its beginning to its end; the next one is expected after `gap` seconds."""
        given = SessionHints(session_id=name, tool_seconds=gap, **hints)  # type: ignore[arg-type]
        request = self.small.start(text)
        tokens = request.num_tokens
        session = self.sessions.begin(given, request.block_hashes, tokens=tokens, now=self.now)
        assert session is not None
        context = self.small.finish(request)
        dead = self.sessions.end(session, given, context, request.block_hashes, tokens=tokens, now=self.now)
        self.given_up = self.retention.give_up(dead)
        self.retention.changed(session, price=1.0, now=self.now)
        return session

    def value(self, *, price: float = 1.0) -> None:
        self.retention.value_all(price=price, now=self.now)

    def allocate(self, blocks: int) -> None:
        """As in a step: what is kept is moved out of the way, then blocks are taken, and given back empty."""
        self.retention.protect(blocks)
        self.small.evict(blocks)
        self.small.check()


class TestKeeping:
    def test_a_kept_context_survives_allocations_while_there_are_others(self) -> None:
        engine = Engine()
        engine.turn("kept", "abcde", gap=5.0)
        for text in ("123", "456", "789"):
            engine.small.run(text)
        engine.value()
        assert engine.retention.kept.blocks == 5
        for _ in range(20):
            engine.allocate(6)
            engine.small.run("xyz")
        assert engine.small.hit("abcde") == 5
        assert engine.retention.refreshes > 0

    def test_it_would_not_without_protection(self) -> None:
        engine = Engine()
        engine.turn("kept", "abcde", gap=5.0)
        for text in ("123", "456", "789"):
            engine.small.run(text)
            engine.small.evict(6)
        engine.small.evict(15)
        assert engine.small.hit("abcde") == 0

    def test_who_returns_too_late_for_the_price_is_not_kept(self) -> None:
        engine = Engine()
        engine.turn("late", "abcde", gap=200.0)
        engine.value(price=1.0)
        assert engine.retention.kept.blocks == 0
        engine.now += 3.0
        engine.value(price=0.1)
        assert engine.retention.kept.blocks == 5

    def test_who_is_overdue_for_long_is_not_kept_any_more(self) -> None:
        engine = Engine()
        engine.turn("gone", "abcde", gap=5.0)
        engine.value()
        assert engine.retention.kept.blocks == 5
        engine.now += 2 * KEEP_SECONDS
        engine.value()
        assert engine.retention.kept.blocks == 0

    def test_a_session_with_a_request_is_not_idle(self) -> None:
        engine = Engine()
        session = engine.turn("busy", "abcde", gap=5.0)
        session.live += 1
        engine.retention.changed(session, price=1.0, now=engine.now)
        assert engine.retention.kept.blocks == 0
        engine.value()
        assert engine.retention.kept.blocks == 0

    def test_what_sessions_share_counts_once(self) -> None:
        engine = Engine()
        for name in "pqrs":
            engine.turn(name, f"abcd{name}", gap=5.0)
        engine.value()
        assert engine.retention.kept.blocks == 8
        engine.allocate(12)
        assert [engine.small.hit(f"abcd{name}") for name in "pqrs"] == [5] * 4

    def test_where_not_all_can_be_kept_those_that_return_first_are(self) -> None:
        engine = Engine()
        engine.turn("soon", "abcdef", gap=1.0)
        engine.turn("late", "mnopqr", gap=20.0)
        engine.value()
        engine.allocate(14)
        assert engine.small.hit("abcdef") == 6
        assert engine.small.hit("mnopqr") < 6

    def test_the_reserve_is_never_kept(self) -> None:
        engine = Engine(reserve_share=0.5)
        engine.turn("one", "abcdef", gap=1.0)
        engine.turn("two", "mnopqr", gap=2.0)
        engine.value()
        assert engine.retention.kept.blocks == 6

    def test_what_was_evicted_nevertheless_is_not_counted(self) -> None:
        engine = Engine()
        engine.turn("kept", "abcde", gap=5.0)
        engine.small.evict(18)
        engine.now += 1.0
        engine.value()
        assert engine.retention.kept.blocks == 2

    def test_valuations_are_due_now_and_then_only(self) -> None:
        engine = Engine()
        engine.turn("one", "abc", gap=5.0)
        engine.value()
        engine.small.evict(20)
        engine.now += 0.1
        engine.value()
        assert engine.retention.kept.blocks == 3
        engine.now += 0.2
        engine.value()
        assert engine.retention.kept.blocks == 0

    @given(
        st.lists(
            st.tuples(
                st.sampled_from("pqrs"),
                st.text("ab", min_size=1, max_size=4),
                st.floats(0, 60),
                st.integers(0, 12),
                st.booleans(),
            ),
            max_size=25,
        )
    )
    def test_whatever_comes_the_books_are_right(self, turns: list[tuple[str, str, float, int, bool]]) -> None:
        engine = Engine(pin_share=0.5, reserve_share=0.1)
        for name, text, gap, blocks, pin in turns:
            known = [session for session in engine.sessions if session.key[1] == name]
            for session in known:
                engine.retention.pinned.unpin(session)
            if engine.small.cache.free > len(name + text):
                session = engine.turn(name, name + text, gap=gap, supersedes=bool(blocks % 2))
                if pin:
                    engine.retention.pin(session, price=1.0, now=engine.now)
            engine.now += 1.0
            engine.value()
            wanted = min(blocks, engine.small.cache.free)
            engine.retention.protect(wanted)
            engine.small.evict(wanted)
            held = {b.block_id: b for s in engine.sessions if s.pinned_until for b in s.context.blocks}
            engine.small.check(held=list(held.values()))
            assert engine.retention.pinned.blocks == len(held) <= 10
            assert engine.retention.kept.blocks <= 18
        engine.retention.pinned.unpin_all()
        engine.small.check()


class TestGivingUp:
    def test_a_superseded_context_is_evicted_first_beyond_the_common_beginning(self) -> None:
        engine = Engine()
        engine.small.run("xyz")
        engine.turn("s", "abcd", gap=5.0)
        engine.turn("s", "abmn", gap=5.0, supersedes=True)
        assert engine.retention.demotions == 1
        assert engine.given_up == 2
        engine.small.check()
        free = engine.small.cache.total - 9
        engine.small.take(free + 2)  # those that never held anything, and two
        assert engine.small.hit("xyz") == 3
        assert engine.small.hit("abmn") == 4
        assert engine.small.hit("abcd") == 2

    def test_what_other_sessions_share_is_not_demoted(self) -> None:
        engine = Engine()
        engine.turn("other", "abxy", gap=5.0)
        engine.turn("s", "abcd", gap=5.0)
        engine.turn("s", "mnop", gap=5.0, supersedes=True)
        assert engine.given_up == 2
        first = [block.block_hash for block in engine.small.cache.front(2)]
        assert None not in first
        engine.small.take(2)
        assert engine.small.hit("abcd") == 2
        assert engine.small.hit("abxy") == 4

    def test_of_nothing_is_none(self) -> None:
        engine = Engine()
        assert engine.retention.give_up(CachedContext()) == 0
        assert engine.retention.demotions == 0


class TestPinning:
    def test_holds_a_context_by_force_until_the_session_is_back(self) -> None:
        engine = Engine(pin_share=0.5)
        session = engine.turn("s", "abcde", gap=5.0)
        engine.retention.pin(session, price=1.0, now=engine.now)
        assert engine.retention.pinned.blocks == 5
        engine.small.evict(15)
        assert engine.small.hit("abcde") == 5
        engine.retention.pinned.unpin(session)
        assert engine.retention.pinned.blocks == 0
        engine.small.check()
        engine.retention.pinned.unpin(session)  # once more is no error
        engine.small.check()

    def test_no_more_than_its_share_of_the_cache(self) -> None:
        engine = Engine(pin_share=0.3)
        for name, text in (("one", "abcd"), ("two", "mnop")):
            engine.retention.pin(engine.turn(name, text, gap=5.0), price=1.0, now=engine.now)
        assert engine.retention.pinned.blocks == 4

    def test_without_a_share_nothing(self) -> None:
        engine = Engine()
        engine.retention.pin(engine.turn("s", "abc", gap=5.0), price=1.0, now=engine.now)
        assert engine.retention.pinned.blocks == 0
        engine.small.check()

    def test_who_returns_too_late_is_not_pinned(self) -> None:
        engine = Engine(pin_share=0.5)
        engine.retention.pin(engine.turn("s", "abc", gap=200.0), price=1.0, now=engine.now)
        assert engine.retention.pinned.blocks == 0

    def test_ends_when_the_session_stays_away(self) -> None:
        engine = Engine(pin_share=0.5)
        engine.retention.pin(engine.turn("s", "abc", gap=5.0), price=1.0, now=engine.now)
        engine.now += 6.0
        engine.value()
        assert engine.retention.pinned.blocks == 3
        engine.now += 10.0
        engine.value()
        assert engine.retention.pinned.blocks == 0
        engine.small.check()

    def test_yields_to_requests_the_one_expected_last_first(self) -> None:
        engine = Engine(pin_share=0.9)
        for name, text, gap in (("soon", "abcd", 1.0), ("late", "mnop", 20.0), ("mid", "vwxy", 8.0)):
            engine.retention.pin(engine.turn(name, text, gap=gap), price=1.0, now=engine.now)
        engine.retention.pinned.unpin_for(12)
        pinned = {session.key[1] for session in engine.sessions if session.pinned_until}
        assert pinned == {"soon", "mid"}
        engine.retention.pinned.unpin_all()
        engine.small.check()

    def test_shared_blocks_count_once(self) -> None:
        engine = Engine(pin_share=0.9)
        for name, text in (("one", "abcd"), ("two", "abxy")):
            engine.retention.pin(engine.turn(name, text, gap=5.0), price=1.0, now=engine.now)
        assert engine.retention.pinned.blocks == 6
        assert engine.small.cache.free == 14
