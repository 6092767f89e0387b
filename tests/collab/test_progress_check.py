from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cpu_time import takes_less

from agentinfer_lg.collab.progress_check import PROGRESS_PROMPT, PROGRESS_REGEX, ParsedVerdict, parse_verdict

BLOCK = "===PROGRESS===\n<reason>{reason}</reason> <value>{value}</value>\n===END_PROGRESS==="
REASONS = st.text(
    st.characters(exclude_characters="<\n", exclude_categories=("C", "Z")), min_size=1, max_size=60
)


@pytest.mark.parametrize("value", ["TRUE", "FALSE"])
@pytest.mark.parametrize(
    "reason", ["The release year was found on the page.", "找到了影片的上映年份，这是新的信息。"]
)
def test_the_exact_block(value: str, reason: str) -> None:
    text = BLOCK.format(reason=reason, value=value)
    assert re.fullmatch(PROGRESS_REGEX, text)
    parsed = parse_verdict(text)
    assert parsed.verdict == value
    assert parsed.reason == reason.translate({0xFF0C: ","})


@pytest.mark.parametrize(
    "text",
    [
        "<reason>found the date</reason><value>true</value>",
        "<value> True. </value>",
        "<VALUE>TRUE",
        "===PROGRESS=== <value>true</value>",
        "PROGRESS==\nvalue: true",
        "＜value＞ＴＲＵＥ＜／value＞",
        "<value>真</value>",
        "<value>是</value>",
        "<value>有进展</value>",
        "有进展。",
        "结论：有新的进展",
        "TRUE",
        "**True**",
        "The step found the year.\nTrue",
        "The step found the year, so TRUE.",
        '{"reason": "it did not repeat: value: false was wrong", "value": true}',
        '```json\n{"value": true, "reason": "new page"}\n```',
        "<think>FALSE? no, it is fine</think>\n<value>TRUE</value>",
        "it was false at first</think>TRUE",
        "<value>TRUE</value>\n===END_PROGRESS===\nNext I check whether value: FALSE holds.",
        "<value>TRUE</value> <reason>new facts</reason>",
        BLOCK.format(reason="first", value="FALSE") + "\n" + BLOCK.format(reason="second", value="TRUE"),
        "<value>TRUE</value> <value>TRUE</value>",
        "<think>a</think>" + BLOCK.format(reason="one", value="TRUE") + "<think>FALSE</think>",
        BLOCK.format(reason="one", value="TRUE") + "\n===PROGRESS===\n<reason>cut off he",
        "<value>yes</value>",
    ],
)
def test_readable_as_true(text: str) -> None:
    assert parse_verdict(text).verdict == "TRUE"


@pytest.mark.parametrize(
    "text",
    [
        "<value>False.</value>",
        "value: FALSE",
        "Value = false",
        "Progress: no",
        '{"reason": "same query", "value": false}',
        '{"value": "FALSE"}',
        "<value>假</value>",
        "<value>否</value>",
        "<value>不是</value>",
        "没有进展",
        "没有取得任何新的进展。",
        "<value>无进展</value>",
        "<value>no progress</value>",
        "<thinking>TRUE</thinking>false",
        "<reason>TRUE would be wrong</reason> FALSE",
        BLOCK.format(reason="first", value="TRUE") + BLOCK.format(reason="second", value="FALSE"),
    ],
)
def test_readable_as_false(text: str) -> None:
    assert parse_verdict(text).verdict == "FALSE"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "I will search for the director next.",
        "it is true that the film is old and much has been written about it",
        "TRUE|FALSE",
        "<value>TRUE|FALSE</value>",
        "<value>TRUE</value> <value>FALSE</value>",
        "<value></value>",
        "<value>42</value>",
        "<value>not true</value>",
        "<value>是否</value>",
        "<think>TRUE",
        "<reason>TRUE and more",
        "TRUE ... or rather FALSE",
        *PROGRESS_PROMPT.values(),
    ],
)
def test_absent_or_contradictory_is_unreadable(text: str) -> None:
    assert parse_verdict(text).verdict == "UNREADABLE"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<reason>two\n lines</reason><value>TRUE</value>", "two lines"),
        ('{"reason": "same page", "value": false}', "same page"),
        ("Reason: it repeats\nValue: FALSE", "it repeats"),
        ("理由：重复了\n结论：否", "重复了"),
        ("FALSE", ""),
    ],
)
def test_the_reason(text: str, reason: str) -> None:
    assert parse_verdict(text).reason == reason


@given(REASONS, st.sampled_from(["TRUE", "FALSE"]), st.text(max_size=40))
def test_every_block_that_the_grammar_allows_is_read(reason: str, value: str, before: str) -> None:
    text = BLOCK.format(reason=reason, value=value)
    assert re.fullmatch(PROGRESS_REGEX, text)
    assert parse_verdict(text).verdict == value
    if "<" not in before and "＜" not in before:
        assert parse_verdict(f"{before}\n{text}").verdict == value


PIECES = st.sampled_from(
    [
        "===PROGRESS===",
        "<reason>",
        "</reason>",
        "<value>",
        "</value>",
        "TRUE",
        "FALSE",
        "<think>",
        "</think>",
        "value:",
        '"value":',
        "{",
        "}",
        '"',
        "\n",
        " ",
        "没有",
        "进展",
        "＝",
        "===END_PROGRESS===",
        "�",
        "\x00",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
def test_never_raises(text: str) -> None:
    parsed = parse_verdict(text)
    assert isinstance(parsed, ParsedVerdict)
    assert parsed.verdict in ("TRUE", "FALSE", "UNREADABLE")
    assert len(parsed.reason) <= 300
    assert "\n" not in parsed.reason


@pytest.mark.parametrize(
    "piece",
    [
        "=",
        "<",
        "<reason>",
        "<reason>x ",
        "<value>",
        "<value>TRUE</value>",
        "PROGRESS==",
        "<think>",
        "</think>",
        "value:",
        "值=",
        "reason: ",
        'reason:"',
        "没有",
        "TRUE ",
        "\n",
        " ",
        "progress ",
        "́",
        "END_PROGRESS",
    ],
)
def test_a_long_answer_is_read_in_linear_time(piece: str) -> None:
    text = piece * (250_000 // len(piece))
    # Quadratic work would take minutes; the bound leaves a slow machine a factor of ten.
    assert takes_less(2.0, lambda: parse_verdict(text))


@pytest.mark.parametrize("prompt", PROGRESS_PROMPT.values())
def test_the_prompt_is_short_and_decides_nothing(prompt: str) -> None:
    assert len(prompt) < 400
    assert "<value>...</value>" in prompt
    assert prompt.count("TRUE") == prompt.count("FALSE")
    assert prompt.index("===PROGRESS===") < prompt.index("===END_PROGRESS===")
