"""Two runs of a benchmark on the same questions, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent.benchmark.figures import break_down
from agentinfer_lg.evals.agent.benchmark.folder import Asked, Result, read_asked
from agentinfer_lg.evals.common.bootstrap import Interval, paired_difference, paired_ratio
from agentinfer_lg.evals.grading.answers import exact_match, token_f1


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
    escalations: tuple[float, float]
    """Per question."""
    escalations_difference: Interval
    ineffective: tuple[float, float] | None
    """Computed tokens that did not help (`Breakdown`), per question; None where a result has no trace."""
    ineffective_ratio: Interval | None
    """None also where B has no such tokens."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return asdict(self)


def common_questions(a: Path, b: Path) -> dict[str, Asked]:
    """Return the questions that two runs were asked, by id; those of one run where the other did not keep its own.

    Raises:
        UserInputError: Their questions differ although their names do not.
    """
    left, right = read_asked(a), read_asked(b)
    for name in left.keys() & right.keys():
        if left[name].digest != right[name].digest:
            msg = (
                f"{a} and {b} were asked different questions under the name {name}: they cannot be compared."
            )
            raise UserInputError(msg)
    return left | right


def compare_runs(
    a: dict[str, Result],
    b: dict[str, Result],
    questions: Mapping[str, Asked],
    *,
    keep: Callable[[Result, Result], bool] = lambda a, b: True,
) -> Comparison:
    """Compare two runs question by question.

    Args:
        a: Results of run A.
        b: Results of run B.
        questions: What was asked, by id.
        keep: Which pairs count.

    Raises:
        UserInputError: They have no question in common.
    """
    names = [name for name in questions if name in a and name in b and keep(a[name], b[name])]
    if not names:
        msg = "The two runs have no finished question in common."
        raise UserInputError(msg)

    def both(measure: Callable[[Result, Asked], float]) -> tuple[list[float], list[float]]:
        return (
            [measure(a[name], questions[name]) for name in names],
            [measure(b[name], questions[name]) for name in names],
        )

    right = both(lambda result, one: float(any(exact_match(result["answer"], gold) for gold in one.answers)))
    f1 = both(lambda result, one: max(token_f1(result["answer"], gold) for gold in one.answers))
    turns = both(lambda result, _: result["turns"])
    tokens = both(lambda result, _: _tokens(result))
    computed = both(lambda result, _: _tokens(result) - _cached(result))
    seconds = both(lambda result, _: result["seconds"]["total"])
    escalations = both(lambda result, _: len(result["escalations"]))
    traced = all("trace" in run[name] for run in (a, b) for name in names)
    ineffective = both(_ineffective) if traced else None
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
        escalations=_means(escalations),
        escalations_difference=paired_difference(*escalations),
        ineffective=_means(ineffective) if ineffective else None,
        ineffective_ratio=paired_ratio(*ineffective) if ineffective and sum(ineffective[1]) > 0 else None,
    )


def _means(both: tuple[Sequence[float], Sequence[float]]) -> tuple[float, float]:
    return sum(both[0]) / len(both[0]), sum(both[1]) / len(both[1])


def _ineffective(result: Result, question: Asked) -> int:
    return break_down(result, evidence=question.evidence).ineffective.total


def _tokens(result: Result) -> int:
    usage = result["usage"]
    return sum(usage[tier]["prompt_tokens"] + usage[tier]["output_tokens"] for tier in ("small", "large"))


def _cached(result: Result) -> int:
    return sum(result["usage"][tier]["cached_tokens"] for tier in ("small", "large"))
