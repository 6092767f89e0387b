"""Which requests belong together, and what of a context nobody needs any more."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.policy.cached_context import CachedContext
from agentinfer_lg.serving.sched.policy.retention import GapModel
from agentinfer_lg.serving.sched.policy.session import Session
from agentinfer_lg.serving.sched.policy.sessions import SessionTable

MAX_GAP = 300.0
MOST = 4096


@dataclass(eq=False)
class Block:
    block_id: int
    block_hash: object


class Gaps(GapModel):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(default_seconds=10.0, max_seconds=MAX_GAP)
        self.seen: list[tuple[str, float, float | None]] = []

    def observe(self, kind: str, seconds: float, *, hint: float | None = None) -> None:
        self.seen.append((kind, seconds, hint))
        super().observe(kind, seconds, hint=hint)


class Engine:
    """A table, and a cache in which every hash has its block."""

    def __init__(self) -> None:
        self.gaps = Gaps()
        self.table = SessionTable(self.gaps, max_gap_seconds=MAX_GAP)
        self.now = 100.0
        self._blocks: dict[object, Block] = {}

    def context(self, text: str) -> CachedContext:
        hashes = chain(text)
        blocks = [self._blocks.setdefault(each, Block(len(self._blocks), each)) for each in hashes]
        return CachedContext(blocks, hashes)

    def block(self, text: str) -> Block:
        """The last block of a context."""
        found: Block = self.context(text).blocks[-1]
        return found

    def begin(self, prompt: str, **hints: object) -> Session | None:
        given = SessionHints(**hints)  # type: ignore[arg-type]
        return self.table.begin(given, chain(prompt), tokens=len(prompt), now=self.now)

    def end(self, session: Session, text: str, *, ran: bool = True, **hints: object) -> set[str]:
        """End a request that made `text` of its prompt, and return the contexts whose last block is given up."""
        given = SessionHints(**hints)  # type: ignore[arg-type]
        context = self.context(text) if ran else CachedContext()
        dead = self.table.end(session, given, context, chain(text), tokens=len(text), now=self.now)
        return {str(held) for held in dead.hashes}

    def turn(self, prompt: str, text: str, **hints: object) -> Session | None:
        """One request from its beginning to its end."""
        session = self.begin(prompt, **hints)
        if session is not None:
            self.end(session, text, **hints)
        return session


def chain(text: str) -> list[str]:
    """Hashes of blocks of one letter: each stands for all letters up to it."""
    return [text[: length + 1] for length in range(len(text))]


@pytest.fixture
def engine() -> Engine:
    return Engine()


class TestWithIds:
    def test_requests_with_one_id_are_one_session(self, engine: Engine) -> None:
        first = engine.turn("ab", "abc", session_id="s")
        assert engine.turn("abcd", "abcde", session_id="s") is first
        assert first is not None
        assert first.context.hashes == chain("abcde")
        assert len(engine.table) == 1

    def test_the_same_id_of_two_tenants_is_two_sessions(self, engine: Engine) -> None:
        ours = engine.turn("ab", "abc", session_id="s", tenant="us")
        theirs = engine.turn("ab", "abc", session_id="s", tenant="them")
        assert theirs is not ours
        assert ours is not None
        assert theirs is not None
        engine.end(engine.begin("abc", session_id="s", tenant="them", final=True), "abcd", final=True)  # type: ignore[arg-type]
        assert len(ours.context) == 3
        assert engine.begin("abc", session_id="s", tenant="us") is ours

    def test_a_tenant_and_an_id_are_not_glued_together(self, engine: Engine) -> None:
        one = engine.begin("a", session_id="bc", tenant="a")
        assert engine.begin("a", session_id="c", tenant="ab") is not one

    def test_no_id_is_that_of_a_session_without_one(self, engine: Engine) -> None:
        unnamed = engine.turn("ab", "abc")
        assert unnamed is not None
        assert unnamed.unnamed
        assert not engine.begin("ab", session_id="1").unnamed  # type: ignore[union-attr]

    def test_a_final_request_that_goes_on_ends_it_and_leaves_nothing(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s")
        session = engine.begin("abcd", session_id="s", final=True)
        assert session is not None
        assert engine.end(session, "abcde", session_id="s", final=True) == set(chain("abcde"))
        assert len(engine.table) == 0
        assert not engine.table.owners.has(engine.block("abcde"))
        again = engine.begin("ab", session_id="s")
        assert again is not session

    def test_a_final_session_gives_up_what_its_last_prompt_left_out_too(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s")
        session = engine.begin("abcd", session_id="s", final=True)
        assert session is not None
        assert engine.end(session, "abx", session_id="s", final=True) == {"a", "ab", "abx", "abc"}

    def test_a_one_shot_with_its_id_neither_ends_nor_extends_it(self, engine: Engine) -> None:
        session = engine.turn("ab", "abc", session_id="s")
        assert session is not None
        assert engine.begin("xyz", session_id="s", final=True) is None
        assert not session.live
        assert session.context.hashes == chain("abc")
        assert engine.begin("abcd", session_id="s") is session

    def test_a_one_shot_with_an_unknown_id_is_no_session(self, engine: Engine) -> None:
        assert engine.begin("xyz", session_id="s", final=True) is None
        assert len(engine.table) == 0

    def test_superseding_gives_up_what_is_beyond_the_common_beginning(self, engine: Engine) -> None:
        engine.turn("abc", "abcd", session_id="s")
        session = engine.begin("abx", session_id="s", supersedes=True)
        assert session is not None
        assert engine.end(session, "abxy", session_id="s", supersedes=True) == {"abc", "abcd"}
        assert session.context.hashes == chain("abxy")
        assert not engine.table.owners.has(engine.block("abcd"))
        assert list(engine.table.owners.of(engine.block("ab"))) == [session]

    def test_a_context_made_ahead_leaves_the_session_alone_until_it_takes_its_place(
        self, engine: Engine
    ) -> None:
        engine.turn("abc", "abcd", session_id="s")
        ahead = engine.turn("abx", "abxy", session_id="s", role="prewarm")
        assert ahead is not None
        assert ahead.ahead
        session = engine.turn("abcde", "abcdef", session_id="s")
        assert session is not None
        assert session is not ahead
        assert session.context.hashes == chain("abcdef")
        assert list(engine.table.owners.of(engine.block("abx"))) == [ahead]
        engine.now += 2.0
        engine.gaps.seen.clear()
        assert engine.begin("abxyz", session_id="s", supersedes=True) is session
        assert ("prewarm", 2.0, None) in engine.gaps.seen
        assert ahead not in engine.table
        dead = engine.end(session, "abxyz", session_id="s", supersedes=True)
        assert dead == {"abc", "abcd", "abcde", "abcdef"}
        assert list(engine.table.owners.of(engine.block("abxy"))) == [session]

    def test_another_prompt_that_does_not_supersede_gives_up_nothing(self, engine: Engine) -> None:
        engine.turn("abc", "abcd", session_id="s")
        session = engine.begin("abx", session_id="s")
        assert session is not None
        assert engine.end(session, "abxy", session_id="s") == set()

    def test_a_request_that_never_ran_leaves_the_context(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s")
        for hints in ({}, {"supersedes": True}, {"final": True}):
            session = engine.begin("abcd", session_id="s", **hints)
            assert session is not None
            assert engine.end(session, "abcd", ran=False, session_id="s", **hints) == set()
            assert session.context.hashes == chain("abc")
            assert list(engine.table.owners.of(engine.block("abc"))) == [session]
            assert session.idle

    def test_one_that_left_nothing_in_the_cache_is_not_idle(self, engine: Engine) -> None:
        session = engine.begin("ab", session_id="s")
        assert session is not None
        engine.end(session, "ab", ran=False, session_id="s")
        assert len(engine.table) == 1
        assert not session.idle

    def test_while_two_requests_of_it_run_it_is_not_idle(self, engine: Engine) -> None:
        session = engine.begin("ab", session_id="s")
        assert engine.begin("ab", session_id="s") is session
        assert session is not None
        engine.end(session, "abc", session_id="s")
        assert not session.idle
        engine.end(session, "abd", session_id="s")
        assert session.idle


class TestWithoutIds:
    def test_a_prompt_that_extends_what_was_left_goes_on_with_it(self, engine: Engine) -> None:
        session = engine.turn("ab", "abc")
        assert engine.turn("abcd", "abcde") is session
        assert engine.begin("abcdef") is session

    def test_one_that_shares_only_the_beginning_is_another(self, engine: Engine) -> None:
        session = engine.turn("ab", "abc")
        other = engine.begin("abx")
        assert other is not session
        assert engine.begin("ab") not in (session, other)

    def test_of_two_it_extends_it_goes_on_with_the_longer(self, engine: Engine) -> None:
        short = engine.turn("a", "ab")
        long = engine.turn("xyz", "xyzxyz")
        longer = engine.turn("abc", "abcd")  # goes on with the first
        assert longer is short
        assert engine.begin("abcde") is short
        assert engine.begin("xyzxyz1") is long

    def test_a_final_one_that_extends_nothing_is_no_session(self, engine: Engine) -> None:
        assert engine.begin("ab", final=True) is None
        assert len(engine.table) == 0

    def test_a_final_one_that_goes_on_ends_it(self, engine: Engine) -> None:
        engine.turn("ab", "abc")
        session = engine.begin("abcd", final=True)
        assert session is not None
        assert engine.end(session, "abcde", final=True) == set(chain("abcde"))
        assert len(engine.table) == 0
        assert engine.begin("abcdef") is not session

    def test_two_tenants_with_the_same_text_never_meet(self, engine: Engine) -> None:
        ours = engine.turn("ab", "abc", tenant="us")
        theirs = engine.turn("ab", "abc", tenant="them")
        assert ours is not theirs
        assert engine.begin("abcd", tenant="us") is ours
        assert engine.begin("abcd", tenant="them") is theirs

    def test_does_not_go_on_with_one_that_has_an_id(self, engine: Engine) -> None:
        named = engine.turn("ab", "abc", session_id="s")
        assert engine.begin("abcd") is not named


class TestGaps:
    def test_a_return_is_learned_with_what_the_last_request_was_for(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s", role="plan", tool_seconds=4.0)
        engine.now += 7.0
        engine.turn("abcd", "abcde", session_id="s", role="write")
        assert engine.gaps.seen == [("plan", 7.0, 4.0)]

    def test_a_request_beside_another_is_no_return(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s")
        engine.begin("abcd", session_id="s")
        engine.now += 5.0
        engine.begin("abcd", session_id="s")
        assert len(engine.gaps.seen) == 1

    def test_who_does_not_come_back_is_learned_once(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s", role="plan")
        engine.table.expire(now=engine.now + MAX_GAP - 1.0)
        assert engine.gaps.seen == []
        for seconds in (MAX_GAP, MAX_GAP + 1.0):
            engine.table.expire(now=engine.now + seconds)
        assert engine.gaps.seen == [("plan", math.inf, None)]
        engine.now += 2 * MAX_GAP
        engine.begin("abcd", session_id="s")
        assert engine.gaps.seen == [("plan", math.inf, None)]

    def test_who_has_a_request_is_not_away(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s")
        engine.now += 1.0
        engine.begin("abcd", session_id="s")
        engine.gaps.seen.clear()
        engine.turn("xy", "xyz", session_id="t")
        engine.table.expire(now=engine.now + 10 * MAX_GAP)
        assert len(engine.gaps.seen) == 1

    def test_an_ended_session_does_not_count_as_one_that_stays_away(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s")
        engine.turn("abcd", "abcde", session_id="s", final=True)
        engine.gaps.seen.clear()
        engine.table.expire(now=engine.now + 10 * MAX_GAP)
        assert engine.gaps.seen == []


class TestTokens:
    def test_are_those_of_sessions_that_are_here_or_expected_back(self, engine: Engine) -> None:
        engine.turn("a", "ab", session_id="s")
        engine.turn("ab", "abc", session_id="s")
        engine.begin("vwxyz", session_id="t")
        assert engine.table.tokens(now=engine.now) == 8
        assert engine.table.tokens(now=engine.now + MAX_GAP + 1.0) == 5

    def test_of_sessions_that_never_came_back_count_only_while_they_are_here(self, engine: Engine) -> None:
        for number in range(3):
            engine.turn("ab", "abc", session_id=f"stream-{number}")
        assert engine.table.tokens(now=engine.now) == 0

    def test_of_requests_without_an_id_count_only_while_they_are_here(self, engine: Engine) -> None:
        session = engine.begin("ab")
        assert engine.table.tokens(now=engine.now) == 2
        assert session is not None
        engine.end(session, "abc")
        assert engine.table.tokens(now=engine.now) == 0

    def test_follow_a_context_that_got_shorter(self, engine: Engine) -> None:
        engine.turn("abcdef", "abcdefg", session_id="s")
        engine.turn("abx", "abxy", session_id="s", supersedes=True)
        assert engine.table.tokens(now=engine.now) == 4


class TestOwners:
    def test_a_shared_block_has_all_of_them(self, engine: Engine) -> None:
        one = engine.turn("ab", "abc", session_id="one")
        two = engine.turn("ab", "abd", session_id="two")
        assert set(engine.table.owners.of(engine.block("ab"))) == {one, two}
        assert list(engine.table.owners.of(engine.block("abd"))) == [two]

    def test_a_block_that_holds_something_else_now_has_none(self, engine: Engine) -> None:
        engine.turn("ab", "abc", session_id="s")
        engine.block("abc").block_hash = "another"
        assert engine.table.owners.has(engine.context("ab").blocks[-1])
        block = engine.context("abc").blocks[-1]
        assert block.block_hash == "another"
        assert not engine.table.owners.has(block)

    def test_a_dropped_context_owns_nothing(self, engine: Engine) -> None:
        session = engine.turn("ab", "abc", session_id="s")
        assert session is not None
        engine.table.drop_context(session)
        assert not engine.table.owners.has(engine.block("abc"))
        assert len(engine.table) == 0


class TestMemory:
    def test_a_bounded_number_is_remembered_the_latest_ones(self, engine: Engine) -> None:
        for number in range(MOST + 100):
            engine.now += 0.01
            engine.turn(f"a{number}", f"a{number}", session_id=str(number))
        assert len(engine.table) <= MOST
        ids = {session.key[1] for session in engine.table}
        assert str(MOST + 99) in ids
        assert "0" not in ids
        assert all(session.key[1] in ids for session in engine.table.owners.of(engine.block("a")))
        assert len(engine.table.owners.of(engine.block("a"))) <= MOST

    def test_one_that_runs_is_never_forgotten(self, engine: Engine) -> None:
        running = engine.begin("ab", session_id="running")
        for number in range(MOST + 10):
            engine.turn("a", "a", session_id=str(number))
        assert engine.begin("ab", session_id="running") is running

    def test_without_ids_too(self, engine: Engine) -> None:
        for number in range(MOST + 50):
            engine.turn(f"{number}-", f"{number}-a")
        assert len(engine.table) <= MOST


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["", "s", "t"]),
        st.sampled_from(["", "us"]),
        st.text("ab", min_size=1, max_size=4),
        st.text("ab", max_size=3),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(REQUESTS)
def test_whatever_happens_the_books_are_right(
    requests: list[tuple[str, str, str, str, bool, bool, bool, int]],
) -> None:
    """Requests begin and end in any order; owners are exactly the sessions whose context contains a block."""
    engine = Engine()
    live: list[tuple[Session, str, dict[str, object], bool]] = []
    for name, tenant, prompt, answer, final, supersedes, ran, later in requests:
        hints: dict[str, object] = {
            "session_id": name,
            "tenant": tenant,
            "final": final,
            "supersedes": supersedes,
        }
        session = engine.begin(prompt, **hints)
        if session is not None:
            assert session.key[0] == tenant
            assert session.key[1] == name or (not name and session.unnamed)
            live.append((session, prompt + answer, hints, ran))
        while len(live) > later:
            ended, text, given, has_run = live.pop(0)
            dead = engine.end(ended, text, ran=has_run, **given)
            assert not dead & set(ended.context.hashes)
            if not given["final"]:
                assert not dead & set(chain(text))
        for session in engine.table:
            assert session.live == sum(each is session for each, *_ in live)
        for length in range(1, 8):
            for block in engine.context("ab"[length % 2] * length).blocks:
                owners = set(engine.table.owners.of(block))
                assert owners == {each for each in engine.table if block in each.context.blocks}
