"""Reducers of the state: however parallel branches are joined, the result is the same."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.state import Source, merge_round, merge_sources, merge_unique

_keys = st.sampled_from("abcd")
_items = st.lists(st.sampled_from("uvwxyz"), max_size=6)


@st.composite
def _registries(draw: st.DrawFn) -> dict[str, Source]:
    return {
        key: Source(
            key=key,
            uri=f"uri-{key}",
            title=f"title-{key}",
            passages=draw(st.lists(st.sampled_from("pqrs"), max_size=3, unique=True)),
            read=draw(st.booleans()),
        )
        for key in draw(st.lists(_keys, max_size=4, unique=True))
    }


@given(_registries(), _registries(), _registries())
def test_sources_merge_associatively(a: Any, b: Any, c: Any) -> None:
    left = merge_sources(merge_sources(a, b), c)
    right = merge_sources(a, merge_sources(b, c))
    assert left == right
    assert list(left) == list(right), "the order of keys is the order of numbers"


@given(_registries(), _registries())
def test_sources_merge_idempotently_and_lose_nothing(a: Any, b: Any) -> None:
    merged = merge_sources(a, b)
    assert merge_sources(merged, b) == merged
    assert merge_sources(merged, a) == merged
    assert merge_sources(merged, {}) == merged == merge_sources({}, merged)
    assert list(merged)[: len(a)] == list(a)
    for part in (a, b):
        for key, source in part.items():
            assert set(source["passages"]) <= set(merged[key]["passages"])
            assert merged[key]["read"] >= source["read"]
            assert len(set(merged[key]["passages"])) == len(merged[key]["passages"])
    for key, source in a.items():
        assert merged[key]["passages"][: len(source["passages"])] == source["passages"]


@given(_registries(), _registries())
def test_merging_changes_neither_side(a: Any, b: Any) -> None:
    before = copy.deepcopy((a, b))
    merge_sources(a, b)
    assert (a, b) == before


@given(_items, _items, _items)
def test_unique_merges_associatively(a: list[str], b: list[str], c: list[str]) -> None:
    a = list(dict.fromkeys(a))
    assert merge_unique(merge_unique(a, b), c) == merge_unique(a, merge_unique(list(dict.fromkeys(b)), c))


@given(_items, _items)
def test_unique_keeps_positions(a: list[str], b: list[str]) -> None:
    a = list(dict.fromkeys(a))
    merged = merge_unique(a, b)
    assert merged[: len(a)] == a, "a number once given never changes"
    assert set(merged) == set(a) | set(b)
    assert len(set(merged)) == len(merged)
    assert merge_unique(merged, b) == merged


def test_round() -> None:
    one: Any = [{"text": "1"}]
    two: Any = [{"text": "2"}]
    assert merge_round(merge_round([], one), two) == [*one, *two]
    assert merge_round(one, None) == []
    assert merge_round(one, []) == one
