import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.text import clip, content_terms, detect_language, sentence_spans, sentences, terms

ANY_TEXT = st.text(st.characters(codec=None), max_size=300) | st.text("ab .!?。！\n'’1,[]北京", max_size=300)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Which river flows through Bergen?", "en"),
        ("哪条河流经卑尔根？", "zh"),
        ("LangGraph 是什么?", "zh"),
        ("请介绍 vLLM 的 PagedAttention", "zh"),
        ("What does 北京大学 mean?", "en"),
        ("", "en"),
        ("12345 !!", "en"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_terms_of_english() -> None:
    assert terms("The Cities' 1,234 boxes, and John's ＡＢＣ in the 1990s (v3.11.7)") == [
        "the", "city", "1234", "box", "and", "john", "abc", "in", "the", "1990", "v3", "11.7"
    ]  # fmt: skip


def test_terms_of_chinese_are_pairs() -> None:
    assert terms("北京大学, 猫!") == ["北京", "京大", "大学", "猫"]
    assert terms("２０２４年北京") == ["2024", "年北", "北京"]


def test_content_terms_leave_out_words_without_content() -> None:
    assert content_terms("What is the capital of Norway?") == {"capital", "norway"}
    assert content_terms("这个 城市") == {"城市"}
    assert content_terms("What is it?") == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Dr. J. R. Smith met Mr. Brown at 3.14 p.m. on Jan. 5. He left! Why?",
            ["Dr. J. R. Smith met Mr. Brown at 3.14 p.m. on Jan. 5.", "He left!", "Why?"],
        ),
        ("他来了。他走了！为什么？“好。”他说", ["他来了。", "他走了！", "为什么？", "“好。”", "他说"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        (
            "A line\nthat is wrapped. Next\n\nno stop\n\nend",
            ["A line\nthat is wrapped.", "Next", "no stop", "end"],
        ),
        ("version 1.2.3 of example.com is here", ["version 1.2.3 of example.com is here"]),
        ("Wait... what? yes.", ["Wait... what? yes."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(ANY_TEXT)
def test_sentence_spans_cover_any_text(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)


@given(ANY_TEXT, st.integers(-1, 60))
def test_clip_keeps_to_the_limit_and_to_the_text(text: str, tokens: int) -> None:
    clipped = clip(text, tokens=tokens)
    assert estimate_tokens(clipped) <= max(0, tokens)
    assert clipped == text or clipped == "" or text.startswith(clipped.removesuffix("…").removesuffix(" "))


def test_clip_ends_at_a_sentence_or_a_word() -> None:
    text = "Rain falls in Bergen. It falls on most days of the year. Nobody there minds it much any more."
    assert clip(text, tokens=16) == "Rain falls in Bergen. It falls on most days of the year. …"
    assert clip("incomprehensibilities " * 9, tokens=20) == ("incomprehensibilities " * 3).strip() + " …"
    assert clip("卑尔根多雨。" * 20, tokens=20) == "卑尔根多雨。" * 4 + " …"


@given(ANY_TEXT)
def test_terms_never_raise(text: str) -> None:
    assert content_terms(text) <= set(terms(text))
