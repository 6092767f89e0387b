"""BrowseComp-ZH: decrypting, the two kinds of answers, and files that are not as published."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import ConfigurationError, UserInputError
from agentinfer_lg.evals.datasets.browsecomp_zh import decrypt, load_questions
from agentinfer_lg.evals.datasets.question import Question

CANARY = "made-up canary"
ROWS = [
    ("灯塔", " 哪一年点亮了鸬鹚礁灯塔？&#10;只答年份。 ", "1950年"),
    ("Boats", "Who built the ferry 'Gull'?", "Ada or Winter "),
    ("灯塔", "鸬鹚礁灯塔有多高？", "31米"),
]
REVISED = [
    ("鸬鹚礁灯塔有多高？", "31米", "31米 or\u00a0三十一米"),
    ("哪一年点亮了鸬鹚礁灯塔？ 只答年份。", "1950年", "1950年"),
    ("who built the ferry ‘Gull’?", "Ada or Winter", "Ada or Winter"),
]
SHEET = ("Topic", "Question", "Answer", "canary")
CSV = ("n", "raw_problem", "raw_answer", "answer", "canary")


def encrypt(text: str, canary: str = CANARY) -> str:
    key = hashlib.sha256(canary.encode()).digest()
    return base64.b64encode(bytes(b ^ key[i % 32] for i, b in enumerate(text.encode()))).decode()


def rows(plain: Sequence[Sequence[str]], *, numbered: bool = False) -> list[list[str]]:
    places = [[encrypt(str(place))] if numbered else [] for place in range(len(plain))]
    return [[*places[i], *map(encrypt, row), CANARY] for i, row in enumerate(plain)]


def write_xlsx(folder: Path, content: Sequence[Sequence[str]], header: Sequence[str] = SHEET) -> Path:
    openpyxl = pytest.importorskip("openpyxl", reason="reading xlsx needs openpyxl")
    book = openpyxl.Workbook()
    for row in (header, *content):
        book.active.append(list(row))
    book.save(folder / "questions.xlsx")
    return folder / "questions.xlsx"


def write_csv(folder: Path, content: Sequence[Sequence[str]], header: Sequence[str] = CSV) -> Path:
    file = folder / "revised.csv"
    with file.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header, *content])
    return file


@given(st.text(), st.text())
def test_decrypting_undoes_encrypting(text: str, canary: str) -> None:
    assert decrypt(encrypt(text, canary), canary) == text


def test_original_answers(tmp_path: Path) -> None:
    write_xlsx(tmp_path, rows(ROWS))
    (tmp_path / "~$questions.xlsx").write_bytes(b"lock")
    questions = load_questions(tmp_path)
    assert questions[0] == Question(
        id="bczh-001", question="哪一年点亮了鸬鹚礁灯塔？\n只答年份。", answer="1950年", topic="灯塔"
    )
    assert [q.id for q in questions] == ["bczh-001", "bczh-002", "bczh-003"]
    assert [q.answers for q in questions] == [("1950年",), ("Ada or Winter",), ("31米",)]
    assert load_questions(tmp_path, offset=1, limit=1) == questions[1:2]
    with pytest.raises(UserInputError, match=r"holds no \*\.csv, which has the revised answers"):
        load_questions(tmp_path, answers="revised")


def test_revised_answers_have_the_same_ids(tmp_path: Path) -> None:
    write_xlsx(tmp_path, rows(ROWS))
    write_csv(tmp_path, rows(REVISED, numbered=True))
    original, revised = load_questions(tmp_path), load_questions(tmp_path, answers="revised")
    assert [(q.id, q.question, q.topic) for q in revised] == [(q.id, q.question, q.topic) for q in original]
    # Only a corrected answer is a list of several.
    assert [q.answers for q in revised] == [("1950年",), ("Ada or Winter",), ("31米", "三十一米")]


def test_only_the_revised_file(tmp_path: Path) -> None:
    write_csv(tmp_path, rows(REVISED, numbered=True))
    questions = load_questions(tmp_path, answers="revised")
    assert [q.id for q in questions] == ["bczh-r001", "bczh-r002", "bczh-r003"]
    assert questions[0].answers == ("31米", "三十一米")
    with pytest.raises(UserInputError, match=r"holds no \*\.xlsx, which has the original answers"):
        load_questions(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="is no folder"):
        load_questions(tmp_path / "missing")
    with pytest.raises(UserInputError, match=r"holds no \*\.xlsx"):
        load_questions(tmp_path)


def test_a_revision_of_other_questions(tmp_path: Path) -> None:
    write_xlsx(tmp_path, rows(ROWS))
    write_csv(tmp_path, rows(REVISED[:2], numbered=True))
    with pytest.raises(UserInputError, match="no row for question bczh-002"):
        load_questions(tmp_path, answers="revised")


def test_two_files_of_a_kind(tmp_path: Path) -> None:
    write_csv(tmp_path, rows(REVISED, numbered=True)).rename(tmp_path / "other.csv")
    write_csv(tmp_path, rows(REVISED, numbered=True))
    with pytest.raises(UserInputError, match=r"holds 2 \*\.csv"):
        load_questions(tmp_path, answers="revised")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, row: (["x", *header[1:4], "key"], row), "has no column 'canary'"),
        (lambda header, row: (["x", "problem", *header[2:]], row), "has no column 'raw_problem'"),
        (lambda header, row: (header, [*row[:4], ""]), "has no canary in row 2"),
        (lambda header, row: (header, row[:3]), "has no canary in row 2"),
        (lambda header, row: (header, [*row[:3], "SECRET!", row[4]]), r"row 2, column 'answer'\."),
        (lambda header, row: (header, [*row[:4], "another"]), r"row 2, column 'raw_problem'\."),
        (lambda header, row: (header, [*row[:3], "", row[4]]), "has an empty cell: row 2, column 'answer'"),
    ],
)
def test_a_file_that_is_not_as_published(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    header, row = change(list(CSV), rows(REVISED, numbered=True)[0])
    write_csv(tmp_path, [row], header)
    with pytest.raises(UserInputError, match=message) as caught:
        load_questions(tmp_path, answers="revised")
    shown = str(caught.value)
    assert "as it is published (docs/data.md)" in shown
    assert "SECRET" not in shown
    assert row[1] not in shown


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'"open', b""])
def test_no_csv(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserInputError, match=r"is no CSV file|has no column"):
        load_questions(tmp_path, answers="revised")


def test_no_xlsx(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl", reason="reading xlsx needs openpyxl")
    file = tmp_path / "a.xlsx"
    file.write_bytes(b"PK no zip")
    with pytest.raises(UserInputError, match=r"cannot be read as xlsx \(BadZipFile\)"):
        load_questions(tmp_path)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("other.txt", "no workbook")
    with pytest.raises(UserInputError, match="cannot be read as xlsx"):
        load_questions(tmp_path)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b"0" * 50_000_001)
    with pytest.raises(UserInputError, match="is too large"):
        load_questions(tmp_path)
    file.unlink()
    write_xlsx(tmp_path, rows(ROWS), ("Topic", "Question", "Reply", "canary"))
    with pytest.raises(UserInputError, match="has no column 'Answer'"):
        load_questions(tmp_path)


def test_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'agentinfer-lg\[evals\]'"):
        load_questions(tmp_path)


@given(cells=st.lists(st.lists(st.text(max_size=20), max_size=6), max_size=4))
def test_any_csv_gives_questions_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    text = "\n".join(",".join(row) for row in [[*CSV], *cells])
    (folder / "a.csv").write_text(text, encoding="utf-8", errors="replace", newline="")
    with contextlib.suppress(UserInputError):
        assert load_questions(folder, answers="revised") == []


def test_the_published_files() -> None:
    data = os.environ.get("AGENTINFER_DATA")
    folder = Path(data or "", "browsecomp-zh")
    if not data or not folder.is_dir():
        pytest.skip("AGENTINFER_DATA does not name a folder with browsecomp-zh")
    pytest.importorskip("openpyxl", reason="reading xlsx needs openpyxl")
    original, revised = load_questions(folder), load_questions(folder, answers="revised")
    assert len(original) == len({q.question for q in original}) == 289
    assert [q.id for q in original] == [q.id for q in revised]
    assert [q.question for q in original] == [q.question for q in revised]
    assert sum(a.answers != b.answers for a, b in zip(original, revised, strict=True)) == 24
    assert len({q.topic for q in original}) == 11
    assert all(q.question and q.answer for q in (*original, *revised))
    assert sum(len(q.answers) > 1 for q in revised) == 5
