"""What a citation looks like, and the blocks and sentences that it stands in."""

import pytest

from agentinfer_lg.report.grammar import (
    HOLD,
    MARK_LEFT,
    URL_LEFT,
    blocks,
    cited_numbers,
    claim_spans,
    defused,
)


def test_blocks() -> None:
    text = "# Head\nOne line\ngoes on.\n- item\n| a | b |\n```\n[1]\n```\n[1]: https://a.org\nTitle\n====="
    assert list(blocks(text.split("\n"))) == [
        ("heading", "# Head"),
        ("prose", "One line\ngoes on."),
        ("prose", "- item"),
        ("table", "| a | b |"),
        ("code", "```"),
        ("code", "[1]"),
        ("code", "```"),
        ("definition", "[1]: https://a.org"),
        ("heading", "Title"),
        ("prose", "====="),
    ]


@pytest.mark.parametrize(
    ("mark", "numbers"),
    [
        ("[2]", [2]),
        ("[1, 3 and 5]", [1, 3, 5]),
        ("[2-5]", [2, 3, 4, 5]),
        ("[5-2]", [5, 2]),
        ("[1-9999]", [1, 9999]),
        ("[12345678]", [0]),
        ("【3†12】", [3]),
    ],
)
def test_numbers_of_a_marker(mark: str, numbers: list[int]) -> None:
    assert list(cited_numbers(mark)) == numbers


@pytest.mark.parametrize("text", ["See [1].", "See (source 2).", "See https://a.org/x now.", "www.a.org"])
def test_nothing_of_a_defused_text_reads_as_a_citation(text: str) -> None:
    assert MARK_LEFT.search(text) or URL_LEFT.search(text)
    safe = defused(text)
    assert not MARK_LEFT.search(safe)
    assert not URL_LEFT.search(safe)


def test_a_citation_after_the_full_stop_belongs_to_the_sentence_before() -> None:
    plain = f"One is so.{HOLD} Two is not."
    assert [plain[start:end] for start, end in claim_spans(plain)] == [f"One is so.{HOLD} ", "Two is not."]
