"""The form of a text on one line: all of it is let through, and nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.grammar import prose

_WORDS = 5
_EXCLUDED = [(r"\n", "\n"), (r"<\n", "<\n"), (r"\n\[\]", "\n[]"), (r'"\\\n', '"\\\n')]


def _matches(text: str, excluded: str) -> bool:
    return re.fullmatch(prose(excluded, words=_WORDS), text) is not None


def _texts(characters: str, *, words: int) -> st.SearchStrategy[str]:
    """Texts of exactly so many words without these characters."""
    alphabet = st.characters(exclude_characters=characters + " ")
    word = st.text(alphabet, min_size=1, max_size=60)
    return st.lists(word, min_size=words, max_size=words).map(" ".join)


@pytest.mark.parametrize(("excluded", "characters"), _EXCLUDED)
@given(data=st.data())
def test_everything_of_the_form(excluded: str, characters: str, data: st.DataObject) -> None:
    words = data.draw(st.integers(1, _WORDS))
    assert _matches(data.draw(_texts(characters, words=words)), excluded)


@pytest.mark.parametrize(("excluded", "characters"), _EXCLUDED)
@given(data=st.data())
def test_the_limit_of_words_holds(excluded: str, characters: str, data: st.DataObject) -> None:
    words = data.draw(st.integers(_WORDS + 1, _WORDS + 3))
    assert not _matches(data.draw(_texts(characters, words=words)), excluded)


@pytest.mark.parametrize(("excluded", "characters"), _EXCLUDED)
@given(data=st.data())
def test_excluded_characters_never(excluded: str, characters: str, data: st.DataObject) -> None:
    text = data.draw(_texts(characters, words=2))
    position = data.draw(st.integers(0, len(text)))
    character = data.draw(st.sampled_from(characters))
    assert not _matches(text[:position] + character + text[position:], excluded)


@pytest.mark.parametrize("text", ["", " ", " a", "a ", "a  b", "a" * 61, "a " + "b" * 61], ids=repr)
def test_what_is_not_of_the_form(text: str) -> None:
    assert not _matches(text, r"\n")


@pytest.mark.parametrize("text", ["a", "a b", "a" * 60, "灯塔于1871年点亮。", "a b c d e"])
def test_what_is_of_the_form(text: str) -> None:
    assert _matches(text, r"\n")


def test_one_word() -> None:
    assert re.fullmatch(prose(r"\n", words=1), "a")
    assert not re.fullmatch(prose(r"\n", words=1), "a b")
