"""The marginal cost of a drafted token, and the proposer of junk."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.evals.sam.verification.junk import JunkProposer
from agentinfer_lg.evals.sam.verification.run import marginal_cost, step_gaps


@given(start=st.floats(1, 500), cost=st.floats(0, 2))
def test_the_cost_is_the_slope_as_a_share_of_a_step(start: float, cost: float) -> None:
    times = {count: start * (1 + cost * count) for count in (0, 1, 3, 7, 15)}
    assert marginal_cost(times) == pytest.approx(cost, abs=1e-6)


def test_noise_makes_no_negative_cost() -> None:
    assert marginal_cost({0: 30.0, 15: 29.0}) == 0.0
    assert marginal_cost({3: 30.0}) == 0.0


def test_the_first_steps_do_not_count() -> None:
    assert step_gaps([0.0, 9.0, 10.0, 11.0, 12.0]) == [1.0, 1.0, 1.0]
    assert step_gaps([1.0]) == []


class TestJunkProposer:
    def test_each_request_gets_what_it_wants(self) -> None:
        config = SimpleNamespace(
            model_config=SimpleNamespace(get_vocab_size=lambda: 100),
            speculative_config=SimpleNamespace(num_speculative_tokens=5),
        )
        wanted = {"a": {"junk_tokens": 3}, "b": None, "c": {"junk_tokens": 9}, "d": {"junk_tokens": 3}}
        requests = {
            name: SimpleNamespace(sampling_params=SimpleNamespace(extra_args=args))
            for name, args in wanted.items()
        }
        proposer = JunkProposer(config)
        # or the worker extension would not bind it
        assert all(hasattr(proposer, name) for name in ("bind_runner", "begin_step", "stats"))
        assert proposer.propose([[]]) == []
        proposer.bind_runner(
            SimpleNamespace(input_batch=SimpleNamespace(req_ids=list(wanted)), requests=requests)
        )
        drafts = proposer.propose([[1], [2], [3], []], None, None)
        assert [len(draft) for draft in drafts] == [3, 0, 5, 0]
        assert all(0 <= token < 100 for draft in drafts for token in draft)
