"""Finished sessions that can be found again by similarity, each with its automaton; the sessions of a tenant apart."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass, field

from agentinfer_lg.serving.sam.index.automaton import SuffixAutomaton
from agentinfer_lg.serving.sam.index.session_index import SessionIndex
from agentinfer_lg.serving.sam.types import IntArray


@dataclass(slots=True)
class _Tenant:
    index: SessionIndex
    automata: dict[int, SuffixAutomaton] = field(default_factory=dict)


class SimilarSessions:
    """The latest finished sessions, up to a number of them and of their tokens."""

    def __init__(self, make_index: Callable[[], SessionIndex], *, sessions: int, tokens: int) -> None:
        """Start empty.

        Args:
            make_index: Makes the index of a tenant.
            sessions: Most sessions to hold, all tenants together.
            tokens: Most tokens in their automata.
        """
        self._make_index = make_index
        self._most_sessions, self._most_tokens = sessions, tokens
        self._tenants: dict[str, _Tenant] = {}
        self._order: collections.deque[tuple[str, int]] = collections.deque()
        self._next = 0
        self.tokens = 0
        """Tokens in all automata."""

    def __len__(self) -> int:
        return len(self._order)

    @property
    def nbytes(self) -> int:
        """Bytes of all automata."""
        return sum(
            automaton.nbytes
            for tenant in tuple(self._tenants.values())
            for automaton in tuple(tenant.automata.values())
        )

    def add(self, tenant: str, text: IntArray, automaton: SuffixAutomaton) -> None:
        """Add a session; its automaton must not change any more."""
        place = self._tenants.setdefault(tenant, _Tenant(self._make_index()))
        key, self._next = self._next, self._next + 1
        place.index.add(key, text)
        place.automata[key] = automaton
        self._order.append((tenant, key))
        self.tokens += automaton.tokens
        while self._order and (len(self._order) > self._most_sessions or self.tokens > self._most_tokens):
            self._drop(*self._order.popleft())

    def nearest(self, tenant: str, text: IntArray, *, k: int) -> list[tuple[SuffixAutomaton, float]]:
        """Return automaton and similarity (0 to 1) of the `k` sessions most similar to `text`, the best first."""
        place = self._tenants.get(tenant)
        if place is None:
            return []
        found = place.index.similar(text, k=k)
        return [(place.automata[each.key], each.similarity) for each in found if each.key in place.automata]

    def _drop(self, tenant: str, key: int) -> None:
        place = self._tenants[tenant]
        self.tokens -= place.automata.pop(key).tokens
        place.index.remove(key)
        if not place.automata:
            del self._tenants[tenant]
