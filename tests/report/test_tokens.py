"""The citations in a text, looked up among the retrieved sources."""

from agentinfer_lg.report.grammar import HOLD, LITERAL
from agentinfer_lg.report.sources import source_key
from agentinfer_lg.report.tokens import Tokenizer
from agentinfer_lg.state import Source

RAIN = Source(
    key=source_key("https://a.org/rain"), uri="https://a.org/rain", title="Rain", passages=[], read=True
)
OSLO = Source(key=source_key("oslo.md"), uri="oslo.md", title="Oslo", passages=[], read=True)
SOURCES = {source["key"]: source for source in (RAIN, OSLO)}


def _tokenizer() -> Tokenizer:
    return Tokenizer(list(SOURCES), SOURCES)


def test_markers_and_addresses_become_place_holders() -> None:
    tokenizer = _tokenizer()
    plain, tokens = tokenizer.tokenize("Wet [1], see `[2]` and https://a.org/rain.")
    assert plain == f"Wet {HOLD}, see {LITERAL} and {LITERAL}."
    assert [token.keys for token in tokens] == [(RAIN["key"],), (), (RAIN["key"],)]
    assert tokenizer.literals == ["`[2]`", "https://a.org/rain"]
    assert tokenizer.dropped == 0


def test_what_was_never_retrieved_is_left_out_and_counted() -> None:
    tokenizer = _tokenizer()
    plain, tokens = tokenizer.tokenize("Wet [7], see https://b.org/x.")
    assert plain == "Wet, see."
    assert tokens == []
    assert tokenizer.dropped == 2


def test_a_number_whose_source_is_gone_cites_nothing() -> None:
    tokenizer = Tokenizer([RAIN["key"], "feedfeedfeed"], SOURCES)
    assert tokenizer.tokenize("Dry [2].") == ("Dry.", [])


def test_a_list_of_sources_is_taken_off_and_its_inventions_are_counted() -> None:
    tokenizer = _tokenizer()
    lines = ["Wet [1].", "## Sources", "- [1] Rain", "- [9] None", "# More"]
    assert tokenizer.without_lists(lines) == ["Wet [1].", "# More"]
    assert tokenizer.dropped == 1
    text = ["## Sources", "of the Nile are far away."]
    assert tokenizer.without_lists(text) == text


def test_a_definition_of_a_footnote_counts_what_it_invents() -> None:
    tokenizer = _tokenizer()
    tokenizer.count_definition("[1]: https://b.org/x")
    tokenizer.count_definition("[2]: oslo.md")
    assert tokenizer.dropped == 1
