"""When sessions come back, and what their contexts are worth until then."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.serving.sched.policy.retention import (
    GapModel,
    IdleContext,
    RetentionSettings,
    keep_seconds,
    recompute_tokens,
    worth,
)

SETTINGS = RetentionSettings()
GAPS = st.floats(0, 300)
CLOSE = 0.06
"""The model never expects a session in less than a twentieth of a second."""


def model() -> GapModel:
    return GapModel(default_seconds=10.0, max_seconds=300.0)


class TestGapModel:
    def test_nothing_known_the_default_holds_until_it_has_passed(self) -> None:
        gaps = model()
        assert gaps.remaining("think", elapsed=0.0) == pytest.approx(10.0, abs=CLOSE)
        assert gaps.remaining("think", elapsed=8.0) == pytest.approx(2.0, abs=CLOSE)
        assert gaps.remaining("think", elapsed=25.0) == pytest.approx(25.0)

    def test_nothing_known_a_hint_is_believed(self) -> None:
        assert model().remaining("think", elapsed=1.0, hint=4.0) == pytest.approx(3.0, abs=CLOSE)
        assert model().remaining("think", elapsed=0.0, hint=0.0) <= CLOSE

    def test_gaps_are_learned_per_role(self) -> None:
        gaps = model()
        for _ in range(20):
            gaps.observe("think", 2.0)
            gaps.observe("plan", 50.0)
        assert gaps.remaining("think", elapsed=0.0) == pytest.approx(2.0, abs=CLOSE)
        assert gaps.remaining("plan", elapsed=0.0) == pytest.approx(50.0, abs=CLOSE)
        assert gaps.remaining("qa", elapsed=0.0) == pytest.approx(10.0, abs=CLOSE)

    def test_what_is_learned_corrects_a_hint_and_those_near_it_only(self) -> None:
        gaps = model()
        for _ in range(20):
            gaps.observe("think", 30.0, hint=5.0)
        assert gaps.remaining("think", elapsed=0.0, hint=5.0) == pytest.approx(30.0, abs=CLOSE)
        assert gaps.remaining("think", elapsed=0.0, hint=4.5) == pytest.approx(30.0, abs=CLOSE)
        assert gaps.remaining("think", elapsed=0.0, hint=60.0) == pytest.approx(60.0, abs=CLOSE)
        assert gaps.remaining("think", elapsed=0.0) == pytest.approx(10.0, abs=CLOSE)

    def test_a_few_gaps_teach_nothing_yet(self) -> None:
        gaps = model()
        for _ in range(3):
            gaps.observe("think", 100.0)
        assert gaps.remaining("think", elapsed=0.0) == pytest.approx(10.0, abs=CLOSE)
        gaps.observe("think", 100.0)
        assert gaps.remaining("think", elapsed=0.0) == pytest.approx(100.0, abs=CLOSE)

    def test_old_gaps_are_forgotten(self) -> None:
        gaps = model()
        for _ in range(1000):
            gaps.observe("think", 100.0)
        for _ in range(200):
            gaps.observe("think", 1.0)
        assert gaps.remaining("think", elapsed=0.0) == pytest.approx(1.0, abs=CLOSE)
        assert gaps.remaining("think", elapsed=2.0) == pytest.approx(2.0)  # nobody was away for longer

    def test_where_most_never_come_back_none_is_expected(self) -> None:
        gaps = model()
        for number in range(30):
            gaps.observe("write", 1.0 if number % 3 == 0 else math.inf)
        assert gaps.remaining("write", elapsed=0.0) == math.inf

    def test_where_some_never_come_back_those_are_given_up_after_a_while(self) -> None:
        gaps = model()
        for number in range(30):
            gaps.observe("think", math.inf if number % 3 == 0 else 1.0 + 0.1 * number)
        assert gaps.remaining("think", elapsed=0.0) < 5.0
        assert gaps.remaining("think", elapsed=10.0) == math.inf

    def test_an_absence_that_is_too_long_counts_as_never(self) -> None:
        gaps = model()
        for _ in range(10):
            gaps.observe("think", 301.0)
        assert gaps.remaining("think", elapsed=0.0) == math.inf

    def test_of_two_kinds_of_tools_the_fast_one_has_ended_when_the_wait_is_long(self) -> None:
        gaps = model()
        for number in range(40):
            gaps.observe("think", 1.0 if number % 4 else 40.0)
        assert gaps.remaining("think", elapsed=0.0) == pytest.approx(1.0, abs=CLOSE)
        assert gaps.remaining("think", elapsed=5.0) == pytest.approx(35.0, abs=CLOSE)

    @given(st.lists(GAPS, min_size=4, max_size=200), st.floats(0, 400))
    def test_is_the_median_of_what_is_left_of_longer_gaps(self, seen: list[float], elapsed: float) -> None:
        gaps = model()
        for gap in seen:
            gaps.observe("think", gap)
        longer = sorted(gap - elapsed for gap in seen[-128:] if gap > elapsed)
        found = gaps.remaining("think", elapsed=elapsed)
        if longer:
            assert longer[(len(longer) - 1) // 2] <= found <= longer[len(longer) // 2] + CLOSE
        else:
            assert found == max(elapsed, 0.05)

    @given(GAPS, st.floats(0, 600), st.floats(0, 600))
    def test_falls_until_the_gap_is_over_and_grows_afterwards(
        self, gap: float, one: float, other: float
    ) -> None:
        gaps = model()
        for _ in range(10):
            gaps.observe("think", gap)
        early, late = sorted((one, other))
        before, after = (gaps.remaining("think", elapsed=elapsed) for elapsed in (early, late))
        if late < gap:
            assert after <= before
        elif early >= gap:
            assert after >= before

    @given(st.lists(st.floats(0, 1e9), max_size=50), st.floats(0, 1e9), st.none() | st.floats(0, 1e9))
    def test_is_always_some_time(self, seen: list[float], elapsed: float, hint: float | None) -> None:
        gaps = model()
        for gap in seen:
            gaps.observe("think", gap, hint=hint)
        assert gaps.remaining("think", elapsed=elapsed, hint=hint) > 0.0

    def test_a_clock_that_goes_back_is_no_error(self) -> None:
        gaps = model()
        for _ in range(5):
            gaps.observe("think", -3.0)
        assert gaps.remaining("think", elapsed=-1.0) > 0.0


class TestWorth:
    TOKENS = st.integers(1, 1_000_000)
    SECONDS = st.floats(0, 1e6)

    @given(TOKENS, SECONDS, SECONDS)
    def test_who_returns_sooner_is_worth_more(self, tokens: int, one: float, other: float) -> None:
        soon, late = sorted((one, other))
        assert self.worth(tokens, soon) >= self.worth(tokens, late)

    @given(TOKENS, TOKENS, SECONDS)
    def test_a_token_of_a_long_context_is_worth_more(self, one: int, other: int, seconds: float) -> None:
        short, long = sorted((one, other))
        assert self.worth(long, seconds) >= self.worth(short, seconds)

    def test_nothing_cached_or_never_back_is_worth_nothing(self) -> None:
        assert self.worth(0, 1.0) == 0.0
        assert self.worth(1000, math.inf) == 0.0

    @staticmethod
    def worth(tokens: int, seconds: float) -> float:
        return worth(IdleContext(tokens=tokens, remaining_seconds=seconds), SETTINGS)

    @given(TOKENS, TOKENS)
    def test_computing_two_contexts_is_cheaper_than_one_of_both_lengths(self, one: int, other: int) -> None:
        together = recompute_tokens(one + other, SETTINGS)
        assert together >= recompute_tokens(one, SETTINGS) + recompute_tokens(other, SETTINGS)
        assert recompute_tokens(one, SETTINGS) >= one

    def test_at_the_stated_length_attention_costs_as_much_as_the_rest(self) -> None:
        settings = RetentionSettings(attention_tokens=1000)
        step = recompute_tokens(1001, settings) - recompute_tokens(1000, settings)  # of the next token
        assert step == pytest.approx(2.0, rel=1e-3)


class TestKeepSeconds:
    @given(st.integers(0, 1_000_000), st.floats(0, 1), st.floats(0, 1))
    def test_dear_memory_is_kept_for_less_time(self, tokens: int, one: float, other: float) -> None:
        cheap, dear = sorted((one, other))
        keep = keep_seconds(tokens, price=dear, settings=SETTINGS)
        assert 0.0 <= keep <= keep_seconds(tokens, price=cheap, settings=SETTINGS) < math.inf

    @given(st.integers(1, 1_000_000), st.integers(1, 1_000_000), st.floats(0, 1))
    def test_a_long_context_is_kept_for_longer(self, one: int, other: int, price: float) -> None:
        short, long = sorted((one, other))
        assert keep_seconds(long, price=price, settings=SETTINGS) >= keep_seconds(
            short, price=price, settings=SETTINGS
        )

    def test_a_short_one_at_the_highest_price_for_the_horizon(self) -> None:
        settings = RetentionSettings(horizon_seconds=42.0)
        assert keep_seconds(16, price=1.0, settings=settings) == pytest.approx(42.0, rel=0.01)
