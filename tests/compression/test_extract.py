"""Extraction by code: the strings that nobody remembers, and the sentences that matter, word for word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cpu_time import takes_less

from agentinfer_lg.compression.extract import exact_strings, key_sentences
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.text import sentences

_TEXT = (
    "On 4 July 1999 Ada Lovelace of the Royal Society paid $5, then €1,250.50 million for LX-003-Q. See "
    "https://a.example.org/x?y=1. Write to ada.l@mail.example.org, please. It is 35 km long and 12,345 people live there; "
    "since 2001年 they read 《静夜思》 and “The Sea”."
)
_FOUND = [
    "4 July 1999",
    "Ada Lovelace of the Royal Society",
    "$5",
    "€1,250.50 million",
    "LX-003-Q",
    "https://a.example.org/x?y=1",
    "ada.l@mail.example.org",
    "35 km",
    "12,345",
    "2001年",
    "《静夜思》",
    "“The Sea”",
]


def test_in_order_and_exact() -> None:
    assert [
        text for text in exact_strings(_TEXT, tokens=500) if " of the" in text or text in _FOUND
    ] == sorted(_FOUND, key=_TEXT.index)


def test_links_and_identifiers_before_names() -> None:
    few = exact_strings(_TEXT, tokens=24)
    assert "https://a.example.org/x?y=1" in few
    assert "Ada Lovelace of the Royal Society" not in few


@pytest.mark.parametrize(
    ("text", "known", "found"),
    [
        ("It cost $5.", "It cost $50 million.", ["$5"]),
        ("It cost $5.", "$5 it cost", []),
        ("Jane Smith. He said so.", "", ["Jane Smith"]),
        ("John F. Kennedy Jr. spoke", "", ["John F. Kennedy Jr."]),
        ("Éric Rohmer and Agnès Varda", "", ["Éric Rohmer and Agnès Varda"]),
        ("LX-1 LX-1 LX-1", "", ["LX-1"]),
        (
            "型号A320系列，邮箱a@b.example，链接https://b.example/c。",
            "",
            ["A320", "a@b.example", "https://b.example/c"],
        ),
        ("5 mL and 5 m", "", ["5 m"]),
        ("x" * 90 + "1A", "", []),
        ("A" * 90 + "1 and B2", "", ["B2"]),
    ],
)
def test_borders(text: str, known: str, found: list[str]) -> None:
    assert exact_strings(text, known=known, tokens=200) == found


_texts = st.text() | st.lists(
    st.sampled_from([_TEXT, "LX-1", "$5", "1,2", "Ada Winter", "https://", "“", "a@", "\n", "3.5%", "》"])
).map(" ".join)


@settings(deadline=None)
@given(_texts, st.integers(0, 100))
def test_strings_keep_the_budget_and_are_there(text: str, tokens: int) -> None:
    found = exact_strings(text, tokens=tokens)
    assert len(set(found)) == len(found)
    assert all(value in text for value in found)
    assert sum(estimate_tokens(value) + 1 for value in found) <= tokens


@settings(deadline=None)
@given(_texts, st.text(), st.integers(0, 300))
def test_key_sentences_are_word_for_word(text: str, query: str, tokens: int) -> None:
    chosen = key_sentences([Original(3, "t", text)], [query, "Ada"], tokens=tokens)
    whole = [" ".join(sentence.split()) for sentence in sentences(text)]
    assert all(number == 3 and (said in whole or said.endswith("…")) for number, said in chosen)
    assert all("\n" not in said for _, said in chosen)
    assert len(set(chosen)) == len(chosen)
    assert sum(estimate_tokens(said) + 4 for _, said in chosen) <= tokens


def test_the_sentence_that_answers_comes_first() -> None:
    text = (
        " ".join(f"Filler number {i} tells of rain." for i in range(50)) + " Ada Winter lit the lamp in 1803."
    )
    originals = [Original(1, "a", "Nothing of use."), Original(2, "b", text)]
    assert key_sentences(originals, ["Who lit the lamp?"], tokens=20) == [
        (2, "Ada Winter lit the lamp in 1803.")
    ]


def test_one_sentence_longer_than_the_budget_is_cut() -> None:
    [(_, said)] = key_sentences([Original(1, "a", "word " * 1000)], ["word"], tokens=30)
    assert said.startswith("word word")
    assert said.endswith("…")
    assert estimate_tokens(said) <= 26


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "A",
        "1",
        "1,",
        "A-",
        "a.",
        "_A",
        "$1",
        "A’",
        "1 January ",
        "“",
        "《",
        "@a.",
        "a@",
        "http://",
        "1年",
        "李",
        "-",
        "Aa of ",
    ],
)
def test_hostile_text_takes_no_time(unit: str) -> None:
    text = unit * (30_000 // len(unit))
    assert takes_less(1.5, lambda: exact_strings(text, tokens=10_000))
    assert takes_less(1.5, lambda: key_sentences([Original(1, "t", text)], ["a 1"], tokens=100))
