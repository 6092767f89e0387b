"""Choosing passages: the ones that matter, within the budget, and never none."""

from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.nodes.seeker.evidence import select_passages
from agentinfer_lg.state import Source


def _source(key: str, title: str, *passages: str) -> Source:
    return Source(key=key, uri=f"{key}.txt", title=title, passages=list(passages), read=False)


_WORDS = st.sampled_from(
    ["lamp", "keeper", "island", "storm", "ferry", "stone", "lit", "built", "灯塔", "岛"]
)
_PASSAGES = st.lists(_WORDS, min_size=1, max_size=30).map(" ".join)
_REGISTRIES = st.dictionaries(
    st.sampled_from("abcde"), st.lists(_PASSAGES, max_size=3, unique=True), max_size=5
).map(lambda drawn: {key: _source(key, f"title {key}", *passages) for key, passages in drawn.items()})


@given(_REGISTRIES, st.lists(_PASSAGES, max_size=3), st.integers(0, 60), st.randoms())
def test_budget_numbers_and_at_least_one(
    sources: dict[str, Source], queries: list[str], tokens: int, random: object
) -> None:
    numbers = sorted(sources)
    chosen = select_passages(sources, numbers, queries, tokens=tokens)
    offered = [
        (number, sources[key]["title"], text)
        for number, key in enumerate(numbers, 1)
        for text in sources[key]["passages"]
    ]
    assert bool(chosen) == bool(offered)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(offered), "text, title and number belong together"
    cost = sum(estimate_tokens(title) + estimate_tokens(text) for _, title, text in chosen)
    assert cost <= tokens or len(chosen) == 1
    assert select_passages(sources, numbers, queries, tokens=tokens) == chosen


_SOURCES = {
    "a": _source("a", "Ferry", "The ferry leaves at noon."),
    "b": _source("b", "Heron Point", "The lamp was lit in 1871.", "It has a red door."),
    "c": _source("c", "Storms", "A storm broke the lamp of the harbour."),
}


def test_best_first() -> None:
    chosen = select_passages(
        _SOURCES, ["a", "b", "c"], ["When was the lamp of Heron Point lit?"], tokens=1000
    )
    assert chosen[0] == (2, "Heron Point", "The lamp was lit in 1871.")
    assert chosen[-1] == (1, "Ferry", "The ferry leaves at noon.")
    assert len(chosen) == 4


def test_the_question_weighs_more_than_later_queries() -> None:
    first = select_passages(_SOURCES, ["a", "b", "c"], ["ferry noon", "storm harbour"], tokens=12)
    assert first[0][0] == 1
    swapped = select_passages(_SOURCES, ["a", "b", "c"], ["storm harbour", "ferry noon"], tokens=12)
    assert swapped[0][0] == 3


def test_equal_passages_keep_their_order() -> None:
    chosen = select_passages(_SOURCES, ["c", "a", "b"], ["nothing in common"], tokens=1000)
    assert [number for number, _, _ in chosen] == [1, 2, 3, 3]


def test_a_passage_that_is_too_long_makes_room_for_the_next() -> None:
    sources = {
        "a": _source("a", "A", "lamp lit " * 3),
        "b": _source("b", "B", "lamp " * 500),
        "c": _source("c", "C", "x"),
    }
    chosen = select_passages(sources, ["a", "b", "c"], ["lamp lit"], tokens=20)
    assert [number for number, _, _ in chosen] == [1, 3]


def test_a_single_passage_over_the_budget_is_shown() -> None:
    sources = {"a": _source("a", "A", "lamp " * 500)}
    assert len(select_passages(sources, ["a"], ["lamp"], tokens=10)) == 1


def test_nothing_to_show() -> None:
    assert select_passages({}, [], ["q"], tokens=100) == []
    assert select_passages(_SOURCES, [], ["q"], tokens=100) == []
    assert select_passages({"a": _source("a", "A")}, ["a", "gone"], ["q"], tokens=100) == []


def test_chinese() -> None:
    sources = {"a": _source("a", "渡轮", "渡轮中午出发。"), "b": _source("b", "灯塔", "灯塔于1871年点亮。")}
    assert select_passages(sources, ["a", "b"], ["灯塔是哪一年点亮的？"], tokens=100)[0][0] == 2


LONG = "Boats come and go. The light of Heron Point was lit in 1871. Gulls sleep on the pier. Ada Winter kept the light."


def test_a_long_passage_is_shown_by_the_sentences_that_match() -> None:
    sources = {"a": _source("a", "Heron", LONG), "b": _source("b", "Pier", "Boats come and go.")}
    shown = select_passages(
        sources, ["a", "b"], ["When was Heron Point lit?", "Ada Winter"], tokens=100, each=28
    )
    assert shown == [
        (1, "Heron", "The light of Heron Point was lit in 1871. … Ada Winter kept the light."),
        (2, "Pier", "Boats come and go."),
    ]


def test_shortened_passages_make_room_for_others() -> None:
    sources = {"a": _source("a", "A", f"{LONG} " * 20), "b": _source("b", "B", "Heron Point was lit.")}
    queries = ["When was Heron Point lit?"]
    assert len(select_passages(sources, ["a", "b"], queries, tokens=80)) == 1
    assert len(select_passages(sources, ["a", "b"], queries, tokens=80, each=40)) == 2


def test_a_title_that_is_spelled_out_goes_first() -> None:
    shop = _source("a", "Souvenirs and tours", "Heron Point lit, keeper of Heron Point, lit by the keeper.")
    light = _source("b", "Heron Point", "Ada Winter lit it in 1871.")
    chosen = select_passages({"a": shop, "b": light}, ["a", "b"], ["Heron Point keeper lit"], tokens=100)
    assert [number for number, _, _ in chosen] == [2, 1]


def test_a_passage_that_fits_stays_as_it_is() -> None:
    text = f"{LONG}\n\n{LONG}"
    sources = {"a": _source("a", "Heron", text)}
    assert select_passages(sources, ["a"], ["Heron"], tokens=1000, each=500) == [(1, "Heron", text)]


@given(st.text(max_size=2000), st.text(max_size=50), st.integers(5, 60))
def test_what_is_shown_stands_in_the_passage(text: str, query: str, each: int) -> None:
    ((_, _, shown),) = select_passages({"a": _source("a", "", text)}, ["a"], [query], tokens=5000, each=each)
    assert estimate_tokens(shown) <= each
    plain = " ".join(text.split())
    for piece in " ".join(shown.split()).split(" … "):
        assert piece.removesuffix("…").strip() in plain
