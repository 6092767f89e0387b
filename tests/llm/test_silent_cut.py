"""A server that leaves out a part of the prompt without a word."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.silent_cut import PromptSizes


def test_a_count_that_stands_still_while_the_prompts_grow() -> None:
    sizes = PromptSizes()
    assert sizes.cut_at(1500, 1400) is None
    assert sizes.cut_at(3000, 2048) is None, "one prompt alone proves nothing"
    assert sizes.cut_at(5000, 2048) == 2048


def test_a_count_that_is_far_too_low() -> None:
    sizes = PromptSizes()
    assert sizes.cut_at(900, 870) is None
    assert sizes.cut_at(20_000, 4096) == 4096


@given(st.floats(0.5, 1.6), st.lists(st.integers(10, 60_000), min_size=1, max_size=30))
def test_another_tokenizer_is_no_cut(ratio: float, sizes: list[int]) -> None:
    seen = PromptSizes()
    assert all(seen.cut_at(size, round(ratio * size)) is None for size in sorted(sizes))


@given(st.integers(1000, 8000))
def test_a_growing_session_is_noticed_soon(window: int) -> None:
    seen = PromptSizes()
    found = [seen.cut_at(size, min(size, window)) for size in range(500, 4 * window, window // 4)]
    assert any(found)
    assert {cut for cut in found if cut} == {window}


def test_prompts_of_other_sessions_are_no_proof() -> None:
    """Texts of other kinds have fewer tokens than was estimated, and some counts are alike by chance."""
    sizes = PromptSizes()
    assert sizes.cut_at(2000, 1990, session="prose") is None
    assert sizes.cut_at(2600, 1995, session="numbers") is None
    assert sizes.cut_at(2601, 2001, session="Chinese") is None


@given(
    st.lists(st.tuples(st.integers(200, 9000), st.floats(0.6, 1.3)), min_size=2, max_size=25),
    st.integers(1, 5),
)
def test_texts_of_many_kinds_are_no_cut(parts: list[tuple[int, float]], sessions: int) -> None:
    """Sessions that grow by texts of any kind, all of which the server sees."""
    sizes, told = PromptSizes(), dict.fromkeys(range(sessions), (600, 600))
    for number, (grown, ratio) in enumerate(parts):
        estimated, counted = told[number % sessions]
        told[number % sessions] = estimated, counted = estimated + grown, counted + round(grown * ratio)
        assert sizes.cut_at(estimated, counted, session=str(number % sessions)) is None


@given(
    st.lists(st.integers(1001, 3000).filter(lambda size: size % 64 and size % 100), min_size=2, max_size=12)
)
def test_a_count_of_what_was_not_cached_is_no_cut(grown: list[int]) -> None:
    sizes, whole = PromptSizes(), 4001
    assert sizes.cut_at(whole, whole, session="a") is None
    for size in grown:
        whole += size
        assert sizes.cut_at(whole, size, session="a") is None
