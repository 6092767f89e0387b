"""Which sessions are replayed when."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.trajectories import Session, Turn, in_half
from agentinfer_lg.evals.sam.engine.plan import SPECS, cut, plan, rotated, speculation_config


def make_session(number: int, *, turns: int = 4, prompt: int = 10, output: int = 5) -> Session:
    made = [Turn(np.full(prompt, number, np.int32), np.arange(output, dtype=np.int32)) for _ in range(turns)]
    return Session(f"s{number}", f"task {number % 40}", tuple(made))


SESSIONS = [make_session(number) for number in range(200)]


class TestPlan:
    def test_no_session_is_replayed_twice(self) -> None:
        pieces = plan(SESSIONS, batches=[1, 4, 16], per_batch=5, warm=10, turns=3)
        ids = [session.id for piece in pieces for session in piece.sessions]
        assert len(ids) == len(set(ids)) == 10 + 5 + 8 + 16

    def test_every_measured_piece_is_full(self) -> None:
        pieces = plan(SESSIONS, batches=[1, 4, 16], per_batch=5, repeats=2, warm=0, turns=3)
        assert Counter(piece.batch for piece in pieces) == {1: 5, 4: 2, 16: 2}
        assert all(len(piece.sessions) == piece.batch for piece in pieces)

    def test_only_the_warm_up_is_not_measured_and_it_comes_first(self) -> None:
        pieces = plan(SESSIONS, batches=[2], per_batch=4, warm=6, turns=3)
        assert [piece.measured for piece in pieces] == [False, True, True]
        assert [piece.number for piece in pieces] == [0, 1, 2]
        assert pieces[0].batch == 2

    def test_measured_sessions_are_of_the_half_that_is_reported(self) -> None:
        pieces = plan(SESSIONS, batches=[1, 8], per_batch=8, warm=20, turns=3)
        assert all(in_half(each, "report") for piece in pieces if piece.measured for each in piece.sessions)
        assert any(in_half(each, "tune") for each in pieces[0].sessions)

    def test_the_same_seed_deals_in_the_same_way(self) -> None:
        first, again, other = (
            plan(SESSIONS, batches=[4], per_batch=4, warm=2, turns=3, seed=seed) for seed in (1, 1, 2)
        )
        assert first == again
        assert first != other

    def test_too_few_sessions_are_told_with_what_to_do(self) -> None:
        with pytest.raises(
            UserInputError, match=r"32 sessions are needed to measure and 4 to warm up.*lower"
        ):
            plan(SESSIONS[:20], batches=[32], per_batch=1, warm=4, turns=3)

    def test_sessions_that_are_too_long_are_not_used(self) -> None:
        long = [make_session(number, prompt=500) for number in range(200)]
        with pytest.raises(UserInputError, match="only 0 have 3 turns within 1000 tokens"):
            plan(long, batches=[1], per_batch=1, warm=0, turns=3, max_context=1000)


class TestCut:
    @given(turns=st.integers(1, 6), limit=st.integers(1, 120))
    def test_what_is_left_fits(self, turns: int, limit: int) -> None:
        short = cut(SESSIONS[0], turns=turns, max_context=limit)
        fits = turns <= 4 and turns * 15 <= limit
        assert (short is not None) == fits
        if short is not None:
            assert len(short.turns) == turns
            assert short.tokens <= limit


@given(st.integers(0, 1000))
def test_each_variant_comes_first_as_often_as_the_others(start: int) -> None:
    orders = [rotated(SPECS, number) for number in range(start, start + len(SPECS))]
    for place in range(len(SPECS)):
        assert {order[place] for order in orders} == set(SPECS)


def test_suffix_decoding_keeps_its_own_limits() -> None:
    assert speculation_config("suffix", k=3) == {"method": "suffix"}
    ngram = speculation_config("ngram", k=3)
    assert ngram is not None
    assert ngram["num_speculative_tokens"] == 3
    assert speculation_config("none", k=3) is speculation_config("ours", k=3) is None
