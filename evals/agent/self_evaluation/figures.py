"""From cells to rows: what each error rate costs, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agentinfer_lg.evals.agent.ablation.figures import question_breakdown
from agentinfer_lg.evals.agent.benchmark.figures import combined
from agentinfer_lg.evals.agent.self_evaluation.run import Condition, SelfEvaluationCell
from agentinfer_lg.evals.common.bootstrap import Interval, paired_difference, paired_ratio

REFERENCE = Condition(rate=0.0, verifier=True)
"""What the others are compared with: perfect checks, with the verifier."""

Cells = Mapping[tuple[str, str], SelfEvaluationCell]
"""By benchmark and question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfEvaluationRow:
    """One condition; means are per question."""

    rate: float | None
    """Forced error rate; None: the model's own verdicts."""
    verifier: bool
    questions: int
    accuracy: float
    """Share of answers that are right, by normalised exact match; a question that failed counts as wrong."""
    f1: float
    turns: float
    large_share: float
    """Share of the turns that the large model made."""
    escalations: float
    tokens: float
    """Prompt and output tokens of all calls."""
    computed_tokens: float
    """The same without what was cached, on warm servers."""
    ran_out: float
    """Share of the questions in which something ran out."""
    failures: int
    """Questions that ended in an error."""
    checks: int
    """Progress Checks of all questions."""
    flips: int
    """Those that were told the opposite of the oracle's verdict on purpose."""
    observed_error: float | None
    """Share of the verdicts that the agent read and that were wrong; None without any."""
    own_false_positives: float | None
    """Of the steps without progress, the share that the model itself called progress; None without any."""
    own_false_negatives: float | None
    """Of the steps with progress, the share that the model itself called none; None without any."""
    own_unreadable: int
    """Answers of the model without a verdict."""
    accuracy_difference: Interval | None
    """This row minus the reference, on the same questions; None without a reference."""
    tokens_ratio: Interval | None
    """Tokens of this row by those of the reference, on the questions that failed in neither."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return asdict(self)


def self_evaluation_rows(cells: Sequence[SelfEvaluationCell]) -> list[SelfEvaluationRow]:
    """Return one row per condition: with the verifier, then without; by rate, the model's own verdicts last."""
    groups: dict[Condition, dict[tuple[str, str], SelfEvaluationCell]] = {}
    for cell in cells:
        place = cell.question["benchmark"], cell.question["id"]
        groups.setdefault(cell.condition, {})[place] = cell
    order = sorted(groups, key=lambda each: (not each.verifier, each.rate is None, each.rate or 0.0))
    return [_row(each, groups[each], groups.get(REFERENCE, {})) for each in order]


def _row(condition: Condition, own: Cells, reference: Cells) -> SelfEvaluationRow:
    cells = list(own.values())
    count = len(cells)
    records = [cell.question for cell in cells]
    results = [record["result"] for record in records if record["result"] is not None]
    tiers = [tier for result in results for agent in result["tier_per_turn"].values() for tier in agent]
    total = combined(question_breakdown(record) for record in records)
    checks = [check for cell in cells for check in cell.checks]
    progress = [check for check in checks if check["oracle"]]
    none = [check for check in checks if not check["oracle"]]
    return SelfEvaluationRow(
        rate=condition.rate,
        verifier=condition.verifier,
        questions=count,
        accuracy=sum(record["correct"] for record in records) / count,
        f1=sum(record["f1"] for record in records) / count,
        turns=len(tiers) / count,
        large_share=tiers.count("large") / len(tiers) if tiers else 0.0,
        escalations=sum(len(result["escalations"]) for result in results) / count,
        tokens=total.tokens / count,
        computed_tokens=total.computed_tokens / count,
        ran_out=sum(bool(result["ran_out"]) for result in results) / count,
        failures=count - len(results),
        checks=len(checks),
        flips=sum(check["flipped"] for check in checks),
        observed_error=_share(checks, lambda check: _counts_as_true(check) != check["oracle"]),
        own_false_positives=_share(none, lambda check: check["said"] == "TRUE"),
        own_false_negatives=_share(progress, lambda check: check["said"] == "FALSE"),
        own_unreadable=sum(check["said"] == "UNREADABLE" for check in checks),
        accuracy_difference=_accuracy_difference(own, reference),
        tokens_ratio=_tokens_ratio(own, reference),
    )


def _counts_as_true(check: Mapping[str, Any]) -> bool:
    """Whether the controller takes the verdict for progress (`collab.controller.advance`)."""
    return bool(check["told"] == "TRUE" or (check["told"] == "UNREADABLE" and check["tier"] == "small"))


def _share(checks: Sequence[Mapping[str, Any]], counts: Callable[[Mapping[str, Any]], bool]) -> float | None:
    return sum(map(counts, checks)) / len(checks) if checks else None


def _accuracy_difference(own: Cells, reference: Cells) -> Interval | None:
    both = [place for place in own if place in reference]
    if not both:
        return None
    return paired_difference(
        [float(own[place].question["correct"]) for place in both],
        [float(reference[place].question["correct"]) for place in both],
    )


def _tokens_ratio(own: Cells, reference: Cells) -> Interval | None:
    both = [
        place
        for place in own
        if place in reference and own[place].question["result"] and reference[place].question["result"]
    ]
    ours, theirs = _tokens(own, both), _tokens(reference, both)
    return paired_ratio(ours, theirs) if sum(theirs) > 0 else None


def _tokens(cells: Cells, places: Sequence[tuple[str, str]]) -> list[float]:
    return [float(question_breakdown(cells[place].question).tokens) for place in places]
