"""How much prefill a step may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.serving.sched.policy.step_limit import prefill_limit


@pytest.mark.parametrize(("speed", "seconds"), [(0.0, 1.0), (1000.0, 0.0), (0.0, 0.0)])
def test_there_is_none_while_the_speed_is_unknown_or_where_it_is_switched_off(
    speed: float, seconds: float
) -> None:
    assert prefill_limit(tokens_per_second=speed, step_seconds=seconds, least=256) is None


@pytest.mark.parametrize(
    ("speed", "seconds", "limit"), [(1000.0, 0.5, 500), (140.0, 1.0, 256), (20_000.0, 1.0, 20_000)]
)
def test_is_what_fits_into_the_time_but_never_less_than_a_step_is_worth(
    speed: float, seconds: float, limit: int
) -> None:
    assert prefill_limit(tokens_per_second=speed, step_seconds=seconds, least=256) == limit


@given(st.floats(0.1, 1e6), st.floats(0.001, 100), st.integers(1, 4096))
def test_grows_with_speed_and_with_time(speed: float, seconds: float, least: int) -> None:
    def limit(speed: float, seconds: float) -> int:
        return prefill_limit(tokens_per_second=speed, step_seconds=seconds, least=least) or 0

    assert least <= limit(speed, seconds) <= limit(2 * speed, seconds)
    assert limit(speed, seconds) <= limit(speed, 2 * seconds)
