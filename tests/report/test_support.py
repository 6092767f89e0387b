"""Which source supports a claim."""

import pytest

from agentinfer_lg.report.sources import source_key
from agentinfer_lg.report.support import Claim, Support, supporting_sources
from agentinfer_lg.state import Source


def _source(uri: str, title: str, *passages: str) -> Source:
    return Source(key=source_key(uri), uri=uri, title=title, passages=list(passages), read=False)


RAIN = _source("https://a.org/rain", "Rain", "Rain falls in Bergen on 231 days of the year.")
OSLO = _source(
    "notes/oslo.md", "Oslo", "Oslo is the capital of Norway. It was founded in 1040 by King Harald Hardrada."
)
PEKING = _source("https://zh.org/北京", "北京", "北京是中华人民共和国的首都，人口约2184万。")
SOURCES = {source["key"]: source for source in (RAIN, OSLO, PEKING)}
NUMBERS = list(SOURCES)
SUPPORT = Support(SOURCES)


def test_numbers_and_names_of_a_claim() -> None:
    claim = Claim.of("In 1040 the town was founded by Harald Hardrada.")
    assert claim.numbers == {"1040"}
    assert {"harald", "hardrada"} <= claim.names <= claim.terms
    assert "founded" not in claim.names


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        ("Oslo was founded in 1040.", True),
        ("Who founded Oslo in 1040?", False),
        ("These are the facts on Oslo:", False),
        ("No information on Oslo was found.", False),
        ("So.", False),
    ],
)
def test_what_needs_a_source(words: str, needs: bool) -> None:
    assert Claim.of(words).needs_source is needs


def test_a_claim_is_supported_by_the_source_with_its_numbers_and_names() -> None:
    assert SUPPORT.find(Claim.of("Oslo was founded in 1040 by Harald Hardrada.")) == (OSLO["key"],)
    assert SUPPORT.find(Claim.of("Oslo was founded in 1041 by Harald Hardrada.")) == (), "another year"


def test_less_is_asked_of_a_source_that_is_cited_nearby() -> None:
    claim = Claim.of("Norway trades timber and salt with a king.")
    assert SUPPORT.find(claim) == ()
    assert SUPPORT.find(claim, {OSLO["key"]}) == (OSLO["key"],)


def test_a_citation_fits_what_it_has_anything_in_common_with() -> None:
    assert SUPPORT.fits(OSLO["key"], Claim.of("Norway is cold."))
    assert not SUPPORT.fits(RAIN["key"], Claim.of("Norway is cold."))
    assert SUPPORT.fits(PEKING["key"], Claim.of("It is a large capital.")), "who can say across scripts"
    assert SUPPORT.fits(RAIN["key"], Claim.of("!"))


def test_a_cited_source_without_the_number_gives_way() -> None:
    claim = Claim.of("Oslo was founded in 1040 by Harald Hardrada.")
    assert SUPPORT.better({RAIN["key"]}, claim) == (OSLO["key"],)
    assert SUPPORT.better({OSLO["key"]}, claim) == ()


def test_supporting_sources_have_the_answer_or_most_of_it() -> None:
    assert supporting_sources("Harald Hardrada", SOURCES, NUMBERS) == [OSLO["key"]]
    assert supporting_sources("King Harald Hardrada founded it", SOURCES, NUMBERS) == [OSLO["key"]]
    assert supporting_sources("1040", SOURCES, NUMBERS) == [OSLO["key"]]
    assert supporting_sources("founded in 1041 by King Harald", SOURCES, NUMBERS) == []
    assert supporting_sources("首都", SOURCES, NUMBERS) == [PEKING["key"]]
    assert supporting_sources("约", SOURCES, NUMBERS) == [PEKING["key"]]
    assert supporting_sources("zebra", SOURCES, NUMBERS) == []
    assert supporting_sources("", SOURCES, NUMBERS) == []
    assert supporting_sources("1040", SOURCES, ["feedfeedfeed", RAIN["key"]]) == []


def test_supporting_sources_are_at_most_three_best_first() -> None:
    sources = {s["key"]: s for s in (_source(f"u{i}", "", "the red house" if i else "red") for i in range(6))}
    found = supporting_sources("red house", sources, list(sources))
    assert found == [source_key("u1"), source_key("u2"), source_key("u3")]
