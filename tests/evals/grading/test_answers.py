"""Scoring of short answers."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.evals.grading.answers import exact_match, normalise_answer, token_f1


@pytest.mark.parametrize(
    ("answer", "gold", "right", "f1"),
    [
        ("The Aristocats.", "aristocats", True, 1.0),
        ("yes", "Yes.", True, 1.0),
        ("yes, both are", "yes", False, 0.0),
        ("no", "yes", False, 0.0),
        ("", "1924", False, 0.0),
        ("in 1924", "1924", False, 2 / 3),
        ("《鸬鹚·礁灯》。", "鸬鹚礁灯", True, 1.0),
        ("鸬鹚礁灯塔很高", "鸬鹚礁灯", False, 8 / 11),
        ("１９８７", "1987", True, 1.0),
        ("ＡＢＣ 公司（上海）", "abc公司上海", True, 1.0),
        ("“鸬鹚”—礁", "鸬鹚礁", True, 1.0),
        ("1987年", "1987", True, 1.0),
        ("1987", "１９８７ 年", True, 1.0),
        ("1987年", "1988", False, 0.0),
        ("1987年5月", "1987", False, 2 / 5),
        ("198年", "198", False, 2 / 3),
        ("1987年", "公元1987年", False, 2 / 3),
        ("“Gull”", "Gull", False, 0.0),
        ("서울 대학교", "서울대학교", False, 0.0),
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


_MIXED = st.text(st.one_of(st.characters(), st.sampled_from("年 《》·１２19aAnthe、かが゙゛\u3000")))


@given(_MIXED)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_answer(text)
    assert normalise_answer(once) == once


@given(_MIXED, _MIXED)
def test_exact_match_is_symmetric_and_never_below_f1(left: str, right: str) -> None:
    assert exact_match(left, right) is exact_match(right, left)
    assert exact_match(left, left)
    if exact_match(left, right) and normalise_answer(left):
        assert token_f1(left, right) == 1.0


def _official(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _official_f1(answer: str, gold: str) -> float:
    mine, theirs = _official(answer), _official(gold)
    if mine != theirs and {mine, theirs} & {"yes", "no", "noanswer"}:
        return 0.0
    same = sum((Counter(mine.split()) & Counter(theirs.split())).values())
    return 2 * same / (len(mine.split()) + len(theirs.split())) if same else 0.0


_WESTERN = st.text(st.characters(max_codepoint=0x2E7F), max_size=30)


@given(_WESTERN, _WESTERN)
def test_other_text_scores_as_before(left: str, right: str) -> None:
    assert normalise_answer(left) == _official(left)
    assert exact_match(left, right) is (_official(left) == _official(right))
    assert token_f1(left, right) == pytest.approx(_official_f1(left, right))
