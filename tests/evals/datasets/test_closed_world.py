"""A closed world: certain answers, found only one document after the other."""

import asyncio
import hashlib
import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.closed_world.world import (
    World,
    WorldDocument,
    generate_world,
    write_world,
)
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.text import detect_language
from agentinfer_lg.tools import LocalFolder

WORLD = generate_world(seed=7, questions=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(WORLD, folder)
    return folder


def first_hits(folder: Path, queries: list[str]) -> list[list[WorldDocument]]:
    """The ten best documents for each query."""
    found = asyncio.run(LocalFolder(folder).search(queries, limit=10))
    by_uri = {f"{document.name}.md": document for document in WORLD.documents}
    return [[by_uri[hit.uri] for hit in hits] for hits in found]


def whole(document: WorldDocument) -> str:
    return f"{document.title}\n{document.text}"


def holds(text: str, answer: str) -> bool:
    """Whether `answer` stands in `text`, not as a part of a longer word or number."""
    if answer not in text:
        return False
    if answer.isascii():
        return re.search(rf"(?<![A-Za-z0-9,]){re.escape(answer)}(?![A-Za-z0-9]|,\d)", text) is not None
    return True


def holders(world: World, text: str) -> list[WorldDocument]:
    return [document for document in world.documents if holds(whole(document), text)]


def evidence_of(world: World) -> dict[str, WorldDocument]:
    return {document.title: document for document in world.documents if document.kind == "evidence"}


@given(st.integers(min_value=0, max_value=10**9), st.integers(1, 12), st.integers(0, 12))
@settings(max_examples=6, deadline=None)
def test_a_world_is_the_beginning_of_a_larger_one(seed: int, questions: int, more: int) -> None:
    small = generate_world(seed=seed, questions=questions)
    large = generate_world(seed=seed, questions=questions + more)
    assert large.questions[:questions] == small.questions
    assert large.documents[: len(small.documents)] == small.documents
    assert large.facts[: len(small.facts)] == small.facts


def test_a_seed_gives_one_world_and_another_seed_another() -> None:
    assert generate_world(seed=7, questions=60) == WORLD
    other = generate_world(seed=8, questions=60)
    mine, others = ({title for q in world.questions for title in q.evidence} for world in (WORLD, other))
    assert not mine & others


def test_the_same_seed_gives_the_same_world_everywhere() -> None:
    """Figures measured on a world hold for this one; a change of words or draws makes another, and says so here."""
    digest = hashlib.sha256(repr(generate_world(seed=7, questions=20)).encode()).hexdigest()
    assert digest == "6f9f1d56f56dd418e833704711ac32ae5010ad8cb9200852f64f72b0961f3b2f"


def test_the_first_questions_are_balanced() -> None:
    first = WORLD.questions[:10]
    assert {(q.topic.split()[0], q.hops) for q in first} == {
        (x, n) for x in ("en", "zh") for n in range(2, 7)
    }
    kinds: dict[int, set[str]] = defaultdict(set)
    for question in WORLD.questions:
        kinds[question.hops].add(asked_kind(question))
        assert len(question.evidence) == question.hops
    assert all(len(found) == 5 for found in kinds.values())
    assert len({question.topic for question in WORLD.questions}) == 24


def test_a_question_in_one_sentence_names_its_start_last() -> None:
    """Nested clauses would otherwise pile up their verbs at the end."""
    for question in WORLD.questions:
        if question.topic.startswith("en") and question.hops <= 4:
            after = question.question.partition(question.evidence[0])[2]
            assert len(after.split()) <= 4


def asked_kind(question: Question) -> str:
    last = question.evidence[-1]
    return next(f.relation for f in WORLD.facts if f.subject == last and f.value == question.answer)


def test_documents_read_like_documents_and_their_files_tell_nothing() -> None:
    evidence = [document for document in WORLD.documents if document.kind == "evidence"]
    for document in WORLD.documents:
        assert re.fullmatch(r"w7-\d+", document.name)
        assert not re.search(r"[{}]|  |None", whole(document))
    for document in evidence:
        zh = detect_language(document.text) == "zh"
        length = len(document.text) if zh else len(document.text.split())
        low, high = (200, 830) if zh else (120, 530)
        assert low <= length <= high
    assert len({document.name for document in WORLD.documents}) == len(WORLD.documents)
    assert len({document.title for document in evidence}) == len(evidence)
    orders = [kinds_in_order(number) for number in range(20)]
    assert len(set(orders)) > 15


def kinds_in_order(number: int) -> tuple[str, ...]:
    titles = set(WORLD.questions[number].evidence)
    own = [document for document in WORLD.documents if document.near in titles]
    return tuple(document.kind for document in sorted(own, key=lambda document: document.name))


def test_the_needed_sentence_is_not_always_in_the_first_paragraph() -> None:
    documents = evidence_of(WORLD)
    places = [
        next(i for i, part in enumerate(documents[here].text.split("\n\n")) if there in part)
        for question in WORLD.questions
        for here, there in pairwise(question.evidence)
    ]
    assert sum(place > 0 for place in places) > len(places) / 2
    assert 0 in places


@given(st.integers(min_value=0, max_value=10**6))
@settings(max_examples=5, deadline=None)
def test_the_answer_stands_in_the_last_document_only(seed: int) -> None:
    world = generate_world(seed=seed, questions=20)
    for question in world.questions:
        assert [document.title for document in holders(world, question.answer)] == [question.evidence[-1]]
        for variant in question.also_right:
            assert {document.title for document in holders(world, variant)} <= {question.evidence[-1]}
        assert not any(holds(question.question, answer) for answer in question.answers)
        assert len(question.answer.split()) <= 4
        assert question.answer.lower() not in ("yes", "no", "是", "否")
    answers = [question.answer for question in world.questions]
    assert len(set(answers)) == len(answers)


def test_the_question_names_only_the_first_entity_and_each_document_only_the_next() -> None:
    for question in WORLD.questions:
        first, *later = question.evidence
        assert first in question.question
        assert not any(name in question.question for name in later)
        for number, name in enumerate(question.evidence):
            others = {d.title for d in holders(WORLD, name) if d.near != name}
            assert others == set(question.evidence[number - 1 : number])


@pytest.mark.parametrize("seed", range(3))
def test_no_two_documents_contradict_each_other(seed: int) -> None:
    world = generate_world(seed=seed, questions=40)
    texts = {document.name: whole(document) for document in world.documents}
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in world.facts:
        assert holds(texts[fact.document], fact.value)
        assert holds(texts[fact.document], fact.subject)
        values[fact.subject, fact.relation].add(fact.value)
    assert {len(found) for found in values.values()} == {1}
    without = {
        document.name for document in world.documents if document.kind in ("advertisement", "dead end")
    }
    assert not without & {fact.document for fact in world.facts}


def test_a_similar_document_has_another_value_of_what_is_sought() -> None:
    found = 0
    for question in WORLD.questions:
        last = question.evidence[-1]
        kind = asked_kind(question)
        similar = {d.title for d in WORLD.documents if d.kind == "distractor" and d.near == last}
        rivals = [fact for fact in WORLD.facts if fact.subject in similar and fact.relation == kind]
        assert question.answer not in {rival.value for rival in rivals}
        found += bool(rivals)
    assert found > len(WORLD.questions) / 2


def test_searching_name_after_name_leads_to_the_answer(folder: Path) -> None:
    facts = {(fact.subject, fact.value): fact.document for fact in WORLD.facts}
    names = [name for question in WORLD.questions for name in question.evidence]
    hits = dict(zip(names, first_hits(folder, names), strict=True))
    for question in WORLD.questions:
        sought = [*question.evidence[1:], question.answer]
        for name, wanted in zip(question.evidence, sought, strict=True):
            (read,) = (hit for hit in hits[name] if hit.title == name)
            assert facts[name, wanted] == read.name
            assert holds((folder / f"{read.name}.md").read_text(encoding="utf-8"), wanted)


def test_most_hits_of_a_search_for_the_question_are_useless(folder: Path) -> None:
    found = first_hits(folder, [question.question for question in WORLD.questions])
    for question, hits in zip(WORLD.questions, found, strict=True):
        assert question.evidence[0] in [hit.title for hit in hits]
        assert sum(hit.title in question.evidence for hit in hits) < len(hits) / 2
    assert {hit.kind for hits in found for hit in hits} == {
        "evidence",
        "distractor",
        "advertisement",
        "dead end",
    }


def test_writing_keeps_what_is_there(tmp_path: Path) -> None:
    world = generate_world(seed=3, questions=4)
    assert write_world(world, tmp_path / "new") == len(world.documents)
    files = sorted((tmp_path / "new").iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    files[0].write_text("spoilt")
    assert write_world(world, tmp_path / "new") == len(files) == len(world.documents)
    assert [file.stat().st_mtime_ns for file in files[1:]] == times[1:]
    first = next(document for document in world.documents if f"{document.name}.md" == files[0].name)
    assert files[0].read_text(encoding="utf-8") == f"# {first.title}\n\n{first.text}\n"


def test_the_largest_world_has_words_and_answers_enough() -> None:
    none: dict[str, Any] = {"similar": 0, "mentions": 0, "advertisements": 0, "dead_ends": 0}
    for languages in (("en", "zh"), ("zh",)):
        world = generate_world(seed=1, questions=500, languages=languages, hops=(2,), **none)
        assert {question.topic.split()[0] for question in world.questions} == set(languages)
        assert len({question.answer for question in world.questions}) == 500
        assert len({document.title for document in world.documents}) == 1000
        assert max(Counter(document.name for document in world.documents).values()) == 1


def test_the_most_documents_of_a_question_have_words_enough() -> None:
    for kind in ("similar", "mentions"):
        world = generate_world(
            seed=1,
            questions=24,
            hops=(6,),
            **{"similar": 0, "mentions": 0, "advertisements": 0, "dead_ends": 0, kind: 24},
        )
        assert len({document.title for document in world.documents}) == len(world.documents) == 24 * 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"questions": 0}, "Ask for 1 to 500"),
        ({"questions": -3}, "-3 questions"),
        ({"questions": 501}, "Ask for 1 to 500"),
        ({"seed": -1}, "0 or more"),
        ({"languages": ("en", "de")}, "en, de"),
        ({"languages": ()}, "missing"),
        ({"languages": ("en", "en")}, "once"),
        ({"hops": (1, 2)}, "from 2 to 6"),
        ({"hops": (7,)}, "from 2 to 6"),
        ({"hops": ()}, "missing"),
        ({"similar": -1}, "from 0"),
        ({"similar": 30}, "24 at most"),
    ],
)
def test_what_cannot_be_generated_is_said(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        generate_world(**{"seed": 7, "questions": 1, **arguments})


def test_a_seed_always_gives_the_same_world() -> None:
    """Figures of the documentation are of these worlds: words may move to other files, but not change."""
    world = generate_world(seed=1, questions=12, languages=["en", "zh"], hops=[2, 3, 4, 5, 6])
    text = json.dumps(asdict(world), ensure_ascii=False, sort_keys=True, default=str)
    assert hashlib.sha256(text.encode()).hexdigest().startswith("b33ce88d689b5051")
