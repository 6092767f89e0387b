"""BrowseComp-ZH: hard questions for browsing agents, in Chinese, with short answers; read without leaving a plain copy.

Expects a folder with the encrypted files as they are published: one `*.xlsx` (columns `Topic`, `Question`, `Answer`,
`canary`) with the original answers, one `*.csv` (`raw_problem`, `raw_answer`, `answer`, `canary` and others) with revised
ones, or both. A cell is the base64 of its UTF-8 text, XORed with the SHA-256 of the row's canary; only the canary is
plain. What is decrypted stays in memory: questions that can be read on the web end up in the training data of models.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import itertools
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentinfer_lg.errors import ConfigurationError, UserInputError
from agentinfer_lg.evals.datasets.question import Question

Answers = Literal["original", "revised"]
"""Whose answers are right: the authors', or those of the revision, which corrected 24."""

_CANARY = "canary"
_MAX_BYTES = 50_000_000
"""Most bytes of a file, and of the sheets inside an xlsx: the published ones have less than 1% of it."""
_ALTERNATIVE = re.compile(r"\s+or\s+")
"""Between the answers of a revised row that has several."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, decrypted."""

    number: int
    """As a spreadsheet counts: the header is row 1."""
    cells: Mapping[str, str]


def load_questions(
    folder: Path, *, answers: Answers = "original", offset: int = 0, limit: int | None = None
) -> list[Question]:
    """Read questions, in the order of the xlsx.

    Ids (`bczh-001`, ...) name the same questions with either kind of answers, so that one run can be scored against both.
    Where only the csv is there, questions come in its order, which is another one, with ids of their own (`bczh-r001`) and
    without topics.

    Args:
        folder: Holds the files.
        answers: `original` needs the xlsx, `revised` the csv.
        offset: Questions to leave out at the start.
        limit: Most questions to return.

    Raises:
        UserInputError: The folder does not hold the file, or the file is not as published.
        ConfigurationError: `openpyxl`, which reads the xlsx, is not installed.
    """
    if not folder.is_dir():
        msg = f"{folder} is no folder. Point --data to the BrowseComp-ZH folder (docs/data.md)."
        raise UserInputError(msg)
    sheet, revision = _only(folder, "*.xlsx"), _only(folder, "*.csv")
    wanted, pattern = (sheet, "*.xlsx") if answers == "original" else (revision, "*.csv")
    if wanted is None:
        msg = f"{folder} holds no {pattern}, which has the {answers} answers. Add it, or use the other ones (docs/data.md)."
        raise UserInputError(msg)
    questions = [] if sheet is None else _originals(_read(sheet, ("Topic", "Question", "Answer")))
    if answers == "revised" and revision is not None:
        rows = _read(revision, ("raw_problem", "raw_answer", "answer"))
        questions = _revised(questions, rows, revision) if questions else _only_revised(rows)
    return questions[offset:][:limit]


def load_answer_sets(
    folder: Path, *, offset: int = 0, limit: int | None = None
) -> dict[Answers, list[Question]]:
    """Read the same questions with each kind of answers that the folder has, the original ones first.

    Args:
        folder: Holds the files.
        offset: Questions to leave out at the start.
        limit: Most questions to return.

    Raises:
        UserInputError: The folder holds neither file, or one that is not as published.
        ConfigurationError: `openpyxl`, which reads the xlsx, is not installed.
    """
    patterns: dict[Answers, str] = {"original": "*.xlsx", "revised": "*.csv"}
    there = [answers for answers, pattern in patterns.items() if folder.is_dir() and _only(folder, pattern)]
    return {
        answers: load_questions(folder, answers=answers, offset=offset, limit=limit)
        for answers in there or ["original"]  # which says what is missing
    }


def decrypt(cell: str, canary: str) -> str:
    """Return the text of an encrypted cell.

    Raises:
        ValueError: It is not encrypted, or with another canary.
    """
    data = base64.b64decode(cell.strip(), validate=True)
    key = itertools.cycle(hashlib.sha256(canary.encode()).digest())
    return bytes(left ^ right for left, right in zip(data, key, strict=False)).decode()


def _originals(rows: Iterable[_Row]) -> list[Question]:
    return [
        Question(
            id=f"bczh-{number:03d}",
            question=_text(row, "Question"),
            answer=_text(row, "Answer"),
            topic=_text(row, "Topic"),
        )
        for number, row in enumerate(rows, start=1)
    ]


def _only_revised(rows: Iterable[_Row]) -> list[Question]:
    return [
        _with_revision(Question(id=f"bczh-r{number:03d}", question=_text(row, "raw_problem"), answer=""), row)
        for number, row in enumerate(rows, start=1)
    ]


def _revised(originals: Iterable[Question], rows: Iterable[_Row], file: Path) -> list[Question]:
    """Return the questions of the xlsx with the answers of the csv, whose rows have another order and no common key."""
    by_text = {_matchable(_text(row, "raw_problem")): row for row in rows}
    questions = []
    for question in originals:
        row = by_text.get(_matchable(question.question))
        if row is None:
            msg = f"{file} has no row for question {question.id} of the xlsx. Take both as they are published (docs/data.md)."
            raise UserInputError(msg)
        questions.append(_with_revision(question, row))
    return questions


def _with_revision(question: Question, row: _Row) -> Question:
    answer = _text(row, "answer")
    # Only a corrected answer can be a list; a title that was right before may have the word in it.
    changed = answer != _text(row, "raw_answer")
    first, *others = _ALTERNATIVE.split(answer) if changed else [answer]
    return Question(
        id=question.id,
        question=question.question,
        answer=first,
        also_right=tuple(others),
        topic=question.topic,
    )


def _text(row: _Row, column: str) -> str:
    """Return a cell as people read it: some hold line breaks as HTML entities, some end in spaces."""
    return html.unescape(row.cells[column]).strip()


def _matchable(text: str) -> str:
    """Return what two spellings of one question have in common: letters and digits."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).lower()))


def _only(folder: Path, pattern: str) -> Path | None:
    # A spreadsheet program that has the file open puts a lock file next to it.
    found = sorted(file for file in folder.glob(pattern) if not file.name.startswith(("~", ".")))
    if len(found) > 1:
        msg = (
            f"{folder} holds {len(found)} {pattern} and should hold one. Move the others away (docs/data.md)."
        )
        raise UserInputError(msg)
    return found[0] if found else None


def _read(file: Path, columns: Sequence[str]) -> list[_Row]:
    """Return the rows of a file with these columns decrypted."""
    if file.stat().st_size > _MAX_BYTES:
        raise UserInputError(_not_as_published(file, "is too large"))
    header, *rows = _sheet_cells(file) if file.suffix == ".xlsx" else _csv_cells(file)
    missing = [name for name in (*columns, _CANARY) if name not in header]
    if missing:
        raise UserInputError(_not_as_published(file, f"has no column {missing[0]!r}"))
    return [
        _decrypted(file, number, dict(zip(header, row, strict=False)), columns)
        for number, row in enumerate(rows, start=2)
        if any(row)
    ]


def _decrypted(file: Path, number: int, row: Mapping[str, str], columns: Sequence[str]) -> _Row:
    canary = row.get(_CANARY, "")
    if not canary:
        raise UserInputError(_not_as_published(file, f"has no canary in row {number}"))
    cells = {}
    for column in columns:
        try:
            cells[column] = decrypt(row.get(column, ""), canary)
        except ValueError:
            reason = f"has a cell that its canary does not decrypt: row {number}, column {column!r}"
            raise UserInputError(_not_as_published(file, reason)) from None
        if not cells[column].strip():
            raise UserInputError(
                _not_as_published(file, f"has an empty cell: row {number}, column {column!r}")
            )
    return _Row(number, cells)


def _not_as_published(file: Path, reason: str) -> str:
    return f"{file} {reason}. Take the encrypted file as it is published (docs/data.md)."


def _csv_cells(file: Path) -> list[list[str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        cells = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserInputError(_not_as_published(file, f"is no CSV file ({error})")) from None
    return cells or [[]]


def _sheet_cells(file: Path) -> list[list[str]]:
    """Return the cells of the first sheet as text."""
    try:
        import openpyxl
    except ImportError:
        msg = f"Reading {file.name} needs openpyxl: pip install 'agentinfer-lg[evals]'."
        raise ConfigurationError(msg) from None
    data = io.BytesIO(file.read_bytes())
    try:
        with zipfile.ZipFile(data) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_BYTES:
            raise UserInputError(_not_as_published(file, "is too large"))
        book = openpyxl.load_workbook(data, read_only=True, data_only=True)
        cells = [
            ["" if value is None else str(value) for value in row]
            for row in book.worksheets[0].iter_rows(values_only=True)
        ]
        book.close()
    # A damaged file fails in any of the layers that read it: zip, XML, the references between sheets.
    except (zipfile.BadZipFile, KeyError, IndexError, ValueError, SyntaxError, OSError) as error:
        reason = f"cannot be read as xlsx ({type(error).__name__})"
        raise UserInputError(_not_as_published(file, reason)) from None
    return cells or [[]]
