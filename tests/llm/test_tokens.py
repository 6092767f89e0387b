from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.tokens import estimate_tokens

ENGLISH = (
    "Retrieval over long documents is done passage by passage, because a model that is shown everything at once "
    "pays for every token and finds less."
)
CHINESE = "长文档的检索是逐段进行的，因为一次看到所有内容的模型要为每个词元付费，找到的却更少。"


def test_english_has_about_four_characters_per_token() -> None:
    assert len(ENGLISH) / 5 < estimate_tokens(ENGLISH) < len(ENGLISH) / 3


def test_chinese_is_not_counted_as_if_it_were_english() -> None:
    assert 0.6 * len(CHINESE) < estimate_tokens(CHINESE) < 1.1 * len(CHINESE)


def test_empty_text_has_no_token_and_any_other_has_one() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("a") == 1
    assert estimate_tokens("\ud800") == 1


@given(st.text(), st.text())
def test_joining_never_costs_more_and_growing_never_costs_less(left: str, right: str) -> None:
    joined = estimate_tokens(left + right)
    assert max(estimate_tokens(left), estimate_tokens(right)) <= joined
    assert joined <= estimate_tokens(left) + estimate_tokens(right)
