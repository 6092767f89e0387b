"""What may start: whatever waits, and however much of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.serving.sched.policy.admission import admit, wait_bound

LONG = 50


@dataclass(frozen=True)
class Waiting:
    need_blocks: int
    hit_blocks: int = 0
    must: bool = False


def admitted(claims: list[Waiting], **room: object) -> list[bool]:
    values: dict[str, object] = {
        "free_blocks": 100,
        "spare_blocks": 100,
        "long_blocks": LONG,
        "long_running": False,
        "idle": False,
    }
    return admit(claims, **(values | room))  # type: ignore[arg-type]


CLAIMS = st.lists(st.builds(Waiting, st.integers(0, 120), st.integers(0, 120), st.booleans()), max_size=12)
ROOM = {
    "free": st.integers(-20, 200),
    "spare": st.integers(-200, 200),
    "long_running": st.booleans(),
}


class TestAdmit:
    def test_all_that_fit_start(self) -> None:
        assert admitted([Waiting(30), Waiting(30), Waiting(30)]) == [True] * 3

    def test_what_would_evict_a_kept_context_waits_and_a_smaller_one_may_pass(self) -> None:
        assert admitted([Waiting(40), Waiting(10)], spare_blocks=20) == [False, True]

    def test_a_context_that_was_kept_for_a_request_is_let_in_without_spare_room(self) -> None:
        assert admitted([Waiting(10, hit_blocks=60)], spare_blocks=0) == [True]
        assert admitted([Waiting(40, hit_blocks=30)], spare_blocks=0) == [False]

    def test_who_must_takes_what_is_kept(self) -> None:
        assert admitted([Waiting(40, must=True)], spare_blocks=-10) == [True]

    def test_who_must_and_does_not_fit_is_not_overtaken(self) -> None:
        claims = [Waiting(5), Waiting(99, must=True), Waiting(1), Waiting(1, hit_blocks=1)]
        assert admitted(claims) == [True, False, False, False]

    def test_one_long_prompt_at_a_time_and_short_ones_beside_it(self) -> None:
        claims = [Waiting(LONG), Waiting(LONG), Waiting(LONG - 1), Waiting(3)]
        room = {"free_blocks": 1000, "spare_blocks": 1000}
        assert admitted(claims, **room) == [True, False, True, True]
        assert admitted(claims, **room, long_running=True) == [False, False, True, True]

    def test_an_idle_engine_starts_the_first_one_only_whatever_is_kept(self) -> None:
        claims = [Waiting(400), Waiting(400)]
        assert admitted(claims, spare_blocks=-50, idle=True) == [True, False]

    @given(claims=CLAIMS, **ROOM)
    def test_the_rules_hold(self, claims: list[Waiting], free: int, spare: int, long_running: bool) -> None:
        room = {"free_blocks": free, "spare_blocks": spare, "long_running": long_running}
        decisions = admitted(claims, **room)
        assert len(decisions) == len(claims)
        started = [claim for claim, may in zip(claims, decisions, strict=True) if may]
        # what is free is never given out twice
        assert not started or sum(claim.need_blocks + claim.hit_blocks for claim in started) <= free
        # kept contexts give way only to those that must, or that were what a context was kept for
        left = spare
        for claim in started:
            assert claim.must or claim.need_blocks <= claim.hit_blocks or claim.need_blocks <= left
            left -= claim.need_blocks
        # one long prompt at a time
        assert sum(claim.need_blocks >= LONG for claim in started) <= (0 if long_running else 1)
        # nobody overtakes one that must and does not fit
        taken = 0
        for number, (claim, may) in enumerate(zip(claims, decisions, strict=True)):
            total = claim.need_blocks + claim.hit_blocks
            if claim.must and total > free - taken:
                assert not any(decisions[number:])
            taken += total if may else 0

    @given(claims=CLAIMS.filter(bool), free=ROOM["free"], spare=ROOM["spare"])
    def test_an_idle_engine_is_never_left_idle(self, claims: list[Waiting], free: int, spare: int) -> None:
        decisions = admitted(claims, free_blocks=free, spare_blocks=spare, idle=True)
        assert decisions[0]

    @given(claims=CLAIMS, more=st.integers(0, 100), **ROOM)
    def test_more_spare_room_never_holds_back_the_first_one(
        self, claims: list[Waiting], free: int, spare: int, long_running: bool, more: int
    ) -> None:
        less = admitted(claims, free_blocks=free, spare_blocks=spare, long_running=long_running)
        room = admitted(claims, free_blocks=free + more, spare_blocks=spare + more, long_running=long_running)
        assert room[:1] >= less[:1]

    def test_nothing_waits(self) -> None:
        assert admitted([], idle=True) == []


class TestWaitBound:
    def bound(self, **changes: float) -> float:
        values = {
            "max_wait_seconds": 20.0,
            "round_share": 1.0,
            "context_tokens": 500_000,
            "cache_tokens": 100_000,
            "tokens_per_second": 1000.0,
        }
        return wait_bound(**(values | changes))  # type: ignore[arg-type]

    def test_is_the_operators_while_all_contexts_fit(self) -> None:
        assert self.bound(context_tokens=100_000) == 20.0
        assert self.bound(context_tokens=0) == 20.0

    def test_is_the_operators_while_the_speed_is_unknown(self) -> None:
        assert self.bound(tokens_per_second=0.0) == 20.0

    def test_is_the_operators_if_he_says_so(self) -> None:
        assert self.bound(round_share=0.0) == 20.0

    def test_is_a_share_of_a_round_where_the_cache_is_far_too_small(self) -> None:
        assert self.bound() == pytest.approx(500.0)
        assert self.bound(round_share=0.5) == pytest.approx(250.0)

    @given(
        st.integers(0, 10_000_000), st.integers(0, 10_000_000), st.integers(1, 1_000_000), st.floats(1, 1e6)
    )
    def test_grows_with_the_load_without_a_jump_and_never_falls_below_the_operators(
        self, one: int, other: int, cache: int, speed: float
    ) -> None:
        few, many = sorted((one, other))
        values = {"cache_tokens": cache, "tokens_per_second": speed}
        assert 20.0 <= self.bound(context_tokens=few, **values) <= self.bound(context_tokens=many, **values)
        more = self.bound(context_tokens=few + 1, **values)
        assert more - self.bound(context_tokens=few, **values) <= 5.0 / speed + 1e-6
