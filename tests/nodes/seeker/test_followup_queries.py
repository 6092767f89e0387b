"""Follow-up queries: what the results name that nobody searched for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from agentinfer_lg.compression.steps import queries_made
from agentinfer_lg.nodes.seeker.followup_queries import asks_nothing_new, followup_queries, same_query
from agentinfer_lg.text import content_terms

QUESTION = "In which year was the museum that keeps the Heron Medal opened?"
SHOWN = "The Heron Medal is kept at the Aldern Museum of Sutton."


def queries(*texts: str, question: str = QUESTION, made: tuple[str, ...] = (), most: int = 2) -> list[str]:
    return [
        query.name
        for query in followup_queries(texts, ["Heron Medal"], question, [question, *made], most=most)
    ]


def test_names_of_the_sentence_that_matches_best() -> None:
    assert queries(
        "Boats sail to Norway. The museum of Otter Medal winners is led by Ada Winter.", SHOWN
    ) == [
        "Aldern Museum of Sutton",
        "Otter Medal Ada Winter",
    ]


def test_what_is_asked_of_a_name_is_what_its_sentence_does_not_say() -> None:
    (query,) = followup_queries([SHOWN], ["Heron Medal"], QUESTION, [QUESTION], most=2)
    assert query.text == "Aldern Museum of Sutton year keeps opened"
    question = "收藏苍鹭奖章的博物馆是哪一年开馆的？"
    (query,) = followup_queries(["苍鹭奖章收藏在卓卡勒博物馆。"], [], question, [question], most=2)
    assert query.text == "在卓卡勒 是哪一年开馆的"


def test_a_question_of_an_advertisement_names_nothing() -> None:
    assert queries("Curious about the museum that keeps the Heron Medal, Dear Bertha?") == []


def test_what_was_searched_for_is_no_follow_up() -> None:
    assert queries(SHOWN, made=("Aldern museum, Sutton",)) == []
    assert queries(SHOWN, made=("Aldern",)) == ["Aldern Museum of Sutton"]


def test_documents_that_were_found_are_no_follow_ups() -> None:
    found = followup_queries(
        [SHOWN], ["Heron Medal", "Aldern Museum", "Sutton"], QUESTION, [QUESTION], most=2
    )
    assert found == []


def test_a_text_without_capitals_gives_words() -> None:
    assert queries("the heron medal is kept in aldern") == ["kept aldern"]
    assert queries("The Heron Medal is kept in a Museum of medals.") == []


def test_chinese() -> None:
    question = "收藏苍鹭奖章的博物馆是哪一年开馆的？"
    text = "想知道收藏苍鹭奖章的博物馆吗？苍鹭奖章由卓卡勒商会出资设立。读者问得最多的，就是收藏苍鹭奖章的博物馆。"
    found = followup_queries([text], ["苍鹭奖章"], question, [question], most=2)
    assert [query.name for query in found] == ["读者问得最多的", "由卓卡勒商会出资设立"], "not the question"
    assert found[1].sentence == "苍鹭奖章由卓卡勒商会出资设立。"


@pytest.mark.parametrize("text", ["", "Boats sail to Norway.", "1871 1872.", "The Heron Medal."])
def test_sentences_that_say_nothing_on_the_question(text: str) -> None:
    assert queries(text) == []


_LATIN = (
    "Heron",
    "Medal",
    "museum",
    "Aldern",
    "van",
    "of",
    "the",
    "Otter",
    "1871",
    "O'Neill",
    "Ada-Mae",
    "İstanbul",
    "ﬁ",
)
_OTHERS = ("苍鹭奖章", "卓卡勒", ".", "?", "，", "。", "\n\n", "…")
WORDS = st.sampled_from([*_LATIN, *_OTHERS])
TEXTS = st.lists(st.lists(WORDS, max_size=25).map(" ".join), max_size=6)


@given(TEXTS, st.lists(WORDS, max_size=5).map(" ".join), st.integers(0, 4))
def test_each_follow_up_asks_something_new(texts: list[str], made: str, most: int) -> None:
    found = followup_queries(texts, ["Otter"], QUESTION, [QUESTION, made], most=most)
    assert len(found) <= most
    known = content_terms(f"{QUESTION} {made} Otter")
    for query in found:
        assert 0 < len(query.name) <= 100
        assert content_terms(query.name) - known
        assert content_terms(query.wanted) <= content_terms(QUESTION)
        assert any(query.sentence in " ".join(text.split()) for text in texts)
        known |= content_terms(query.name)


@given(st.lists(st.text(max_size=300), max_size=4), st.text(max_size=100))
def test_whatever_the_pages_hold(texts: list[str], question: str) -> None:
    for query in followup_queries(texts, texts[:1], question, [question], most=3):
        assert "\n" not in query.text


def test_a_long_run_of_characters_is_cut() -> None:
    found = followup_queries(
        ["苍鹭奖章" + "卓卡勒商会" * 100 + "。"], [], "苍鹭奖章？", ["苍鹭奖章？"], most=1
    )
    assert 0 < len(found[0].name) <= 100


def test_asking_nothing_new() -> None:
    made = ["Where is the Heron Medal kept?", "aldern"]
    assert asks_nothing_new(["Medal Heron", "kept in Aldern"], made)
    assert not asks_nothing_new(["Heron Medal", "Heron Prize"], made)
    assert not asks_nothing_new(["Heron Medal"], [])
    assert same_query("Heron Medal", "medals, heron")
    assert not same_query("???", "!!!")


def test_queries_made_by_steps_and_by_follow_ups() -> None:
    step = AIMessage(
        "", tool_calls=[{"name": "web_search", "args": {"queries": ["heron", "medal"]}, "id": "1"}]
    )
    result = ToolMessage("Results:", tool_call_id="1", artifact={"leads": ["Aldern Museum"]})
    plain = ToolMessage("Results:", tool_call_id="2")
    assert queries_made([HumanMessage("?"), step, result, plain]) == ["heron", "medal", "Aldern Museum"]
