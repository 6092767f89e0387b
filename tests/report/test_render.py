"""The text with its citations: whatever a model wrote, what is cited was retrieved."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cpu_time import takes_less

from agentinfer_lg.report.render import resolve_citations, source_list
from agentinfer_lg.report.sources import source_key
from agentinfer_lg.state import Source


def _source(uri: str, title: str, *passages: str) -> Source:
    return Source(key=source_key(uri), uri=uri, title=title, passages=list(passages))


RAIN = _source("https://a.org/rain", "Rain", "Rain falls in Bergen on 231 days of the year.")
OSLO = _source(
    "notes/oslo.md", "Oslo", "Oslo is the capital of Norway. It was founded in 1040 by King Harald Hardrada."
)
PEKING = _source("https://zh.org/北京", "北京", "北京是中华人民共和国的首都，人口约2184万。")
CURED = _source("https://a.org/w/Cod_(fish)?x=1,2", "Cod (fish)", "Cod is dried on wooden racks in Lofoten.")
SOURCES = {source["key"]: source for source in (RAIN, OSLO, PEKING, CURED)}
NUMBERS = list(SOURCES)  # [1] rain, [2] Oslo, [3] Peking, [4] cod


def _resolve(text: str, *, attribute: bool = False) -> tuple[str, list[str], int, int]:
    found = resolve_citations(text, numbers=NUMBERS, sources=SOURCES, attribute=attribute)
    titles = [SOURCES[key]["title"] for key in found.cited]
    return found.text, titles, found.dropped, found.unsupported


@pytest.mark.parametrize(
    ("mark", "titles"),
    [
        ("[2]", ["Oslo"]),
        ("[ 2 ]", ["Oslo"]),
        ("[2, 1]", ["Oslo", "Rain"]),
        ("[2][1]", ["Oslo", "Rain"]),
        ("[1-3]", ["Rain", "Oslo", "北京"]),
        ("[2 and 3]", ["Oslo", "北京"]),
        ("【2】", ["Oslo"]),
        ("【2†source】", ["Oslo"]),
        ("［２］", ["Oslo"]),
        ("[^2]", ["Oslo"]),
        ("[S2]", ["Oslo"]),
        ("[Source 2]", ["Oslo"]),
        ("(Source 2)", ["Oslo"]),
        ("(sources: 2, 1)", ["Oslo", "Rain"]),
        ("（来源2）", ["Oslo"]),
        ("[notes/oslo.md]", ["Oslo"]),
        ("[2](https://a.org/rain)", ["Rain"]),
        ("[[2]](notes/oslo.md)", ["Oslo"]),
        ("[2](https://evil.example/x)", ["Oslo"]),
    ],
)
def test_every_usual_form_of_a_citation_is_understood(mark: str, titles: list[str]) -> None:
    text, found, _, _ = _resolve(f"It is so {mark}.")
    assert found == titles
    assert text == "It is so " + "".join(f"[{i + 1}]" for i in range(len(titles))) + "."


@pytest.mark.parametrize(
    ("before", "after", "dropped"),
    [
        ("It rains [9].", "It rains.", 1),
        ("It rains[9], often [1, 7].", "It rains, often [1].", 2),
        ("It rains [0] [00] [-1].", "It rains [-1].", 2),
        ("It rains [99999999999999999999].", "It rains.", 1),
        ("It rains (https://evil.example/a_(b)?q=1).", "It rains.", 1),
        ("See https://evil.example/x, then www.evil.example.", "See, then.", 2),
        ("See <https://evil.example/x> now", "See now", 1),
        ("See [the docs](https://evil.example/x) now", "See the docs now", 1),
        ("![chart](http://evil.example/c.png) here", "chart here", 1),
        ("见https://evil.example/x。", "见。", 1),
    ],
)
def test_what_was_never_retrieved_goes_and_is_counted(before: str, after: str, dropped: int) -> None:
    assert _resolve(before) == (after, ["Rain"] if "[1]" in after else [], dropped, 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("See https://a.org/rain.", "See https://a.org/rain [1]."),
        ("See HTTPS://A.org/rain/#top, ok", "See HTTPS://A.org/rain/#top [1], ok"),
        ("See (https://a.org/w/Cod_(fish)?x=1,2).", "See (https://a.org/w/Cod_(fish)?x=1,2 [1])."),
        ("See [the rain](https://a.org/rain).", "See [the rain](https://a.org/rain) [1]."),
        ("See https://zh.org/%E5%8C%97%E4%BA%AC", "See https://zh.org/%E5%8C%97%E4%BA%AC [1]"),
    ],
)
def test_addresses_of_retrieved_sources_stay_and_count_as_citations(before: str, after: str) -> None:
    text, titles, dropped, _ = _resolve(before)
    assert (text, len(titles), dropped) == (after, 1, 0)


def test_numbers_follow_the_order_of_first_appearance() -> None:
    text, titles, _, _ = _resolve("B [2]. A [1]. Again [2][2].")
    assert (text, titles) == ("B [1]. A [2]. Again [1].", ["Oslo", "Rain"])


def test_a_key_that_is_not_in_the_registry_cannot_be_cited() -> None:
    found = resolve_citations("It rains [1].", numbers=["feedfeedfeed"], sources=SOURCES)
    assert (found.text, found.cited, found.dropped) == ("It rains.", (), 1)


def test_code_tables_and_headings_survive() -> None:
    text = (
        "# Report [1]\n\n```python\na[7] = 'https://evil.example'\n```\n\n| City | Days |\n|---|---|\n"
        "| Bergen [1] | 231 [9] |\n\nInline `b[8]` stays.\n\n~~~\n[6]\n```\n[6]\n~~~\n[6] gone"
    )
    resolved, titles, dropped, _ = _resolve(text, attribute=True)
    assert "a[7] = 'https://evil.example'" in resolved
    assert "`b[8]` stays" in resolved
    assert "~~~\n[6]\n```\n[6]\n~~~" in resolved
    assert "| Bergen [1] | 231 |" in resolved
    assert "|---|---|" in resolved
    assert "# Report [1]" in resolved
    assert (titles, dropped) == (["Rain"], 2)


@pytest.mark.parametrize("heading", ["## Sources", "**References:**", "Sources:", "来源：", "# 参考文献"])
def test_a_list_of_sources_by_the_model_is_taken_off(heading: str) -> None:
    text = f"It rains in Bergen [1].\n\n{heading}\n\n[1] Rain - https://a.org/rain\n- [9] X https://evil.example\nOslo\n"
    assert _resolve(text) == ("It rains in Bergen [1].", ["Rain"], 2, 0)


def test_a_section_that_only_sounds_like_a_list_of_sources_stays() -> None:
    text = "## Sources\n\nThe Nile rises in two lakes.\n"
    assert _resolve(text)[0].startswith("## Sources\n\nThe Nile")


def test_footnote_definitions_are_taken_off() -> None:
    assert _resolve("It rains [^1].\n\n[^1]: https://a.org/rain")[0] == "It rains [1]."


def test_claims_get_the_source_that_supports_them() -> None:
    text, titles, dropped, unsupported = _resolve(
        "Oslo was founded in 1040 by Harald Hardrada. Rain falls in Bergen on 231 days!", attribute=True
    )
    assert text == "Oslo was founded in 1040 by Harald Hardrada [1]. Rain falls in Bergen on 231 days [2]!"
    assert (titles, dropped, unsupported) == (["Oslo", "Rain"], 0, 0)


def test_a_claim_of_two_sources_gets_both() -> None:
    text, titles, _, _ = _resolve(
        "Harald Hardrada founded Oslo in 1040, and rain falls in Bergen on 231 days.", attribute=True
    )
    assert text.endswith("231 days [1][2].")
    assert set(titles) == {"Oslo", "Rain"}


def test_a_claim_without_a_source_is_marked_and_counted() -> None:
    text, _, _, unsupported = _resolve(
        "The moon of Jupiter is made of cheese. Oslo was founded in 1999.", attribute=True
    )
    assert text == (
        "The moon of Jupiter is made of cheese (no source found). Oslo was founded in 1999 (no source found)."
    )
    assert unsupported == 2


def test_marking_twice_marks_once() -> None:
    once = _resolve("The moon is made of cheese.", attribute=True)
    assert _resolve(once[0], attribute=True) == once


def test_chinese() -> None:
    text, titles, _, unsupported = _resolve(
        "北京是中国的首都【3】。北京人口约2184万。月亮是绿色奶酪做的！北京有多少人？", attribute=True
    )
    assert (
        text == "北京是中国的首都[1]。北京人口约2184万[1]。月亮是绿色奶酪做的（未找到来源）！北京有多少人？"
    )
    assert (titles, unsupported) == (["北京"], 1)


@pytest.mark.parametrize(
    "text",
    [
        "# A heading about the moon of Jupiter",
        "**Only bold words here**",
        "Is the moon of Jupiter made of cheese?",
        "The findings are these, in order of size:",
        "In conclusion.",
        "No information about the moon of Jupiter was found.",
        "没有找到关于月亮的资料。",
        "---",
        "",
    ],
)
def test_what_claims_nothing_is_left_alone(text: str) -> None:
    assert _resolve(text, attribute=True) == (text, [], 0, 0)


def test_a_citation_that_shares_nothing_with_its_sentence_is_replaced() -> None:
    text, titles, dropped, _ = _resolve("Cod is dried on racks in Lofoten [2].", attribute=True)
    assert (text, titles, dropped) == ("Cod is dried on racks in Lofoten [1].", ["Cod (fish)"], 1)


def test_a_citation_whose_source_lacks_the_number_gives_way_to_one_that_has_it() -> None:
    text, titles, dropped, _ = _resolve("The year 1040 saw Oslo founded by King Harald [1].", attribute=True)
    assert (text, titles, dropped) == ("The year 1040 saw Oslo founded by King Harald [1].", ["Oslo"], 1)


def test_a_citation_that_no_other_source_could_better_stays() -> None:
    assert _resolve("The year 1999 was a wet one [1].", attribute=True)[1:3] == (["Rain"], 0)


def test_a_source_in_another_language_may_be_cited() -> None:
    text, titles, dropped, unsupported = _resolve("卑尔根多雨[1]。", attribute=True)
    assert (text, titles, dropped, unsupported) == ("卑尔根多雨[1]。", ["Rain"], 0, 0)


def test_a_citation_after_the_full_stop_belongs_to_the_sentence_before() -> None:
    text, titles, _, _ = _resolve(
        "Rain falls in Bergen. [1] Oslo is a capital.[2] Cod dries.", attribute=True
    )
    assert text.startswith("Rain falls in Bergen. [1] Oslo is a capital.[2] Cod dries")
    assert titles[:2] == ["Rain", "Oslo"]


def test_wrapped_lines_are_one_sentence_and_list_items_are_not() -> None:
    text, _, _, _ = _resolve(
        "Rain falls in Bergen on\nmost days, 231 in all [1].\n- Oslo was\n- founded in 1040", attribute=True
    )
    assert "on\nmost days, 231 in all [1]" in text


def test_attribution_can_be_switched_off() -> None:
    assert _resolve("The moon is made of cheese. Cod is dried [2].") == (
        "The moon is made of cheese. Cod is dried [1].",
        ["Oslo"],
        0,
        0,
    )


def test_no_sources_at_all() -> None:
    found = resolve_citations("The moon [1] is made of cheese.", numbers=[], sources={})
    assert (found.text, found.cited, found.dropped, found.unsupported) == (
        "The moon is made of cheese (no source found).",
        (),
        1,
        1,
    )


PIECES = st.sampled_from(
    ["[", "]", "(", ")", "【", "】", "1", "2", "9", "Source ", ", ", "-", "^", "S", "a", " ", ".", "\n", "!", "`", "```", "|",
     "#", "https://", "www.", "evil.example", "https://a.org/rain", "<", ">", "://", "htt", "ps", "北京", "。", "?", "*",
     "Oslo was founded in 1040", "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4", "†", "and", "- ", "Sources:\n"]
)  # fmt: skip
GARBAGE = st.lists(PIECES, max_size=40).map("".join) | st.text(st.characters(codec=None), max_size=200)


@given(GARBAGE, st.booleans())
def test_any_text_ends_up_with_real_citations_only(text: str, attribute: bool) -> None:
    plain = text.replace("`", "").replace("~", "")  # code is left as it is
    found = resolve_citations(plain, numbers=NUMBERS, sources=SOURCES, attribute=attribute)
    cited = {int(number) for number in re.findall(r"[\[【］](\d+)[\]】］]", found.text)}
    assert cited == set(range(1, len(found.cited) + 1))
    assert len(set(found.cited)) == len(found.cited)
    assert set(found.cited) <= set(SOURCES)
    for url in re.findall(r"(?:https?|ftp)://\S+|\bwww\.\S+", found.text, re.I):
        assert url.lower().startswith("https://a.org/rain")
    assert not re.search("[\ufdd0-\ufdd4]", found.text)


@given(GARBAGE, st.booleans())
def test_any_text_at_all_is_resolved_without_an_error(text: str, attribute: bool) -> None:
    found = resolve_citations(text, numbers=NUMBERS, sources=SOURCES, attribute=attribute)
    assert found.dropped >= 0
    assert found.unsupported == 0 or attribute


@given(
    st.lists(
        st.sampled_from(["Oslo was founded in 1040. ", "Cod dries [4]. ", "x [7] ", "\n- It rains [1]"]),
        max_size=9,
    )
)
def test_resolving_twice_changes_nothing(parts: list[str]) -> None:
    first = resolve_citations("".join(parts), numbers=NUMBERS, sources=SOURCES)
    second = resolve_citations(first.text, numbers=first.cited, sources=SOURCES)
    assert (second.text, second.cited, second.dropped) == (first.text, first.cited, 0)


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "[1",
        "[1,",
        "[[1]9]",
        "http://",
        "[a](",
        "(Source 1",
        "【1†",
        "`",
        "![",
        "> ",
        "[x](a(b)",
        "A b. ",
        "\n#",
        "no ",
    ],
)
def test_a_long_text_is_read_in_linear_time(piece: str) -> None:
    text = piece * (250_000 // len(piece))
    # Quadratic work would take minutes.
    assert takes_less(5.0, lambda: resolve_citations(text, numbers=NUMBERS, sources=SOURCES))


def test_source_list() -> None:
    odd = _source("https://b.org/a b", "A [strange]\ntitle *with* \x1b[31mmarks\x07")
    sources = {**SOURCES, odd["key"]: odd}
    assert source_list([OSLO["key"], odd["key"]], sources) == (
        "- [1] Oslo — notes/oslo.md\n- [2] A \\[strange\\] title \\*with\\* \\[31mmarks — https://b.org/a b"
    )
    assert source_list([], sources) == ""
