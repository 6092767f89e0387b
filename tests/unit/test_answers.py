"""Scoring of short answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.evals.answers import exact_match, normalise_answer, token_f1


@pytest.mark.parametrize(
    ("answer", "gold", "right", "f1"),
    [
        ("The Aristocats.", "aristocats", True, 1.0),
        ("yes", "Yes.", True, 1.0),
        ("yes, both are", "yes", False, 0.0),
        ("no", "yes", False, 0.0),
        ("", "1924", False, 0.0),
        ("in 1924", "1924", False, 2 / 3),
    ],
)
def test_known_scores(answer: str, gold: str, right: bool, f1: float) -> None:
    assert exact_match(answer, gold) is right
    assert token_f1(answer, gold) == pytest.approx(f1)


@given(st.text(), st.text())
def test_scores_are_bounded_and_symmetric(left: str, right: str) -> None:
    assert 0.0 <= token_f1(left, right) <= 1.0
    assert token_f1(left, right) == pytest.approx(token_f1(right, left))
    if normalise_answer(left):
        assert token_f1(left, left) == 1.0
