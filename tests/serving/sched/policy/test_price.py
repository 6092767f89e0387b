"""The shadow price: where it belongs, and how it gets there."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.evals.sched.overhead.price import SquareWave, default_settings, respond
from agentinfer_lg.serving.sched.policy.price import Pressure, PriceSettings, ShadowPrice, price_at

SETTLES_SECONDS = 5.0
"""Time in which the price follows a jump of the load, with the default settings; steps that are longer count once more."""
CAPACITY = 10_000
SETTINGS = st.builds(
    PriceSettings,
    max_price=st.floats(0.1, 20),
    gain=st.floats(0.1, 50),
    proportional=st.floats(0, 3),
    integral=st.floats(0, 2),
    smoothing=st.floats(0.01, 1),
    hysteresis=st.floats(0, 0.3),
)
RATIOS = st.floats(0, 100)


def pressure(ratio: float) -> Pressure:
    return Pressure(free=CAPACITY, hit=0, need=round(ratio * CAPACITY))


class TestPressure:
    def test_is_demand_over_what_is_free_and_will_not_be_used_as_it_is(self) -> None:
        found = Pressure(free=100, hit=20, need=40)
        assert found.capacity == 80
        assert found.ratio == pytest.approx(0.5)

    def test_without_room_is_huge_but_a_number(self) -> None:
        assert 1e5 < Pressure(free=10, hit=30, need=1).ratio < math.inf
        assert Pressure(free=0, hit=0, need=0).ratio == 0.0

    @given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
    def test_grows_with_demand_and_hits_and_falls_with_room(
        self, free: int, hit: int, need: int, more: int
    ) -> None:
        ratio = Pressure(free=free, hit=hit, need=need).ratio
        assert Pressure(free=free, hit=hit, need=need + more).ratio >= ratio
        assert Pressure(free=free, hit=hit + more, need=need).ratio >= ratio
        assert Pressure(free=free + more, hit=hit, need=need).ratio <= ratio


class TestPriceOfASteadyPressure:
    @given(RATIOS, RATIOS, SETTINGS)
    def test_is_monotone_and_within_its_range(
        self, one: float, other: float, settings: PriceSettings
    ) -> None:
        low, high = price_at(min(one, other), settings), price_at(max(one, other), settings)
        assert 0.0 <= low <= high <= settings.max_price

    @given(SETTINGS)
    def test_is_half_of_the_largest_where_demand_equals_capacity(self, settings: PriceSettings) -> None:
        assert price_at(1.0, settings) == pytest.approx(settings.max_price / 2)

    def test_is_that_of_the_paper(self) -> None:
        settings = PriceSettings(max_price=3.0, gain=2.0)
        for ratio in (0.0, 0.4, 1.0, 1.7, 3.0):
            assert price_at(ratio, settings) == pytest.approx(3.0 / (1.0 + math.exp(-2.0 * (ratio - 1.0))))

    def test_any_pressure_has_one(self) -> None:
        settings = PriceSettings()
        assert price_at(1e12, settings) == pytest.approx(settings.max_price)
        assert 0 < price_at(0.0, settings) < 0.1 * settings.max_price


class TestShadowPrice:
    @given(SETTINGS, st.lists(st.tuples(RATIOS, st.floats(0, 30)), max_size=60))
    def test_stays_within_its_range_and_never_goes_past_its_target(
        self, settings: PriceSettings, course: list[tuple[float, float]]
    ) -> None:
        price = ShadowPrice(settings)
        now = 0.0
        for ratio, seconds in course:
            now += seconds
            before = price.value
            highest, lowest = max(before, price.target), min(before, price.target)
            wanted = price_at(pressure(ratio).ratio, settings)
            value = price.update(pressure(ratio), now=now)
            assert value == price.value
            assert 0.0 <= value <= settings.max_price
            assert min(lowest, wanted) - 1e-9 <= value <= max(highest, wanted) + 1e-9

    @given(st.floats(0, 5), st.floats(0, 5))
    def test_a_higher_pressure_makes_no_lower_price(self, one: float, other: float) -> None:
        prices = []
        for ratio in sorted((one, other)):
            price = ShadowPrice(default_settings())
            prices.append([price.update(pressure(ratio), now=0.02 * step) for step in range(1000)])
        slack = 2 * default_settings().hysteresis * default_settings().max_price
        assert all(low <= high + slack for low, high in zip(*prices, strict=True))
        assert prices[0][-1] <= prices[1][-1] + slack

    def test_a_dead_band_keeps_it_from_trembling(self) -> None:
        settings = default_settings()
        rng = random.Random(1)
        for level in (0.3, 2.5):
            price = ShadowPrice(settings)
            values = [
                price.update(pressure(level * rng.uniform(0.8, 1.2)), now=0.02 * step)
                for step in range(10_000)
            ]
            moves = [after > before for before, after in pairwise(values) if after != before]
            assert len(set(moves)) == 1
            assert len(moves) < 20

    def test_does_not_depend_on_how_long_steps_take(self) -> None:
        ends = []
        for step_seconds in (0.01, 0.05, 0.25):
            price = ShadowPrice(default_settings())
            for step in range(round(3.0 / step_seconds) + 1):
                price.update(pressure(2.0), now=100.0 + step * step_seconds)
            ends.append(price.value)
        assert ends == pytest.approx([ends[0]] * len(ends), abs=0.05 * default_settings().max_price)

    def test_after_a_long_pause_it_is_where_it_belongs(self) -> None:
        price = ShadowPrice(default_settings())
        price.update(pressure(3.0), now=0.0)
        assert price.update(pressure(3.0), now=1e6) == pytest.approx(4.0, abs=0.25)
        assert price.update(pressure(0.0), now=2e6) == pytest.approx(0.0, abs=0.35)

    def test_a_clock_that_stands_still_or_goes_back_changes_nothing(self) -> None:
        price = ShadowPrice(default_settings())
        price.update(pressure(3.0), now=50.0)
        value = price.update(pressure(3.0), now=51.0)
        assert price.update(pressure(3.0), now=51.0) == value
        assert price.update(pressure(0.0), now=10.0) == value

    @given(st.floats(0.01, 20), st.floats(0.01, 20))
    def test_other_settings_never_leave_it_above_the_largest(self, first: float, second: float) -> None:
        price = ShadowPrice(PriceSettings(max_price=first))
        price.update(pressure(5.0), now=0.0)
        price.update(pressure(5.0), now=100.0)
        price.settings = PriceSettings(max_price=second)
        assert 0.0 <= price.value <= second
        assert price.update(pressure(5.0), now=100.01) <= second


class TestSquareWave:
    """A load that jumps up and down: the price follows each jump in one move, and then stands still."""

    @pytest.mark.parametrize("step_seconds", [0.01, 0.05, 0.2, 0.7, 2.0])
    @pytest.mark.parametrize("period", [20.0, 60.0])
    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.3), (0.3, 2.5), (0.8, 1.2), (0.0, 50.0)])
    def test_does_not_oscillate(self, period: float, low: float, high: float, step_seconds: float) -> None:
        wave = SquareWave(period=period, low=low, high=high, step_seconds=step_seconds, periods=4)
        response = respond(wave)
        edges = response.edges
        assert len(edges) == 7
        settings = default_settings()
        band = settings.hysteresis * settings.max_price + 1e-9
        for number, edge in enumerate(edges):
            assert edge.turns == 0
            assert edge.seconds <= SETTLES_SECONDS + step_seconds
            wanted = price_at(high if number % 2 == 0 else low, settings)
            assert edge.settled_at == pytest.approx(wanted, abs=band)
        values = response.prices
        directions = [after > before for before, after in pairwise(values) if after != before]
        assert sum(one != other for one, other in pairwise(directions)) <= len(edges)

    @pytest.mark.parametrize("period", [1.0, 2.0, 4.0])
    def test_faster_than_it_can_follow_turns_at_most_once_per_edge(self, period: float) -> None:
        response = respond(SquareWave(period=period, low=0.2, high=3.0, periods=20))
        directions = [after > before for before, after in pairwise(response.prices) if after != before]
        assert sum(one != other for one, other in pairwise(directions)) <= len(response.edges)
        settings = default_settings()
        assert max(response.prices) <= price_at(3.0, settings)
        assert all(edge.turns <= 1 for edge in response.edges)

    @given(
        SETTINGS,
        st.floats(0, 3),
        st.floats(0, 3),
        st.sampled_from([0.01, 0.1, 0.5, 2.0]),
        st.sampled_from([10.0, 30.0]),
    )
    def test_no_setting_makes_it_oscillate(
        self, settings: PriceSettings, low: float, high: float, step_seconds: float, period: float
    ) -> None:
        wave = SquareWave(period=period, low=low, high=high, step_seconds=step_seconds, periods=2)
        assert all(edge.turns <= 1 for edge in respond(wave, settings).edges)
