"""Questions from files of the user: JSON, JSON Lines, CSV."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.deepdiver import Fields, load_questions
from agentinfer_lg.evals.datasets.question import Question

ITEMS: list[dict[str, Any]] = [
    {
        "id": "a/1",
        "question": " 灯塔是哪一年点亮的？ ",
        "answer": ["1950年", "1950", "1950年"],
        "topic": "灯塔",
    },
    {"query": "How high is it?", "ground_truth": 31, "difficulty": 3},
    {"id": 7, "problem": "Who built it?", "target": "Ada Winter", "category": "people"},
]
WANTED = [
    Question(id="a-1", question="灯塔是哪一年点亮的？", answer="1950年", also_right=("1950",), topic="灯塔"),
    Question(id="q-0002", question="How high is it?", answer="31", topic="3"),
    Question(id="7", question="Who built it?", answer="Ada Winter", topic="people"),
]


def save(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(ITEMS)),
        ("b.json", "\ufeff" + json.dumps(ITEMS, indent=2, ensure_ascii=False)),
        ("c.jsonl", "\n\n".join(json.dumps(item, ensure_ascii=False) for item in ITEMS) + "\n"),
        ("d.NDJSON", "\r\n".join(map(json.dumps, ITEMS))),
    ],
)
def test_json(tmp_path: Path, name: str, text: str) -> None:
    file = save(tmp_path, name, text)
    assert load_questions(file) == WANTED
    assert load_questions(file, offset=1, limit=1) == WANTED[1:2]


def test_csv(tmp_path: Path) -> None:
    file = save(tmp_path, "a.csv", 'id,question,answer\nx,"one,\ntwo?",1\n,three?,3\n')
    assert load_questions(file) == [
        Question(id="x", question="one,\ntwo?", answer="1"),
        Question(id="q-0002", question="three?", answer="3"),
    ]


def test_other_fields(tmp_path: Path) -> None:
    file = save(tmp_path, "a.jsonl", '{"frage": "Wann?", "antwort": "1950", "question": "no"}')
    fields = Fields(question=("frage",), answer=("antwort",))
    assert load_questions(file, fields=fields) == [Question(id="q-0001", question="Wann?", answer="1950")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", "is no file that ends in"),
        ("a.json", "[]", "holds no questions"),
        ("a.json", '[\n{"question": "a"\n', "line 3: no valid JSON"),
        ("a.json", '{"question": "a"}', "line 1: expected a list"),
        ("a.json", '[\n\n{"question": "a", "answer": "b"},\n7]', "line 4: expected an object"),
        ("a.json", '[{"question": "a",\n"answer": "b"},\n{"answer": "b"}\n]', "line 3: no question"),
        ("a.json", "[" * 100_000, "nested too deeply|no valid JSON"),
        ("a.jsonl", '\n{"question": "a", "answer": []}', "line 2: no answer"),
        ("a.jsonl", '{"question": "a", "answer": ["b", ""]}', "line 1: no answer"),
        ("a.jsonl", '{"question": "a", "answer": true}', "line 1: no answer"),
        ("a.jsonl", '{"question": "a", "answer": "b"}\n{', "line 2: no valid JSON"),
        ("a.csv", 'question,answer\n"a\nb",c\nd,\n', "line 4: no answer"),
        ("a.csv", 'question,answer\na,"b', "line 2: no valid CSV"),
        ("a.csv", "frage,antwort\na,b\n", "looked for under 'answer', 'ground_truth', 'target'|'question'"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserInputError, match=message) as caught:
        load_questions(save(tmp_path, name, text))
    assert name in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(UserInputError, match="is no file"):
            load_questions(path)
    (tmp_path / "a.json").write_bytes(b"\xff\xff")
    with pytest.raises(UserInputError, match="is not UTF-8"):
        load_questions(tmp_path / "a.json")


@given(st.lists(st.one_of(st.text(), st.sampled_from(["a", "A", "a-2", "x" * 70, "q-0002"])), max_size=8))
def test_ids_are_fit_for_file_names_and_unique(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str]
) -> None:
    items = [{"id": wanted, "question": "a", "answer": "b"} for wanted in [*ids, ""]]
    found = load_questions(save(tmp_path_factory.mktemp("ids"), "a.json", json.dumps(items)))
    names = [question.id for question in found]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) for name in names)
    assert len({name.lower() for name in names}) == len(items)
