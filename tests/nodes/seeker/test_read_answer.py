"""Reading: telling an answer from an evasion, in English and Chinese."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.context import Context
from agentinfer_lg.nodes.seeker.read_answer import (
    answer_tier,
    closed_answer,
    is_unknown,
    is_yes_or_no,
    short_answer,
)

_EVASIONS = """
unknown
Unknown.
The answer is unknown.
The date is unknown to the authors.
I cannot determine the answer.
It cannot be determined from the passages.
I can't find it.
I am unable to answer this question.
The passages do not mention the keeper.
The passage doesn't say when it was lit.
The text does not explicitly state the year.
There is not enough information.
The year isn't given.
The documents don't contain any such information.
No information is available.
There is no mention of the lamp.
No answer.
The keeper is not mentioned.
It was not explicitly stated.
Not specified
The year is not known.
I do not know.
I don't know
未知
未知。
不知道
无法确定。
根据资料无法回答这个问题。
资料中没有提到年份。
文中没有说明。
没有答案
资料未提及。
未找到
"""
_ANSWERS = """
1871
It was lit in 1871.
Ada Winter
Yes
no
No, it was built later.
Nobody lives there.
No Country for Old Men
Notes from the Underground
Don't Look Now
Nothing but the wind
The Tomb of the Unknown Soldier
Unknown Pleasures
Into the Unknown
Notting Hill
The knot was tied in 1902.
The keeper never left the island.
Canada
1871年
是的
不是
艾达·温特
灯塔于1871年点亮。
没有人住在那里。
无锡
"""


@pytest.mark.parametrize("text", _EVASIONS.strip().splitlines())
def test_evasions(text: str) -> None:
    assert is_unknown(text)
    assert is_unknown(f"  {text.upper()}\n")


@pytest.mark.parametrize("text", _ANSWERS.strip().splitlines())
def test_answers(text: str) -> None:
    assert not is_unknown(text)


def test_nothing_is_no_answer() -> None:
    assert is_unknown("")
    assert is_unknown(" \n\t")


def test_a_long_text_with_a_doubt_in_it_is_an_answer() -> None:
    text = "The lamp was lit in 1871 by the keeper, and the storm of 1902 broke it. " * 6
    assert not is_unknown(text + "The cost is not known.")


@pytest.mark.parametrize("text", ["yes", " Yes.", "NO!", "No ", "是", "否。", "是的", "不是"])
def test_yes_or_no(text: str) -> None:
    assert is_yes_or_no(text)


@pytest.mark.parametrize("text", ["Norway", "nobody", "yesterday", "maybe", "", "1871"])
def test_neither_yes_nor_no(text: str) -> None:
    assert not is_yes_or_no(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1871", "1871"),
        ("  Ada Winter.\n", "Ada Winter."),
        ("Answer: Ada Winter", "Ada Winter"),
        ("The answer is: 1871", "1871"),
        ("Short answer: 1871", "1871"),
        ("答案：1871年", "1871年"),
        ("The answer lies in 1871", "The answer lies in 1871"),
        ("It was lit. By Ada. In the rain. At night.", "It was lit. By Ada."),
        ("1871\n\nExplanation: the passages say so.", "1871"),
        ("灯塔于1871年点亮。守塔人是艾达。后来塌了。", "灯塔于1871年点亮。 守塔人是艾达。"),
        ("Ada Winter [1]", "Ada Winter"),
        ("[2] Heron Point: It was lit in 1871 [1, 3].", "Heron Point: It was lit in 1871."),
        ("1871年【1】。", "1871年。"),
        ("", ""),
        ("\n\n", ""),
    ],
)
def test_short_answer(text: str, answer: str) -> None:
    assert short_answer(text) == answer


@given(st.text())
def test_short_answer_never_raises_nor_invents(text: str) -> None:
    answer = short_answer(text)
    assert answer == answer.strip()
    assert set(answer) <= set(text) | {" "}
    is_unknown(text)
    is_yes_or_no(text)


@pytest.mark.parametrize(
    ("answer", "question", "expected"),
    [
        ("Yes, both are film directors.", "Are Ann and Bo both film directors?", "Yes"),
        ("No. It stands in Ohio.", "Is the airport in Texas?", "No"),
        ("No one knows.", "Is it old?", "No one knows."),
        ("Yes, it is.", "Is it a fish or a bird?", "Yes, it is."),
        ("No Doubt", "Which band was formed first?", "No Doubt"),
        ("Yesterday", "Is it Yesterday?", "Yesterday"),
        ("是的，两个都是。", "这两个都是灯塔吗？", "是的"),
        ("1902", "Is it 1902?", "1902"),
    ],
)
def test_closed_questions_get_a_word(answer: str, question: str, expected: str) -> None:
    assert closed_answer(answer, question) == expected


@pytest.mark.parametrize(
    ("policy", "spent", "limit", "tier"),
    [
        ("agentcollab", {}, 100, "large"),
        ("agentcollab", {"small": 1000}, 100, "large"),
        ("agentcollab", {"large": 99}, 100, "large"),
        ("agentcollab", {"large": 100}, 100, "small"),
        ("agentcollab", {}, 0, "small"),
        ("always-large", {}, 100, "large"),
        ("always-large", {"large": 100}, 100, "small"),
        ("random", {}, 100, "large"),
        ("escalate-on-tool-error", {}, 100, "large"),
        ("escalate-on-tool-error", {"large": 101}, 100, "small"),
        ("always-small", {}, 100, "small"),
        ("large-planner-only", {}, 100, "small"),
    ],
)
def test_who_reads_the_answer(policy: Any, spent: dict[str, int], limit: int, tier: str) -> None:
    calls: list[Any] = [
        {"tier": each, "prompt_tokens": tokens, "output_tokens": 0} for each, tokens in spent.items()
    ]
    assert answer_tier(Context(policy=policy), calls, large_tokens=limit) == tier
