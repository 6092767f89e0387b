"""The automaton against a brute-force reading of its texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.serving.sam.index.automaton import ROOT, SuffixAutomaton

Text = list[int]
small = st.lists(st.integers(0, 3), min_size=1, max_size=24)


def ids(text: Text) -> np.ndarray:
    return np.array(text, np.int32)


def built(texts: list[Text]) -> SuffixAutomaton:
    automaton = SuffixAutomaton(tokens=1)
    for text in texts:
        automaton.extend(ids(text))
    return automaton


def occurrences(texts: list[Text], wanted: Text) -> list[tuple[int, int]]:
    """Text and end of each occurrence, in the order in which they were added."""
    size = len(wanted)
    return [
        (number, end)
        for number, text in enumerate(texts)
        for end in range(size, len(text) + 1)
        if text[end - size : end] == wanted
    ]


def longest_suffix(texts: list[Text], context: Text) -> Text:
    return next(
        (context[begin:] for begin in range(len(context)) if occurrences(texts, context[begin:])),
        [],
    )


@given(texts=st.lists(small, min_size=1, max_size=4), context=small)
@settings(deadline=None, max_examples=300)
def test_match_counts_and_continuations_are_those_of_the_texts(texts: list[Text], context: Text) -> None:
    automaton = built(texts)
    state, length = automaton.match(ids(context))
    suffix = longest_suffix(texts, context)
    assert length == len(suffix)
    if not suffix:
        assert state == ROOT
        return
    found = occurrences(texts, suffix)
    assert automaton.count(state) == len(found)
    followers = [(texts[number][end], (number, end)) for number, end in found if end < len(texts[number])]
    counts = {token: sum(other == token for other, _ in followers) for token, _ in followers}
    latest = dict(followers)  # later occurrences overwrite earlier ones
    for token, count in counts.items():
        assert automaton.continuation_count(state, token) == count
    expected = max(counts, key=lambda token: (counts[token], latest[token]), default=-1)
    assert automaton.most_frequent(state) == expected
    assert automaton.most_recent(state) == (followers[-1][0] if followers else -1)


@given(text=small, cuts=st.lists(st.integers(1, 5), max_size=6), context=small)
@settings(deadline=None, max_examples=100)
def test_text_in_pieces_is_the_same_as_at_once(text: Text, cuts: list[int], context: Text) -> None:
    whole, pieces = built([text]), SuffixAutomaton(tokens=1)
    tip, begin = ROOT, 0
    for size in (*cuts, len(text)):
        tip = pieces.extend(ids(text[begin : begin + size]), tip=tip)
        begin += size
    assert pieces.match(ids(context))[1] == whole.match(ids(context))[1]
    assert pieces.states == whole.states


@given(text=small, first=small, second=small)
@settings(deadline=None, max_examples=100)
def test_a_text_may_fork(text: Text, first: Text, second: Text) -> None:
    """Two continuations of one beginning: both are found, with all that stood before."""
    automaton = SuffixAutomaton()
    fork = automaton.extend(ids(text))
    automaton.extend(ids(first), tip=fork)
    fork, length = automaton.match(ids(text))
    assert length == len(text)
    automaton.extend(ids(second), tip=fork)
    for branch in (text + first, text + second):
        assert automaton.match(ids(branch))[1] == len(branch)


@given(text=small, more=small, rest=small)
@settings(deadline=None, max_examples=150)
def test_a_match_goes_on_right_after_text_was_added(text: Text, more: Text, rest: Text) -> None:
    """Adding text splits states; a match that was found before is then still the longest one."""
    automaton = built([text])
    middle = len(rest) // 2
    state, length = automaton.match(ids(rest[:middle]))
    automaton.extend(ids(more))
    expected = built([text, more])
    state, length = automaton.match(ids(rest[middle:]), state=state, length=length)
    # Text that came later cannot lengthen what matched already.
    assert length <= expected.match(ids(rest))[1]
    assert occurrences([text, more], rest[len(rest) - length :]) or not length
    assert length == 0 or automaton.count(state) == len(occurrences([text, more], rest[len(rest) - length :]))


def test_any_integers_are_tokens() -> None:
    generator = np.random.default_rng(0)
    text = generator.integers(-(2**31), 2**31 - 1, 5000, dtype=np.int64).astype(np.int32)
    text[100:110] = [-1, 0, -1, 2**31 - 1, -(2**31), 0, 0, -1, 1, 0]
    automaton = SuffixAutomaton()
    automaton.extend(text)
    for begin in range(0, 4900, 700):
        assert automaton.match(text[begin : begin + 50])[1] == 50


@pytest.mark.parametrize(
    "text",
    [
        np.zeros(200_000, np.int32),
        np.tile(np.arange(500, dtype=np.int32), 400),
        np.random.default_rng(0).integers(0, 50_000, 200_000).astype(np.int32),
        np.random.default_rng(0).integers(0, 2, 200_000).astype(np.int32),
    ],
    ids=["constant", "periodic", "random", "binary"],
)
def test_no_text_takes_more_than_its_share(text: np.ndarray) -> None:
    automaton = SuffixAutomaton()
    automaton.extend(text)
    assert automaton.states <= 2 * len(text) + 1
    assert automaton.nbytes / len(text) < 100
    assert automaton.match(text[-1000:])[1] == 1000


def test_growing_keeps_everything() -> None:
    generator = np.random.default_rng(3)
    text = generator.integers(0, 300, 60_000).astype(np.int32)
    slow, fast = SuffixAutomaton(tokens=1), SuffixAutomaton(tokens=len(text))
    tip = ROOT
    for begin in range(0, len(text), 777):
        tip = slow.extend(text[begin : begin + 777], tip=tip)
    fast.extend(text)
    assert slow.states == fast.states
    query = text[31_000:31_020]
    assert slow.match(query) == fast.match(query)
