"""The score against the formula of the paper, and at both ends of the price."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.serving.sched.policy.score import ScoreWeights, request_score

BLOCK = 16
WEIGHTS = st.builds(ScoreWeights, hit=st.floats(0, 10), need=st.floats(0, 10), wait=st.floats(0, 10))
PROMPTS = st.integers(1, 8192).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))
"""Blocks of a prompt, and how many of them are cached."""


def algorithm_3(
    a: float, b: float, c: float, lam: float, lam_max: float, hit: int, need: int, tokens: int, wait: float
) -> float:
    """Score of a request as the paper writes it."""
    sjf_mix = 1 - lam / lam_max
    if sjf_mix < 0:
        sjf_mix = 0
    if sjf_mix > 1:
        sjf_mix = 1
    need_eff = sjf_mix * tokens / BLOCK + (1 - sjf_mix) * need
    return a * hit - (b + lam) * need_eff + c * wait


def score(
    total: int, hit: int, *, price: float, weights: ScoreWeights, wait: float = 0.0, largest: float = 4.0
) -> float:
    return request_score(
        hit_blocks=hit,
        need_blocks=total - hit,
        prompt_blocks=total,
        wait_seconds=wait,
        price=price,
        max_price=largest,
        weights=weights,
    )


@given(PROMPTS, WEIGHTS, st.floats(0, 20), st.floats(0.01, 10), st.floats(0, 1e5))
def test_is_that_of_algorithm_3(
    prompt: tuple[int, int], weights: ScoreWeights, price: float, largest: float, wait: float
) -> None:
    total, hit = prompt
    expected = algorithm_3(
        weights.hit, weights.need, weights.wait, price, largest, hit, total - hit, total * BLOCK, wait
    )
    found = score(total, hit, price=price, weights=weights, wait=wait, largest=largest)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(st.lists(PROMPTS, min_size=2, max_size=20))
def test_without_pressure_the_shortest_prompt_goes_first_whatever_is_cached(
    prompts: list[tuple[int, int]],
) -> None:
    weights = ScoreWeights(hit=0.0, wait=0.0)
    ordered = sorted(prompts, key=lambda prompt: -score(*prompt, price=0.0, weights=weights))
    assert [total for total, _ in ordered] == sorted(total for total, _ in prompts)


@given(st.lists(PROMPTS, min_size=2, max_size=20))
def test_at_the_largest_price_only_new_blocks_count(prompts: list[tuple[int, int]]) -> None:
    weights = ScoreWeights(hit=0.0, wait=0.0)
    ordered = sorted(prompts, key=lambda prompt: -score(*prompt, price=4.0, weights=weights))
    assert [total - hit for total, hit in ordered] == sorted(total - hit for total, hit in prompts)


@given(PROMPTS, PROMPTS, st.floats(0, 4))
def test_a_cached_prompt_beats_a_longer_one_with_as_much_or_less_cached(
    one: tuple[int, int], other: tuple[int, int], price: float
) -> None:
    (total, hit), (longer, less) = one, other
    less = min(less, hit)
    if longer > total:
        weights = ScoreWeights()
        assert score(total, hit, price=price, weights=weights) > score(
            longer, less, price=price, weights=weights
        )


@given(PROMPTS, PROMPTS, st.floats(0, 4))
def test_who_waits_overtakes_everyone_in_the_end(
    one: tuple[int, int], other: tuple[int, int], price: float
) -> None:
    weights = ScoreWeights()
    behind = score(*other, price=price, weights=weights) - score(*one, price=price, weights=weights)
    wait = max(0.0, behind) / weights.wait + 1.0
    assert score(*one, price=price, weights=weights, wait=wait) > score(*other, price=price, weights=weights)


def test_a_longer_cached_prompt_overtakes_a_shorter_new_one_as_the_price_rises() -> None:
    cached, new = (100, 99), (40, 0)
    weights = ScoreWeights()
    first = [
        score(*cached, price=price, weights=weights) > score(*new, price=price, weights=weights)
        for price in (0.0, 1.0, 2.0, 3.0, 4.0)
    ]
    assert not first[0]
    assert first[-1]
    assert first == sorted(first)
