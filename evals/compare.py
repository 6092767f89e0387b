"""Two runs of a benchmark on the same questions, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.answers import exact_match, token_f1
from agentinfer_lg.evals.paired import Interval, paired_difference, paired_ratio

__all__ = ("Comparison", "compare_runs", "load_results")

Result = dict[str, Any]  # Any: the JSON object of `agentinfer research --json`


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Figures of run A against run B on the questions that both have finished."""

    questions: int
    exact_match: tuple[float, float]
    f1: tuple[float, float]
    exact_match_difference: Interval
    """A minus B."""
    f1_difference: Interval
    turns: tuple[float, float]
    """Per question."""
    turns_ratio: Interval
    """A by B; so are all ratios."""
    tokens: tuple[float, float]
    """Prompt and output tokens of all calls, per question."""
    tokens_ratio: Interval
    computed: tuple[float, float]
    """The same without the prompt tokens that the servers had cached."""
    computed_ratio: Interval
    seconds: tuple[float, float]
    seconds_ratio: Interval


def load_results(folder: Path) -> dict[str, Result]:
    """Return the results of a run by question.

    Raises:
        UserInputError: The folder is no run.
    """
    files = sorted((folder / "results").glob("*.json"))
    if not files:
        msg = f"{folder} holds no results. Pass the folder that `agentinfer eval NAME --out FOLDER` wrote."
        raise UserInputError(msg)
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def compare_runs(
    a: dict[str, Result],
    b: dict[str, Result],
    answers: dict[str, str],
    *,
    keep: Callable[[Result, Result], bool] = lambda a, b: True,
) -> Comparison:
    """Compare two runs question by question.

    Args:
        a: Results of run A.
        b: Results of run B.
        answers: The right answer by question.
        keep: Which pairs count.

    Raises:
        UserInputError: They have no question in common.
    """
    names = [name for name in answers if name in a and name in b and keep(a[name], b[name])]
    if not names:
        msg = "The two runs have no finished question in common."
        raise UserInputError(msg)

    def both(measure: Callable[[Result, str], float]) -> tuple[list[float], list[float]]:
        return (
            [measure(a[name], answers[name]) for name in names],
            [measure(b[name], answers[name]) for name in names],
        )

    right = both(lambda result, answer: float(exact_match(result["answer"], answer)))
    f1 = both(lambda result, answer: token_f1(result["answer"], answer))
    turns = both(lambda result, _: result["turns"])
    tokens = both(lambda result, _: _tokens(result))
    computed = both(lambda result, _: _tokens(result) - _cached(result))
    seconds = both(lambda result, _: result["seconds"]["total"])
    return Comparison(
        questions=len(names),
        exact_match=_means(right),
        f1=_means(f1),
        exact_match_difference=paired_difference(*right),
        f1_difference=paired_difference(*f1),
        turns=_means(turns),
        turns_ratio=paired_ratio(*turns),
        tokens=_means(tokens),
        tokens_ratio=paired_ratio(*tokens),
        computed=_means(computed),
        computed_ratio=paired_ratio(*computed),
        seconds=_means(seconds),
        seconds_ratio=paired_ratio(*seconds),
    )


def _means(both: tuple[Sequence[float], Sequence[float]]) -> tuple[float, float]:
    return sum(both[0]) / len(both[0]), sum(both[1]) / len(both[1])


def _tokens(result: Result) -> int:
    usage = result["usage"]
    return sum(usage[tier]["prompt_tokens"] + usage[tier]["output_tokens"] for tier in ("small", "large"))


def _cached(result: Result) -> int:
    return sum(result["usage"][tier]["cached_tokens"] for tier in ("small", "large"))
