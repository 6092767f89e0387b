"""How fast prefill is, as measured while serving."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.serving.sched.policy.speed import PrefillSpeed


def run(speed: PrefillSpeed, steps: list[tuple[int, float]], *, now: float = 5.0) -> float:
    """Run steps of some tokens and seconds, and return when they ended."""
    for tokens, seconds in steps:
        speed.step_began(tokens, now)
        now += seconds
        speed.step_ended(now)
    return now


def test_is_unknown_at_first_and_stays_so_while_nothing_but_decode_happens() -> None:
    speed = PrefillSpeed()
    assert speed.tokens_per_second == 0.0
    speed.step_ended(1.0)
    run(speed, [(16, 0.02)] * 100)
    assert speed.tokens_per_second == 0.0


def test_steps_that_are_mostly_decode_do_not_lower_it() -> None:
    speed = PrefillSpeed()
    run(speed, [(2000, 1.0), (0, 1.0), (50, 1.0), (2000, 1.0)])
    assert speed.tokens_per_second == pytest.approx(2000.0)


def test_is_tokens_over_time_not_the_mean_of_speeds() -> None:
    speed = PrefillSpeed()
    run(speed, [(1000, 1.0), (1000, 0.25)])
    assert speed.tokens_per_second == pytest.approx(1600.0, rel=0.02)


def test_follows_a_change() -> None:
    speed = PrefillSpeed()
    run(speed, [(2000, 1.0)] * 500)
    run(speed, [(2000, 4.0)] * 500)
    assert speed.tokens_per_second == pytest.approx(500.0, rel=0.05)


def test_time_between_steps_does_not_count_nor_does_a_step_twice() -> None:
    speed = PrefillSpeed()
    now = run(speed, [(2000, 1.0)])
    speed.step_ended(now + 100.0)
    run(speed, [(2000, 1.0)], now=now + 1000.0)
    assert speed.tokens_per_second == pytest.approx(2000.0)


def test_a_clock_that_stands_still_is_no_error() -> None:
    speed = PrefillSpeed()
    run(speed, [(2000, 0.0), (2000, -1.0)])
    assert speed.tokens_per_second == 0.0


@given(st.lists(st.tuples(st.integers(256, 500_000), st.floats(0.001, 100)), min_size=1, max_size=30))
def test_lies_between_the_slowest_and_the_fastest_step(steps: list[tuple[int, float]]) -> None:
    speed = PrefillSpeed()
    run(speed, steps)
    each = [tokens / seconds for tokens, seconds in steps]
    assert 0.99 * min(each) <= speed.tokens_per_second <= 1.01 * max(each)
