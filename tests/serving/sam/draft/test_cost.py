"""The measured price of verification, and the threshold that follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from agentinfer_lg.serving.sam.draft.cost import DraftRate, VerificationCost


def engine(requests: int, drafted: int, context: int, generator: np.random.Generator) -> float:
    """Step time of an engine that computes each token in 1 ms on top of 30 ms, plus 4 us per 1,000 tokens attended to."""
    attended = (requests + drafted) * context / requests
    return (0.03 + 0.001 * (requests + drafted) + 4e-6 * attended / 1000) * generator.normal(1, 0.05)


@pytest.mark.parametrize("requests", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("context", [200, 4000])
def test_cost_of_an_engine_is_found(requests: int, context: int) -> None:
    generator = np.random.default_rng(requests)
    cost = VerificationCost()
    for _ in range(600):
        drafted = int(generator.integers(0, 10)) * requests
        total = context * requests
        seconds = engine(requests, drafted, total, generator)
        cost.observe(seconds=seconds, requests=requests, drafted=drafted, context=total)
    true = requests * 0.001 / (0.03 + 0.001 * requests)
    assert cost.marginal(requests=requests, context=context * requests) == pytest.approx(true, rel=0.3)
    assert list(cost.measured()) == [requests]


def test_stalls_do_not_count() -> None:
    generator = np.random.default_rng(0)
    calm, stalled = VerificationCost(), VerificationCost()
    for number in range(400):
        drafted = int(generator.integers(0, 10))
        seconds = engine(1, drafted, 500, generator)
        calm.observe(seconds=seconds, requests=1, drafted=drafted, context=500)
        stalled.observe(seconds=seconds, requests=1, drafted=drafted, context=500)
        if number > 50 and number % 10 == 0:
            stalled.observe(seconds=2.0, requests=1, drafted=drafted, context=500)
    expected = calm.marginal(requests=1, context=500)
    assert stalled.marginal(requests=1, context=500) == pytest.approx(expected, rel=0.2)


def test_an_unknown_batch_is_priced_by_the_nearest_known_one() -> None:
    cost = VerificationCost()
    assert cost.marginal(requests=8, context=0) == pytest.approx(8 * cost.marginal(requests=1, context=0))
    for _ in range(100):
        cost.observe(seconds=0.01, requests=1, drafted=8, context=10)
        cost.observe(seconds=0.01, requests=1, drafted=0, context=10)
    cheap = cost.marginal(requests=1, context=10)
    assert cheap < 0.005, "eight more tokens took no time"
    assert cost.marginal(requests=4, context=40) <= 4 * cheap + 1e-9


def test_a_fixed_cost_stays() -> None:
    cost = VerificationCost(0.25)
    for _ in range(100):
        cost.observe(seconds=1.0, requests=1, drafted=4, context=10)
    assert cost.marginal(requests=32, context=10_000) == 0.25
    assert not any(cost.due_for_trial(requests=1) for _ in range(100))


def test_trials_become_seldom_but_never_end() -> None:
    cost = VerificationCost()
    trials = [number for number in range(1, 20_000) if cost.due_for_trial(requests=32)]
    assert trials[:4] == [8, 16, 32, 64]
    assert sum(number <= 4096 for number in trials) <= 10
    assert any(number > 10_000 for number in trials)


def test_odd_observations_are_harmless() -> None:
    cost = VerificationCost()
    for seconds, requests in ((0.0, 1), (-1.0, 1), (0.1, 0)):
        cost.observe(seconds=seconds, requests=requests, drafted=0, context=0)
    for _ in range(100):  # nothing varies: nothing can be learned about drafts
        cost.observe(seconds=0.1, requests=3, drafted=0, context=0)
    assert 0 < cost.marginal(requests=3, context=0) <= 4


def test_threshold_rises_with_the_cost() -> None:
    rate = DraftRate()
    rate.note(steps=1000, emitted=3700, drafted=6500)
    thresholds = [rate.threshold(cost) for cost in (0.01, 0.03, 0.1, 0.3, 1.0)]
    assert thresholds == sorted(thresholds)
    assert rate.threshold(0.03) == pytest.approx(0.03 * 3.7 / (1 + 0.03 * 6.5), rel=0.05)
