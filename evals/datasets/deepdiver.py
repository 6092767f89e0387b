"""Questions in the style of WebPuzzle, the set that DeepDiver was trained and measured on, from a file that you bring.

A list of objects as JSON, an object per line (JSON Lines), or CSV with a header. Each has a question and an answer, and
perhaps an id and a topic, under any of the common names below or those that you give.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.text import well_formed

_MAX_ID = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

_Item = tuple[int, Mapping[str, object]]
"""Line in the file, and what stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Names of the fields, the first that an object has is taken."""

    question: Sequence[str] = ("question", "query", "problem")
    answer: Sequence[str] = ("answer", "ground_truth", "target")
    """A text, a number, or a list of them: the first is the answer, the others are right as well."""
    id: Sequence[str] = ("id",)
    topic: Sequence[str] = ("topic", "category", "difficulty")


def load_questions(
    file: Path, *, fields: Fields | None = None, offset: int = 0, limit: int | None = None
) -> list[Question]:
    """Read questions, in the order of the file.

    Ids are made fit for file names: other characters than letters, digits, `.`, `_` and `-` become `-`, at most 64 are
    kept, and one that was there before gets a number. A question without an id gets its place in the file: `q-0001`.

    Args:
        file: Ends in `.json`, `.jsonl`, `.ndjson` or `.csv`.
        fields: Names of the fields where they are others than the common ones.
        offset: Questions to leave out at the start.
        limit: Most questions to return.

    Raises:
        UserInputError: The file is missing or cannot be used; the sentence names the line.
    """
    names = fields or Fields()
    taken: set[str] = set()
    questions = []
    for place, (line, item) in enumerate(_items(file), start=1):
        answers = _answers(file, line, item, names.answer)
        questions.append(
            Question(
                id=_unique(_text(item, names.id) or f"q-{place:04d}", taken, place),
                question=_needed(file, line, _text(item, names.question), "question", names.question),
                answer=answers[0],
                also_right=tuple(answers[1:]),
                topic=_text(item, names.topic),
            )
        )
    if not questions:
        msg = f"{file} holds no questions (docs/data.md)."
        raise UserInputError(msg)
    return questions[offset:][:limit]


def _items(file: Path) -> Iterator[_Item]:
    readers = {".json": _json_list, ".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv_rows}
    reader = readers.get(file.suffix.lower())
    if reader is None or not file.is_file():
        msg = f"{file} is no file that ends in {', '.join(readers)}. Point --file to the questions (docs/data.md)."
        raise UserInputError(msg)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        msg = f"{file} is not UTF-8. Save it in that encoding."
        raise UserInputError(msg) from None
    for line, value in reader(file, text):
        if not isinstance(value, dict):
            msg = f"{file}, line {line}: expected an object with a question and an answer (docs/data.md)."
            raise UserInputError(msg)
        yield line, value


def _json_list(file: Path, text: str) -> Iterator[tuple[int, object]]:
    if not isinstance(_parsed(file, text, 1), list):
        msg = f"{file}, line 1: expected a list of objects; one object per line goes into a .jsonl file (docs/data.md)."
        raise UserInputError(msg)
    # Once more, item by item, because a parsed list does not tell on which line an item begins.
    decoder = json.JSONDecoder()
    position, line, counted = text.index("[") + 1, 1, 0
    while True:
        start = position
        while text[start] in " \t\r\n,":
            start += 1
        if text[start] == "]":
            return
        line += text.count("\n", counted, start)
        counted = start
        value, position = decoder.raw_decode(text, start)
        yield line, value


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, object]]:
    # Not splitlines: it also breaks at characters that JSON allows inside strings.
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, _parsed(file, content, line)


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, object]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 2
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        msg = f"{file}, line {line}: no valid CSV ({error})."
        raise UserInputError(msg) from None


def _parsed(file: Path, text: str, line: int) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{file}, line {line + error.lineno - 1}: no valid JSON ({error.msg})."
        raise UserInputError(msg) from None
    except RecursionError:
        msg = f"{file}, line {line}: nested too deeply."
        raise UserInputError(msg) from None


def _answers(file: Path, line: int, item: Mapping[str, object], names: Sequence[str]) -> list[str]:
    value = next((item[name] for name in names if item.get(name) not in (None, "")), None)
    values = value if isinstance(value, list) else [value]
    texts = [_plain(value) for value in values]
    if not texts or not all(texts):
        _needed(file, line, "", "answer", names)
    return list(dict.fromkeys(texts))


def _needed(file: Path, line: int, text: str, what: str, names: Sequence[str]) -> str:
    if text:
        return text
    msg = f"{file}, line {line}: no {what}. It is looked for under {', '.join(map(repr, names))} (docs/data.md)."
    raise UserInputError(msg)


def _text(item: Mapping[str, object], names: Sequence[str]) -> str:
    return next((text for name in names if (text := _plain(item.get(name)))), "")


def _plain(value: object) -> str:
    """Return a text or number as text, anything else as an empty one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return well_formed(str(value)).strip()


def _unique(wanted: str, taken: set[str], place: int) -> str:
    """Return a name for files that differs from those before, also where capitals do not count."""
    base = _UNSAFE.sub("-", wanted)[:_MAX_ID].strip("-._") or f"q-{place:04d}"
    name, number = base, 1
    while name.lower() in taken:
        number += 1
        ending = f"-{number}"
        name = base[: _MAX_ID - len(ending)] + ending
    taken.add(name.lower())
    return name
