"""Marking a finished run: a judgement per question, kept next to the results, resumable at any point.

`results/ID.json` are the objects of `agentinfer research --json`. For each, `judgements/JUDGE/ID.json` keeps the verdicts of
one judge on that response, one for each set of right answers it was compared with: what was judged is not asked again, and
a second set of answers costs only the questions where they differ.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentinfer_lg.errors import AgentInferError, UserInputError
from agentinfer_lg.evals.common.run_store import write_json
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.evals.grading.judge import Judge, Verdict, calibration_error, response_text
from agentinfer_lg.text import well_formed

_NORMAL_95 = 1.959964
"""Half-width of the middle 95% of the normal distribution, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One question with its verdict."""

    question: Question
    verdict: Verdict


async def judge_run(
    folder: Path,
    questions: Sequence[Question],
    judge: Judge,
    *,
    parallel: int = 4,
    on_done: Callable[[Judged | None, str], None] = lambda judged, reason: None,
) -> dict[str, Any]:
    """Judge what is finished and not judged yet; returns `summarise_judgements`.

    The judge sees the report and, on a line of its own, the short answer. The agent states no confidence, so that it is 100
    unless the judge finds one in the report. An endpoint that fails leaves that question unjudged.

    Args:
        folder: Of the run.
        questions: Those of the run; `Question.answers` are right.
        judge: Who judges.
        parallel: Questions at once.
        on_done: Called per finished question with its verdict (None when it was not judged) and the reason why not.

    Raises:
        UserInputError: The folder is no run.
    """
    results = folder / "results"
    if not results.is_dir():
        msg = f"{folder} holds no results. Pass the folder that `agentinfer eval NAME --out FOLDER` wrote."
        raise UserInputError(msg)
    target = folder / "judgements" / judge.name
    target.mkdir(parents=True, exist_ok=True)
    gate = asyncio.Semaphore(parallel)

    async def one(question: Question) -> Judged | None:
        try:
            response = _response(results / f"{question.id}.json", question)
            async with gate:
                verdict = await _verdict(target / f"{question.id}.json", question, response, judge)
        except AgentInferError as error:
            on_done(None, f"{question.id}: {error}")
            return None
        judged = Judged(question, verdict)
        on_done(judged, "")
        return judged

    finished = [question for question in questions if (results / f"{question.id}.json").is_file()]
    done = await asyncio.gather(*(one(question) for question in finished))
    return summarise_judgements(
        [judged for judged in done if judged is not None], questions=len(questions), finished=len(finished)
    )


def summarise_judgements(judged: Sequence[Judged], *, questions: int, finished: int) -> dict[str, Any]:
    """Return the figures of judged questions.

    `accuracy` is the share of correct ones among the judged, `accuracy_low` and `accuracy_high` its 95% interval, None
    where nothing was judged. Unreadable verdicts count as not correct, and are left out of `calibration_error`, which is
    from 0 to 1. `topics` has `judged`, `correct` and `accuracy` of each topic.

    Args:
        judged: Questions with verdicts.
        questions: How many were asked.
        finished: How many of them the agent has finished.
    """
    read = [item.verdict for item in judged if not item.verdict.unreadable]
    correct = sum(item.verdict.correct for item in judged)
    low, high = wilson_interval(correct, len(judged)) if judged else (None, None)
    return {
        "questions": questions,
        "finished": finished,
        "judged": len(judged),
        "correct": correct,
        "accuracy": correct / len(judged) if judged else None,
        "accuracy_low": low,
        "accuracy_high": high,
        "calibration_error": calibration_error([v.confidence for v in read], [v.correct for v in read])
        if read
        else None,
        "unreadable": len(judged) - len(read),
        "judges": sorted({item.verdict.judge for item in judged}),
        "topics": {
            topic: _topic([item for item in judged if item.question.topic == topic])
            for topic in sorted({item.question.topic for item in judged})
        },
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95% interval of a share by Wilson's score, which also holds near 0 and 1.

    Raises:
        ValueError: There are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or not trials:
        msg = f"no share: {successes} of {trials}"
        raise ValueError(msg)
    share, spread = successes / trials, _NORMAL_95**2 / trials
    middle = share + spread / 2
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4)
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def _topic(judged: Sequence[Judged]) -> dict[str, Any]:
    correct = sum(item.verdict.correct for item in judged)
    return {"judged": len(judged), "correct": correct, "accuracy": correct / len(judged)}


def _response(file: Path, question: Question) -> str:
    """Return what the agent answered.

    Raises:
        UserInputError: The file is no result, or one of another question.
    """
    result = _read_object(file)
    report, answer = result.get("report"), result.get("answer")
    if not isinstance(report, str) or not isinstance(answer, str):
        msg = f"{file} is no result of `agentinfer research --json`. Delete it and run the question again."
        raise UserInputError(msg)
    # Ids like `q-0001` say nothing of the file that the questions came from.
    if _words(result.get("question") or question.question) != _words(question.question):
        msg = f"{file} answers another question. Judge it with the questions that it was run with."
        raise UserInputError(msg)
    return response_text(report, answer)


def _words(text: object) -> list[str]:
    """Return what is left of a question on its way through a pipe, which may change the ends of its lines."""
    return well_formed(str(text)).split()


async def _verdict(file: Path, question: Question, response: str, judge: Judge) -> Verdict:
    """Return the verdict that is kept, or else ask for it and keep it."""
    judged: dict[str, Any] = {"response": _digest(question.question, response), "verdicts": {}}
    kept = _read_object(file)
    if kept.get("response") == judged["response"] and isinstance(kept.get("verdicts"), dict):
        judged = kept
    answers = _digest(*question.answers)
    found = _kept_verdict(judged["verdicts"].get(answers))
    if found is not None:
        return found
    verdict = await judge.judge(question.question, question.answers, response)
    judged["verdicts"][answers] = asdict(verdict)
    write_json(file, judged)
    return verdict


def _kept_verdict(value: Any) -> Verdict | None:
    try:
        return Verdict(**value)
    except TypeError:  # none, or of another version
        return None


def _read_object(file: Path) -> dict[str, Any]:
    """Return a JSON object, an empty one if there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
