"""The question of the demonstration, asked through the command line at one server for both tiers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from support.run_cli import COMPLETE, PARTIAL, ROOT, CommandLine, Outcome

__all__ = (
    "ANSWERS",
    "MARKERS",
    "SOURCE",
    "ask",
    "assert_answered",
    "assert_reported",
    "assert_usable",
    "at",
    "examine",
)

_CORPUS: Final = ROOT / "examples" / "corpus"
_ENTRY: Final[dict[str, Any]] = next(
    entry
    for entry in json.loads((_CORPUS.parent / "questions.json").read_text(encoding="utf-8"))
    if entry.get("default")
)
ANSWERS: Final[tuple[str, ...]] = tuple(_ENTRY["accept"])
"""Spellings of the right answer."""
SOURCE: Final[str] = _ENTRY["supporting"][0]
"""The document that holds it."""
MARKERS: Final = ("<think", "</think", "<|channel|>", "[think]", "<thinking", "</thinking")
"""What begins or ends thoughts of models, and never belongs to an answer."""
_STEPS: Final = ("--no-checkpoint", "--max-turns", "3", "--report", "brief", "--set", "results_per_query=3")
"""Those of `agentinfer demo`, which fit so small a model."""


def at(
    base_url: str, model: str, *, folder: Path, environment: Mapping[str, str] | None = None
) -> CommandLine:
    """Return a command line whose two tiers are this server.

    Args:
        base_url: Ends in `/v1`.
        model: Name of the model; empty: the first one that the server lists.
        folder: Working folder.
        environment: More variables.
    """
    tiers = {f"AGENTINFER_{tier}__MODEL": model for tier in ("SMALL", "LARGE")}
    variables = {**tiers, "AGENTINFER_DOCS": str(_CORPUS), **(environment or {})}
    return CommandLine(folder=folder, small=base_url, large=base_url, environment=variables)


def ask(line: CommandLine, *, timeout: float = 600.0) -> Outcome:
    """Run `agentinfer research --json` with the question of the demonstration."""
    return line.research(_ENTRY["question"], *_STEPS, timeout=timeout)


def examine(line: CommandLine, *, timeout: float = 600.0) -> Outcome:
    """Run `agentinfer doctor`."""
    return line.run("doctor", timeout=timeout)


def assert_answered(outcome: Outcome) -> None:
    """Fail unless there is a report with the right answer, which cites the right document and holds no thought."""
    assert_reported(outcome)
    result = outcome.result
    assert any(answer in result["answer"] for answer in ANSWERS), outcome.everything[-4_000:]
    assert any(source["cited"] and source["uri"].endswith(SOURCE) for source in result["sources"]), result[
        "sources"
    ]


def assert_reported(outcome: Outcome) -> None:
    """Fail unless there is a report on what was found, right or wrong, that holds no thought."""
    assert outcome.code in (COMPLETE, PARTIAL), outcome.everything[-4_000:]
    assert not outcome.has_traceback(), outcome.everything[-4_000:]
    result = outcome.result
    assert result["sources"], outcome.everything[-4_000:]
    written = json.dumps([result[key] for key in ("answer", "report", "plan", "findings")])
    assert not any(marker in written.lower() for marker in MARKERS), written


def assert_usable(outcome: Outcome) -> None:
    """Fail unless doctor finds that a run would work."""
    assert outcome.code == COMPLETE, outcome.everything[-4_000:]
    assert not outcome.has_traceback(), outcome.everything[-4_000:]
    assert "FAIL" not in outcome.stdout, outcome.stdout
