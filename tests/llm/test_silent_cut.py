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
