"""Headers that keep a session on its replica."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from agentinfer_lg.llm.affinity import RANK_HEADER, SESSION_HEADER, affinity_headers, session_rank


def test_a_plain_name_is_sent_as_it_is() -> None:
    assert affinity_headers("a1b2:3") == {SESSION_HEADER: "a1b2:3"}


def test_without_a_session_nothing_is_sent() -> None:
    assert affinity_headers("", ranks=4) == {}


@pytest.mark.parametrize(
    "name", ["my private question", "a\r\nX-Evil: 1", "\u6771\u4eac", "\ud800", "x" * 1000, "a\x00b"]
)
def test_whatever_may_be_text_of_a_user_is_sent_as_a_digest(name: str) -> None:
    headers = affinity_headers(name, ranks=8)
    value = headers[SESSION_HEADER]
    assert len(value) == 32
    assert int(value, 16) >= 0
    assert httpx.Headers(headers)[SESSION_HEADER] == value
    assert affinity_headers(name, ranks=8) == headers
    assert affinity_headers(name + "!")[SESSION_HEADER] != value


def test_the_rank_is_the_same_in_every_process() -> None:
    assert [session_rank(name, 2) for name in ("a", "b", "c", "d", "e", "f")] == [0, 0, 1, 1, 1, 1]
    assert affinity_headers("a", ranks=2)[RANK_HEADER] == "0"


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_sessions_spread_over_the_ranks(ranks: int) -> None:
    counts = Counter(session_rank(f"session-{number}", ranks) for number in range(1000))
    assert set(counts) == set(range(ranks))
    assert max(counts.values()) < 1.3 * 1000 / ranks
