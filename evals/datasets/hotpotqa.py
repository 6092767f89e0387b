"""HotpotQA on a closed corpus: multi-hop questions over Wikipedia paragraphs, scored offline.

Expects a folder with `questions_*.json` (a list of objects with `_id`, `question`, `answer`, and perhaps `type` and
`supporting_facts`, whose titles are the evidence) and `corpus_*.json` (an object from title to sentences), as the HippoRAG
sample of HotpotQA has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.question import Question


def load_questions(folder: Path, *, offset: int = 0, limit: int | None = None) -> list[Question]:
    """Read questions, in the order of the file.

    Raises:
        UserInputError: The folder does not hold the data set.
    """
    rows = json.loads(_only(folder, "questions_*.json").read_text(encoding="utf-8"))
    questions = [
        Question(
            id=str(row["_id"]),
            question=row["question"].strip(),
            answer=row["answer"],
            topic=row.get("type", ""),
            evidence=tuple(dict.fromkeys(title for title, _ in row.get("supporting_facts", ()))),
        )
        for row in rows
    ]
    return questions[offset:][:limit]


def write_corpus(folder: Path, target: Path) -> int:
    """Write each paragraph as a Markdown file below `target`; returns how many there are. What is there stays.

    Raises:
        UserInputError: The folder does not hold the data set.
    """
    paragraphs: dict[str, Sequence[str]] = json.loads(
        _only(folder, "corpus_*.json").read_text(encoding="utf-8")
    )
    target.mkdir(parents=True, exist_ok=True)
    for number, (title, sentences) in enumerate(paragraphs.items()):
        # The number keeps names apart; letters alone would not ("Alien" and "Alien!").
        file = target / f"{number:04d}-{re.sub(r'[^A-Za-z0-9]+', '-', title)[:60].strip('-')}.md"
        if not file.exists():
            file.write_text(f"# {title}\n\n{''.join(sentences).strip()}\n", encoding="utf-8")
    return len(paragraphs)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        msg = f"{folder} should hold one {pattern} and holds {len(found)}. Point --data to the HotpotQA folder (docs/data.md)."
        raise UserInputError(msg)
    return found[0]
