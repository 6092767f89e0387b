"""Fidelity: what an original says passes, what it does not say is taken out."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.cpu_time import takes_less

from agentinfer_lg.compression.fidelity import Reference, exact_terms, is_faithful
from agentinfer_lg.text import sentences

_FILM = (
    "Doctor Strange is a 2016 film directed by Scott Derrickson (born July 16, 1966), an American. It cost $165–200 million "
    "and earned $677.8 million, 35% more than planned. 1,234,567 people saw it in two weeks. The Anglo-Dutch critic "
    "Anna de Vries wrote: “A ride without brakes.” See https://film.example.org/Strange?id=7aB. In the U.S. it ran four "
    "weeks; its code is LX-003-Q, its length 1:55, its score 8.25."
)
_POEM = "《静夜思》是唐代诗人李白于726年写的诗，全诗20字。人口约3.5万人，面积1,250平方公里。"


@pytest.mark.parametrize(
    "sentence",
    [
        "Scott Derrickson directed Doctor Strange (2016).",
        "Scott Derrickson was born on July 16, 1966.",
        "Derrickson's film earned 677.8 million",
        "It earned $677,800,000.",
        "1234567 people saw the film.",
        "The film earned 35 percent more than planned.",
        "It ran 4 weeks in the US.",
        "The film cost $165-200 million.",
        "The critic Anna de Vries is Dutch.",
        'Anna de Vries wrote: "A ride without brakes"',
        "its code is LX-003-Q",
        "According to this, the film is American.",
        "See HTTPS://Film.example.org/Strange?id=7aB.",
        "Its length is 1:55",
    ],
)
def test_what_the_original_says(sentence: str) -> None:
    assert is_faithful(sentence, _FILM)


@pytest.mark.parametrize(
    "sentence",
    [
        "Doctor Strange is a 2061 film directed by Scott Derrickson.",
        "Scott Derrickson was born on July 61, 1966.",
        "It earned $677.8 billion.",
        "It earned 67.78 million.",
        "It earned a million, 35% more than planned, billions.",
        "1,234,576 people saw it in two weeks.",
        "It earned 36% more than planned.",
        "Three weeks it ran in the U.S.",
        "Madrid is a film directed by Scott Derrickson.",
        "Doctor Strange is a film directed by Steven Derrickson.",
        "See https://film.example.org/Strange?id=7ab.",
        "See https://film.example.org/Strange?id=7",
        "See https://other.example.org/Strange?id=7aB.",
        "Anna de Vries wrote: “A ride with brakes.”",
        'Anna de Vries wrote: "A film without brakes"',
        "its code is LX-030-Q",
        "Doctor Strange is not a film directed by Scott Derrickson.",
        "Its score is 8.52.",
        "Its score is 8.",
        "The weather over the northern islands stayed mild through autumn.",
        "1,234,567 people saw it in two weeks. 9",
    ],
)
def test_what_the_original_does_not_say(sentence: str) -> None:
    assert not is_faithful(sentence, _FILM)


@pytest.mark.parametrize(
    ("sentence", "faithful"),
    [
        ("《静夜思》是李白写的诗。", True),
        ("李白于726年写的诗", True),
        ("人口约３.５万人", True),
        ("面积1250平方公里", True),
        ("《将进酒》是李白写的诗。", False),
        ("李白于762年写的诗", False),
        ("人口约3.5亿人", False),
        ("《静夜思》不是唐代诗人李白写的诗", False),
        ("杜甫在成都草堂居住多年", False),
    ],
)
def test_chinese(sentence: str, faithful: bool) -> None:
    assert is_faithful(sentence, _POEM) is faithful


@pytest.mark.parametrize(
    "sentence", ["1,234,56", "1,234", "It cost $165–200 million and earned $677", "the critic Ann", "score 8"]
)
def test_a_cut_number_or_name_is_not_word_for_word(sentence: str) -> None:
    assert not is_faithful(sentence, _FILM)


def test_what_was_not_found_may_be_denied() -> None:
    sentence = "The original does not say who directed the film"
    assert not Reference(_FILM).supports(sentence)
    assert Reference(_FILM).supports("no word on the critic of the film", denies=True)


def test_exact_terms() -> None:
    terms = exact_terms("The film of Scott’s LX-3 earned 1,200 in 1999; see https://A.example.org/B.")
    assert {"scott", "lx-3", "1200", "1999", "https://a.example.org/B"} <= terms
    assert not {"the", "film"} & terms


_prose = st.lists(
    st.sampled_from(
        ["Ada", "Winter's", "the", "lamp", "was", "lit", "1,234", "5–6", "3.5", "U.S.", "“so it is”", "不", "李白",
         "《静夜思》", "www.a.example/B.", "726年", "e.g.", "A-1", '"odd', "Mr.", "is not", "\n", "\n\n", "…", "%"]
    )
    | st.text(max_size=8),
    max_size=40,
).map(" ".join)  # fmt: skip


@settings(deadline=None)
@given(_prose | st.text(max_size=200))
def test_a_sentence_of_the_original_is_faithful(text: str) -> None:
    reference = Reference(text)
    for sentence in sentences(text):
        assert reference.supports(sentence)


@settings(deadline=None)
@given(_prose, _prose, st.integers(100, 10**9))
def test_a_sentence_with_another_number_is_not(text: str, words: str, number: int) -> None:
    digits = re.sub(r"\D", "", text)
    assume(str(number) not in digits)
    assert not is_faithful(f"{words} {number} {words}", text)


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_text_is_compared(sentence: str, original: str) -> None:
    assert isinstance(is_faithful(sentence, original), bool)
    assert isinstance(exact_terms(sentence), set)


def test_sentences_of_wikipedia() -> None:
    folder = os.environ.get("AGENTINFER_DATA")
    if not folder:
        pytest.skip("set AGENTINFER_DATA to the folder of the data sets (docs/data.md)")
    corpus = json.loads((Path(folder) / "hotpotqa" / "corpus_994.json").read_text(encoding="utf-8"))
    paragraphs = [(title, "".join(parts)) for title, parts in corpus.items()]
    references = [Reference(f"{title}\n{text}") for title, text in paragraphs]
    told = light = others = count = light_count = 0
    for position, (_, text) in enumerate(paragraphs):
        for sentence in sentences(text):
            count += 1
            told += references[position].supports(sentence)
            others += references[position - 1].supports(sentence)
            without = re.sub(r" \([^)]*\)", "", sentence)
            if without != sentence:
                light_count += 1
                light += references[position].supports(without)
    assert told == count > 4000
    assert light >= 0.98 * light_count
    assert others <= 0.01 * count


@pytest.mark.parametrize(
    "unit", ["1,", "1.", "A-", "a'", "é", "“", '"', "http://", "1-1/", "www.", "1 million ", "9"]
)
def test_hostile_text_takes_no_time(unit: str) -> None:
    text = unit * (30_000 // len(unit))
    assert takes_less(1.5, lambda: Reference(text).supports("Ada Winter lit 3 lamps. " + text[:300]))
