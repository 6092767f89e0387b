from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.tools.passages import best_passages, passage_spans, split_passages

PARAGRAPHS = [f"Paragraph {i} is about topic{i}. " + "It goes on for a while. " * 10 for i in range(30)]
DOCUMENT = "\n\n".join(PARAGRAPHS)


def test_passages_end_at_paragraphs() -> None:
    assert split_passages(DOCUMENT, size=300) == [paragraph.strip() for paragraph in PARAGRAPHS]


def test_small_paragraphs_share_a_passage() -> None:
    assert split_passages("# Title\n\nOne.\n\nTwo.", size=100) == ["# Title\n\nOne.\n\nTwo."]


def test_a_long_paragraph_is_cut_at_sentences_and_a_long_sentence_at_words() -> None:
    passages = split_passages("Rain falls here. " * 100, size=100)
    assert all(passage.endswith("here.") and len(passage) <= 100 for passage in passages)
    words = split_passages("word " * 100, size=100)
    assert all(set(passage.split()) == {"word"} for passage in words)
    assert [len(passage) for passage in split_passages("北" * 250, size=100)] == [100, 100, 50]


@given(st.text("ab .。\n", max_size=400), st.integers(1, 50))
def test_spans_cover_the_text_and_keep_to_the_size(text: str, size: int) -> None:
    spans = passage_spans(text, size=size)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(len(text[start:end].strip()) <= size for start, end in spans if text[start:end].strip())


def test_the_best_passages_come_in_the_order_of_the_document() -> None:
    found = best_passages(DOCUMENT, "What about topic21, and topic4?", tokens=150)
    assert [passage.split(" is ")[0] for passage in found] == ["Paragraph 4", "Paragraph 21"]


def test_a_word_in_every_passage_does_not_outweigh_a_rare_one() -> None:
    (passage,) = best_passages(DOCUMENT, "goes on for a while topic17", tokens=75)
    assert "topic17" in passage


def test_chinese_query() -> None:
    text = "\n\n".join(["卑尔根的雨很多。" * 30, "奥斯陆是挪威的首都。" * 30, "特隆赫姆在北方。" * 30])
    (passage,) = best_passages(text, "首都在哪里", tokens=130)
    assert "首都" in passage


def test_the_head_where_nothing_matches() -> None:
    (head,) = best_passages(DOCUMENT, "zebra", tokens=50)
    assert DOCUMENT.startswith(head.removesuffix(" …"))


def test_a_short_document_comes_whole() -> None:
    assert best_passages("Short.", "zebra", tokens=50) == ["Short."]
    assert best_passages("  ", "zebra", tokens=50) == []
    assert best_passages("Short.", "zebra", tokens=0) == []


@given(st.text("abc .。\n北京", max_size=2000), st.text("abc 北京", max_size=10), st.integers(0, 200))
def test_the_budget_is_kept(text: str, query: str, tokens: int) -> None:
    found = best_passages(text, query, tokens=tokens)
    assert sum(map(estimate_tokens, found)) <= tokens + len(found)  # stripping may round each passage up
    assert all(found)
