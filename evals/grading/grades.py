"""Grading a run in every way that there is: with each set of right answers, by the exact match and by a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.evals.grading.judge import ExactJudge, Judge
from agentinfer_lg.evals.grading.judgements import Judged, judge_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Grades:
    """One way of grading, with its figures."""

    answers: str
    """Name of the set of right answers."""
    judge: str
    figures: dict[str, Any]  # Any: JSON, see `summarise_judgements`

    @property
    def unjudged(self) -> int:
        """Finished questions that the judge could not be asked about."""
        return int(self.figures["finished"] - self.figures["judged"])


async def grade_run(
    folder: Path,
    answers: Mapping[str, Sequence[Question]],
    judge: Judge | None,
    *,
    parallel: int = 4,
    on_failure: Callable[[str], None] = lambda reason: None,
) -> list[Grades]:
    """Grade what is finished; what was graded before is not asked again.

    Args:
        folder: Of the run.
        answers: Its questions, once for each set of right answers, by the name of the set.
        judge: Grades after the exact match; None: only that.
        parallel: Questions at once.
        on_failure: Called with the reason for each that the judge could not be asked about.
    """
    judges: list[Judge] = [ExactJudge(), *([judge] if judge is not None else [])]

    def on_done(judged: Judged | None, reason: str) -> None:
        if judged is None:
            on_failure(reason)

    return [
        Grades(
            answers=name,
            judge=each.name,
            figures=await judge_run(folder, questions, each, parallel=parallel, on_done=on_done),
        )
        for each in judges
        for name, questions in answers.items()
    ]
