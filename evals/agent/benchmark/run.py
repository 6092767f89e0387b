"""Running a benchmark through the command line, unattended: a process per question, resumable at any point.

A run is a folder: `settings.json` (what was asked of it), `questions.json` (ids and right answers), `home/` (checkpoints),
`results/ID.json` (one JSON object per finished question), `sittings.json` (what the servers counted), `summary.json`, and a
`.gitignore`, for it holds questions and answers in plain text. Killed at any moment and started again, it goes on with the
question and the step where it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentinfer_lg.evals.agent.benchmark.folder import keep_asked
from agentinfer_lg.evals.agent.benchmark.segments import Segment
from agentinfer_lg.evals.agent.benchmark.settings import keep_benchmark_settings, server_urls
from agentinfer_lg.evals.common.run_store import write_whole
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.evals.grading.answers import exact_match, token_f1
from agentinfer_lg.threads import Threads

_WRITTEN = (0, 4)
"""Exit codes of `agentinfer research` that come with a report."""
_GRACE_SECONDS = 10.0
"""For a question that is told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRun:
    """What is run, and where it is kept."""

    name: str
    folder: Path
    questions: Sequence[Question]
    data: str
    """Identifies the questions: a folder, or what they are generated from."""
    docs: Path | None = None
    """Folder to search; None: the web."""
    flags: Sequence[str] = ()
    """Further flags of `agentinfer research`, the same for each question."""
    parallel: int = 1


@dataclass(frozen=True, slots=True)
class Scored:
    """One finished question."""

    question: Question
    result: dict[str, Any]  # Any: the JSON object of `agentinfer research --json`

    @property
    def correct(self) -> bool:
        """Normalised exact match with one of the right answers."""
        return any(exact_match(self.result["answer"], answer) for answer in self.question.answers)

    @property
    def f1(self) -> float:
        """Token F1 with the right answer that is nearest."""
        return max(token_f1(self.result["answer"], answer) for answer in self.question.answers)


async def run_benchmark(run: BenchmarkRun, *, on_done: Callable[[Scored | None, str], None]) -> list[Scored]:
    """Run what is not finished yet; returns all finished questions in order.

    Cancelled, it stops the processes of its questions and loses no finished step.

    Args:
        run: What to run.
        on_done: Called per question with its score (None when it failed) and the reason of a failure.

    Raises:
        ConfigurationError: The folder holds a run with other settings, or with other questions of the same names.
    """
    _prepare(run)
    gate = asyncio.Semaphore(run.parallel)
    segment = Segment(run.folder, server_urls(run.flags))
    missing = [question for question in run.questions if not _file(run, question).exists()]

    async def one(question: Question) -> Scored | None:
        file = _file(run, question)
        if not file.exists():
            async with gate:
                failure = await _ask(run, question, file)
            await segment.look()
            if failure:
                on_done(None, f"{question.id}: {failure}")
                return None
        scored = Scored(question, json.loads(file.read_text(encoding="utf-8")))
        on_done(scored, "")
        return scored

    if missing:
        await segment.begin()
    try:
        done = await asyncio.gather(*(one(question) for question in run.questions))
    finally:
        if missing:
            await segment.look()
    return [scored for scored in done if scored is not None]


def summarise(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return means and sums over the finished questions."""
    if not scored:
        return {"questions": 0}
    results = [item.result for item in scored]
    count = len(scored)
    return {
        "questions": count,
        "exact_match": sum(item.correct for item in scored) / count,
        "f1": sum(item.f1 for item in scored) / count,
        "seconds_per_question": sum(result["seconds"]["total"] for result in results) / count,
        "turns_per_question": sum(result["turns"] for result in results) / count,
        "large_turns_share": _large_share(results),
        "escalations": sum(len(result["escalations"]) for result in results),
        "reprefill_tokens": sum(result["reprefill_tokens"] for result in results),
        "tokens": {
            tier: {
                kind: sum(result["usage"][tier][kind] for result in results)
                for kind in ("calls", "prompt_tokens", "cached_tokens", "output_tokens")
            }
            for tier in ("small", "large")
        },
        "seconds": {
            phase: round(sum(result["seconds"][phase] for result in results), 1)
            for phase in results[0]["seconds"]
        },
        "checks": {
            verdict: sum(result["progress_checks"][verdict] for result in results)
            for verdict in ("true", "false", "unreadable", "skipped", "stalls")
        },
        "ran_out": sum(bool(result["ran_out"]) for result in results),
    }


def _large_share(results: Sequence[dict[str, Any]]) -> float:
    tiers = [tier for result in results for turns in result["tier_per_turn"].values() for tier in turns]
    return tiers.count("large") / len(tiers) if tiers else 0.0


def _file(run: BenchmarkRun, question: Question) -> Path:
    return run.folder / "results" / f"{question.id}.json"


def _prepare(run: BenchmarkRun) -> None:
    (run.folder / "results").mkdir(parents=True, exist_ok=True)
    ignore = run.folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    keep_benchmark_settings(run.folder, benchmark=run.name, data=run.data, docs=run.docs, flags=run.flags)
    keep_asked(run.folder, run.questions)


async def _ask(run: BenchmarkRun, question: Question, file: Path) -> str:
    """Run one question in a process of its own; returns why it failed, empty when its result was written."""
    home = run.folder / "home"
    command = [sys.executable, "-m", "agentinfer_lg.cli", "research"]
    if Threads(home).exists(question.id):
        command += ["--resume", question.id]
        text = b""
    else:
        docs = [] if run.docs is None else ["--docs", str(run.docs)]
        # Not as an argument: other users of the machine can read those.
        command += ["-", "--thread", question.id, *docs, *run.flags]
        text = question.question.encode(errors="replace")
    process = await asyncio.create_subprocess_exec(
        *command,
        "--json",
        "--quiet",
        env={**os.environ, "AGENTINFER_HOME": str(home), "PYTHONUTF8": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate(text)
    finally:
        if process.returncode is None:
            await _stop(process)
    if process.returncode not in _WRITTEN:
        lines = errors.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {process.returncode}"
    write_whole(file, output)
    return ""


async def _stop(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(_GRACE_SECONDS):
            await process.communicate()  # what it still writes must not keep it waiting
    except TimeoutError:
        process.kill()
        await process.wait()
