"""Originals: what was shown comes back exactly, under its number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.compression.originals import Original, as_body, join_originals, recalled, split_results
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.prompts import PROMPTS

_line = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="[]:"), min_size=1, max_size=30
)
_originals = st.lists(st.builds(Original, st.integers(1, 9999), _line, _line), max_size=6)


@settings(deadline=None)
@given(_originals)
def test_what_is_written_is_read(originals: list[Original]) -> None:
    text = "\n".join(["Results:", *(f"[{o.number}] {o.title}: {o.text}" for o in originals)])
    assert split_results(text) == originals


@settings(deadline=None)
@given(st.text())
def test_any_text_is_split(text: str) -> None:
    for original in split_results(text):
        assert original.text in text
        assert original.title in text


@pytest.mark.parametrize(
    "text", ["", "Nothing was found.", "Results:\nNothing was found.", "[x] a: b", "[1] no text"]
)
def test_no_results(text: str) -> None:
    assert split_results(text) == []


@pytest.mark.parametrize("prompts", PROMPTS.values())
@pytest.mark.parametrize("title", ["A Lighthouse", "Star Wars: A New Hope"])
def test_what_is_not_shown_again_is_no_result(prompts: object, title: str) -> None:
    for mark in ("see_above", "known_in_notes"):
        assert split_results(f"[1] {title} {getattr(prompts, mark)}") == []


def test_a_result_spans_lines() -> None:
    text = "Results:\n[1] A: one\n\ntwo [3] three\n[2] B: C: four"
    assert split_results(text) == [Original(1, "A", "one\n\ntwo [3] three"), Original(2, "B", "C: four")]


def test_joined_by_number_without_repetition() -> None:
    parts = [
        Original(2, "B", "late"),
        Original(1, "A", "one"),
        Original(1, "A", "on"),
        Original(1, "A", "two"),
    ]
    assert join_originals(parts) == [Original(1, "A", "one\ntwo"), Original(2, "B", "late")]


@settings(deadline=None)
@given(_originals)
def test_joining_loses_nothing(originals: list[Original]) -> None:
    joined = {original.number: original for original in join_originals(originals)}
    assert set(joined) == {original.number for original in originals}
    assert list(joined) == sorted(joined)
    assert all(original.text in joined[original.number].text for original in originals)


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), max_size=4), st.text(max_size=20), st.integers(1, 200))
def test_recalled_whole_or_within_budget(texts: list[str], query: str, tokens: int) -> None:
    whole = "\n".join(texts)
    text = recalled(texts, query, tokens=tokens)
    if estimate_tokens(whole) <= tokens:
        assert text == whole
    else:
        assert estimate_tokens(text) <= tokens + text.count("\n")


def test_recalled_finds_the_slice() -> None:
    filler = [f"Paragraph {i} tells of the sea and of the wind over it. " * 8 for i in range(20)]
    texts = [*filler, "The keeper of the lamp was Ada Winter.", *filler]
    assert "Ada Winter" in recalled(texts, "Who was the keeper of the lamp?", tokens=300)
    assert recalled(texts, "  ", tokens=300).startswith("Paragraph 0")


def test_a_list_of_references_in_a_document_is_no_result() -> None:
    page = "Lamps.\n[1] Smith: On lamps.\n[22] Jones: On oil."
    (found,) = split_results(f"Results:\n[7] Lights: {as_body(page)}")
    assert found.number == 7
    assert found.text == "Lamps.\n [1] Smith: On lamps.\n [22] Jones: On oil."
