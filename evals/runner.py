"""Running a benchmark through the command line, unattended: a process per question, resumable at any point.

A run is a folder: `settings.json` (what was asked of it), `home/` (checkpoints), `results/ID.json` (one JSON object per
finished question) and `summary.json`. Killed at any moment and started again, it goes on with the question and the
step where it was.
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

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.evals.answers import exact_match, token_f1
from agentinfer_lg.evals.benchmarks.question import Question
from agentinfer_lg.settings import Settings
from agentinfer_lg.threads import Threads

__all__ = ("BenchmarkRun", "Scored", "run_benchmark", "summarise")

_WRITTEN = (0, 4)
"""Exit codes of `agentinfer research` that come with a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRun:
    """What is run, and where it is kept."""

    name: str
    folder: Path
    questions: Sequence[Question]
    data: Path
    """Where the questions come from."""
    docs: Path
    flags: Sequence[str]
    """Further flags of `agentinfer research`, the same for each question."""
    parallel: int = 1


@dataclass(frozen=True, slots=True)
class Scored:
    """One finished question."""

    question: Question
    result: dict[str, Any]  # Any: the JSON object of `agentinfer research --json`

    @property
    def correct(self) -> bool:
        """Normalised exact match."""
        return exact_match(self.result["answer"], self.question.answer)

    @property
    def f1(self) -> float:
        """Token F1."""
        return token_f1(self.result["answer"], self.question.answer)


async def run_benchmark(run: BenchmarkRun, *, on_done: Callable[[Scored | None, str], None]) -> list[Scored]:
    """Run what is not finished yet; returns all finished questions in order.

    Args:
        run: What to run.
        on_done: Called per question with its score (None when it failed) and the reason of a failure.

    Raises:
        ConfigurationError: The folder holds a run with other settings.
    """
    _check_same(run)
    gate = asyncio.Semaphore(run.parallel)

    async def one(question: Question) -> Scored | None:
        file = run.folder / "results" / f"{question.id}.json"
        if not file.exists():
            async with gate:
                failure = await _ask(run, question, file)
            if failure:
                on_done(None, f"{question.id}: {failure}")
                return None
        scored = Scored(question, json.loads(file.read_text(encoding="utf-8")))
        on_done(scored, "")
        return scored

    done = await asyncio.gather(*(one(question) for question in run.questions))
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


async def _ask(run: BenchmarkRun, question: Question, file: Path) -> str:
    """Run one question in a process of its own; returns why it failed, empty when its result was written."""
    home = run.folder / "home"
    command = [sys.executable, "-m", "agentinfer_lg.cli", "research"]
    if Threads(home).exists(question.id):
        command += ["--resume", question.id]
    else:
        command += [question.question, "--thread", question.id, "--docs", str(run.docs), *run.flags]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--json",
        "--quiet",
        env={**os.environ, "AGENTINFER_HOME": str(home)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode not in _WRITTEN:
        lines = errors.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {process.returncode}"
    part = file.with_suffix(".part")
    part.write_bytes(output)
    part.replace(file)
    return ""


def _check_same(run: BenchmarkRun) -> None:
    """Keep questions of different settings apart."""
    settings = Settings()
    wanted: dict[str, object] = {
        "benchmark": run.name,
        "data": str(run.data),
        "flags": list(run.flags),
        "small": [settings.small.base_url, settings.small.model],
        "large": [settings.large.base_url, settings.large.model],
    }
    (run.folder / "results").mkdir(parents=True, exist_ok=True)
    file = run.folder / "settings.json"
    if not file.exists():
        file.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    if found != wanted:
        msg = f"{run.folder} holds a run with other settings ({found}). Choose another --out, or delete it."
        raise ConfigurationError(msg)
