"""Two runs side by side: paired intervals, and what counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent.benchmark.folder import Asked, load_results

np = pytest.importorskip("numpy")

from agentinfer_lg.evals.agent.benchmark.compare import compare_runs  # noqa: E402  # it needs numpy
from agentinfer_lg.evals.common.bootstrap import paired_difference, paired_ratio  # noqa: E402

_values = st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=30)


@given(_values, st.floats(-50.0, 50.0))
def test_a_shift_of_every_item_is_found_without_any_spread(values: list[float], shift: float) -> None:
    found = paired_difference([value + shift for value in values], values, resamples=50)
    assert found.value == pytest.approx(shift, abs=1e-6)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-6)


@given(_values, st.floats(0.1, 10.0))
def test_a_factor_of_every_item_is_found_without_any_spread(values: list[float], factor: float) -> None:
    found = paired_ratio([value * factor for value in values], values, resamples=50)
    assert found.value == pytest.approx(factor)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-6)


def test_the_interval_covers_what_resampling_may_give() -> None:
    found = paired_difference([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert found.value == 0.25
    assert found.low == 0.0
    assert 0.5 <= found.high <= 0.75
    assert f"{found:+.2f}" == f"+0.25 (+0.00 to {found.high:+.2f})"


def test_items_must_pair() -> None:
    with pytest.raises(ValueError, match="2 against 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="same items"):
        paired_ratio([], [])
    with pytest.raises(ValueError, match="denominator"):
        paired_ratio([1.0], [0.0])


def _result(answer: str, *, turns: int, prompt: int, cached: int, output: int = 10) -> dict[str, Any]:
    none = {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
    usage = {"prompt_tokens": prompt, "cached_tokens": cached, "output_tokens": output}
    return {
        "answer": answer,
        "turns": turns,
        "usage": {"small": usage, "large": none},
        "seconds": {"total": 1.0},
        "escalations": [{}] * (turns // 4),
    }


def test_only_questions_of_both_runs_count() -> None:
    a = {"1": _result("Paris", turns=2, prompt=90, cached=50), "2": _result("x", turns=9, prompt=1, cached=0)}
    b = {
        "1": _result("Rome", turns=4, prompt=190, cached=100),
        "3": _result("y", turns=9, prompt=1, cached=0),
    }
    asked = {name: Asked(answers=(answer,)) for name, answer in {"1": "paris", "2": "x", "3": "y"}.items()}
    found = compare_runs(a, b, asked)
    assert found.questions == 1
    assert found.exact_match == (1.0, 0.0)
    assert found.turns_ratio.value == 0.5
    assert found.tokens == (100.0, 200.0)
    assert found.computed_ratio.value == 0.5
    assert found.escalations == (0.0, 1.0)
    assert (found.ineffective, found.ineffective_ratio) == (None, None), "results without a trace"
    with pytest.raises(UserInputError, match="no finished question in common"):
        compare_runs(a, b, asked, keep=lambda _, other: other["turns"] > 4)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="holds no results"):
        load_results(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "q1.json").write_text(json.dumps({"answer": "x"}))
    assert load_results(tmp_path) == {"q1": {"answer": "x"}}
