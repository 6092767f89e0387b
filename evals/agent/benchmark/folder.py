"""What the folder of a run keeps: its results, and what it was asked, enough to score, compare and profile it later.

`questions.json` has an object by id, without the text of the question, which stays in the data set and in the results; a digest
of it tells whether an id still means the same question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentinfer_lg.errors import ConfigurationError, UserInputError
from agentinfer_lg.evals.common.run_store import write_json
from agentinfer_lg.evals.datasets.question import Question

Result = dict[str, Any]  # Any: the JSON object of `agentinfer research --json`

_FILE = "questions.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question, without its text."""

    answers: tuple[str, ...]
    """All that count as right."""
    evidence: tuple[str, ...] = ()
    """Titles of the documents that the answer needs, as far as they are known."""
    topic: str = ""
    hops: int = 0
    digest: str = ""
    """Of the text; empty: not known."""


def asked(questions: Iterable[Question]) -> dict[str, Asked]:
    """Return by id what is kept of questions."""
    return {
        question.id: Asked(
            answers=question.answers,
            evidence=question.evidence,
            topic=question.topic,
            hops=question.hops,
            digest=hashlib.sha256(question.question.encode(errors="replace")).hexdigest()[:16],
        )
        for question in questions
    }


def keep_asked(folder: Path, questions: Iterable[Question]) -> None:
    """Add questions to those of a run.

    Raises:
        ConfigurationError: The run has another question under one of the ids.
    """
    known, new = read_asked(folder), asked(questions)
    for name, one in new.items():
        if name in known and known[name].digest != one.digest:
            msg = f"{folder} holds a run with another question {name}. Choose another --out, or delete it."
            raise ConfigurationError(msg)
    together = {name: asdict(one) for name, one in (known | new).items()}
    write_json(folder / _FILE, together, indent=1)


def read_asked(folder: Path) -> dict[str, Asked]:
    """Return the questions of a run by id; none where an earlier version ran it.

    Raises:
        UserInputError: The file is damaged.
    """
    try:
        rows: Mapping[str, Mapping[str, Any]] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return {name: _read(row) for name, row in rows.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, KeyError):
        msg = f"{folder / _FILE} cannot be read. Delete it and start the run again: what is finished stays."
        raise UserInputError(msg) from None


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


def _read(row: Mapping[str, Any]) -> Asked:  # Any: JSON
    return Asked(**{**row, "answers": tuple(row["answers"]), "evidence": tuple(row.get("evidence", ()))})
