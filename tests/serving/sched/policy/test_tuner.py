"""The self-tuned price: in which direction it goes, and how far."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.serving.sched.policy.price import PriceSettings
from agentinfer_lg.serving.sched.policy.tuner import PriceTuner

START = PriceSettings(max_price=4.0, gain=4.0)
WIDEST = 4.0


def adjusted(
    tuner: PriceTuner, *, now: float = 0.0, times: int = 1, hit: int = 1000, wait_share: float = 0.0
) -> PriceSettings:
    """Let some time pass in which requests found `hit` of 1000 tokens and waited for `wait_share` of the bound."""
    tuner.adjust(now=now)
    for _ in range(times):
        tuner.observe_start(known=1000, hit=hit, wait_share=wait_share)
        now += 1000.0
        tuner.adjust(now=now)
    return tuner.settings


def test_contexts_that_are_computed_again_make_memory_dearer() -> None:
    assert adjusted(PriceTuner(START), hit=100).max_price > START.max_price


def test_long_waits_make_it_cheaper() -> None:
    assert adjusted(PriceTuner(START), wait_share=0.9).max_price < START.max_price


def test_when_both_or_neither_happen_it_stays() -> None:
    assert adjusted(PriceTuner(START)).max_price == START.max_price
    assert adjusted(PriceTuner(START), hit=100, wait_share=0.9).max_price == START.max_price


def test_a_price_that_turns_often_gets_a_smaller_gain() -> None:
    tuner = PriceTuner(START)
    for step in range(20):
        tuner.observe_price(float(step % 2))
    assert adjusted(tuner).gain < START.gain


def test_a_price_that_only_rises_and_rests_has_not_turned() -> None:
    tuner = PriceTuner(START)
    for step in range(20):
        tuner.observe_price(float(step // 3))
    assert adjusted(tuner).gain >= START.gain


@pytest.mark.parametrize("load", [{"hit": 0}, {"wait_share": 1.0}])
def test_stays_within_its_range_and_comes_back(load: dict[str, float]) -> None:
    tuner = PriceTuner(START)
    far = adjusted(tuner, times=100, **load)  # type: ignore[arg-type]
    assert far.max_price in (START.max_price * WIDEST, START.max_price / WIDEST)
    other = {"wait_share": 1.0} if "hit" in load else {"hit": 0}
    assert adjusted(tuner, now=1e6, times=100, **other).max_price != far.max_price  # type: ignore[arg-type]


@given(
    st.builds(PriceSettings, max_price=st.floats(0.01, 100), gain=st.floats(0.01, 100)),
    st.lists(
        st.tuples(
            st.integers(0, 10_000),
            st.integers(0, 10_000),
            st.floats(0, 5),
            st.floats(0, 100),
            st.lists(st.floats(0, 4), max_size=10),
        ),
        max_size=60,
    ),
)
def test_nothing_takes_it_out_of_its_range(
    start: PriceSettings, course: list[tuple[int, int, float, float, list[float]]]
) -> None:
    tuner = PriceTuner(start)
    now = 0.0
    for known, hit, wait_share, seconds, prices in course:
        for price in prices:
            tuner.observe_price(price)
        tuner.observe_start(known=known, hit=hit, wait_share=wait_share)
        now += seconds
        before = tuner.settings
        settings = tuner.adjust(now=now)
        assert settings is tuner.settings
        for value, first in ((settings.max_price, start.max_price), (settings.gain, start.gain)):
            assert first / WIDEST * 0.9999 <= value <= first * WIDEST * 1.0001
        assert settings.max_price / before.max_price == pytest.approx(1.0, abs=0.26)
        assert settings.proportional == start.proportional


def test_does_not_hurry() -> None:
    tuner = PriceTuner(START)
    tuner.adjust(now=0.0)
    for step in range(100):
        tuner.observe_start(known=100, hit=0, wait_share=0.0)
        tuner.adjust(now=0.1 * step)
    assert tuner.settings == START


def test_without_requests_nothing_is_learned() -> None:
    tuner = PriceTuner(START)
    for now in range(0, 10_000, 100):
        tuner.adjust(now=float(now))
    assert tuner.settings == START
