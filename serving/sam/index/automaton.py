"""Online generalised suffix automaton over token ids, in flat integer arrays.

A state stands for the token sequences that end at the same places of the text. Each state knows how often it occurred
and how it went on: most often, and most recently. Text is added token by token; several texts share one automaton, and
each may grow on its own tip (the state of its last token).

Everything that runs per token is compiled, releases the GIL and works on the header of an automaton: an array of
`HEADER` 64-bit integers with the addresses of its arrays. Headers never move, so one compiled call can serve a batch of
requests, each with automata of its own. Nothing is allocated in compiled code: text that does not fit is left over, and
`SuffixAutomaton.extend` makes room and goes on.

Amortised linear in the text: about 1.6 states per token of 32 bytes each, and 24 bytes for each further edge of a
branching state. Walks along suffix links are capped at `CHAIN` states, so counts of tokens that repeat thousands of
times are lower bounds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from agentinfer_lg.serving.sam.index.compiled import compiled, inlined
from agentinfer_lg.serving.sam.types import IntArray

HEADER: Final = 8
"""Fields of a header; their meaning follows."""
_NODES, _EDGES, _SLOTS, _NODE_COUNT, _EDGE_COUNT, _NODE_LIMIT, _EDGE_LIMIT, _SLOT_COUNT = range(HEADER)

_LENGTH, _LINK, _COUNT, _TOKEN, _TARGET, _MORE, _BEST, _RECENT = range(8)
"""Fields of a state: longest sequence, suffix link, occurrences, first edge (token, target), number of the first further
edge (0: none), token of the most frequent and of the most recent continuation."""
_STATE, _EDGE_TOKEN, _EDGE_TARGET, _NEXT = range(4)
"""Fields of a further edge: state it leaves, token, target, number of the state's next further edge (0: none)."""

ROOT: Final = 0
_NONE: Final = -1
CHAIN: Final = 64
"""Most suffix links followed to keep counts and continuations."""
_SPARE_SLOTS: Final = 256
"""Free hash slots wanted before a token is added; a token rarely needs more than a handful of further edges."""
_SLOT_AHEAD: Final = 8192


@intrinsic
def _pointer(typingctx: Any, address: Any) -> Any:  # numba's own types
    """Turn an integer into a pointer: the arrays of many automata reach one compiled call by their addresses."""
    signature = types.voidptr(types.int64)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return signature, codegen


@inlined
def arrays(address):
    """Return header, states, further edges and hash slots of the automaton whose header is at `address`."""
    header = carray(_pointer(address), (HEADER,), np.int64)
    nodes = carray(_pointer(header[_NODES]), (header[_NODE_LIMIT], 8), np.int32)
    edges = carray(_pointer(header[_EDGES]), (header[_EDGE_LIMIT], 4), np.int32)
    slots = carray(_pointer(header[_SLOTS]), (header[_SLOT_COUNT],), np.int32)
    return header, nodes, edges, slots


@inlined
def _slot(state, token, count):
    mixed = np.uint64(state) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(np.uint32(token)) * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(count - 1))


@compiled
def _further_edge(edges, slots, state, token):
    """Return the number of the edge of `state` for `token` among the further ones, or 0."""
    mask = slots.shape[0] - 1
    place = _slot(state, token, slots.shape[0])
    while slots[place] != 0:
        edge = slots[place]
        if edges[edge, _STATE] == state and edges[edge, _EDGE_TOKEN] == token:
            return edge
        place = (place + 1) & mask
    return 0


@compiled
def find_edge(nodes, edges, slots, state, token):
    """Return the state that `state` leads to by `token`, or -1."""
    if nodes[state, _TOKEN] == token:
        return nodes[state, _TARGET]
    if nodes[state, _MORE] == 0:
        return _NONE
    edge = _further_edge(edges, slots, state, token)
    return edges[edge, _EDGE_TARGET] if edge else _NONE


@compiled
def _add_edge(header, nodes, edges, slots, state, token, target):
    """Add an edge that is not there yet. Without room for it, which `extend` rules out, it is dropped."""
    if nodes[state, _TARGET] == _NONE:
        nodes[state, _TOKEN] = token
        nodes[state, _TARGET] = target
        return
    edge = header[_EDGE_COUNT]
    if edge >= header[_EDGE_LIMIT] or edge + 1 >= slots.shape[0]:
        return
    header[_EDGE_COUNT] = edge + 1
    edges[edge, _STATE] = state
    edges[edge, _EDGE_TOKEN] = token
    edges[edge, _EDGE_TARGET] = target
    edges[edge, _NEXT] = nodes[state, _MORE]
    nodes[state, _MORE] = edge
    _enter(edges, slots, edge)


@compiled
def _enter(edges, slots, edge):
    mask = slots.shape[0] - 1
    place = _slot(edges[edge, _STATE], edges[edge, _EDGE_TOKEN], slots.shape[0])
    while slots[place] != 0:
        place = (place + 1) & mask
    slots[place] = edge


@compiled
def _enter_all(edges, count, slots):
    for edge in range(1, count):
        _enter(edges, slots, edge)


@compiled
def _redirect(nodes, edges, slots, state, token, target):
    if nodes[state, _TOKEN] == token:
        nodes[state, _TARGET] = target
        return
    edge = _further_edge(edges, slots, state, token)
    if edge:
        edges[edge, _EDGE_TARGET] = target


@compiled
def _new_state(header, nodes, length, link):
    state = header[_NODE_COUNT]
    header[_NODE_COUNT] = state + 1
    nodes[state, _LENGTH] = length
    nodes[state, _LINK] = link
    nodes[state, _COUNT] = 0
    nodes[state, _TOKEN] = _NONE
    nodes[state, _TARGET] = _NONE
    nodes[state, _MORE] = 0
    nodes[state, _BEST] = _NONE
    nodes[state, _RECENT] = _NONE
    return state


@compiled
def _split(header, nodes, edges, slots, parent, token, state):
    """Give the sequences of `state` that are not longer than those of `parent` plus `token` a state of their own."""
    clone = _new_state(header, nodes, nodes[parent, _LENGTH] + 1, nodes[state, _LINK])
    for field in (_COUNT, _TOKEN, _TARGET, _BEST, _RECENT):
        nodes[clone, field] = nodes[state, field]
    edge = nodes[state, _MORE]
    while edge:
        _add_edge(header, nodes, edges, slots, clone, edges[edge, _EDGE_TOKEN], edges[edge, _EDGE_TARGET])
        edge = edges[edge, _NEXT]
    nodes[state, _LINK] = clone
    while parent != _NONE and find_edge(nodes, edges, slots, parent, token) == state:
        _redirect(nodes, edges, slots, parent, token, clone)
        parent = nodes[parent, _LINK]
    return clone


@compiled
def _append(header, nodes, edges, slots, tip, token):
    """Add `token` after `tip`, and return the new tip."""
    known = find_edge(nodes, edges, slots, tip, token)
    if known != _NONE:
        exact = nodes[known, _LENGTH] == nodes[tip, _LENGTH] + 1
        return known if exact else _split(header, nodes, edges, slots, tip, token, known)
    new = _new_state(header, nodes, nodes[tip, _LENGTH] + 1, ROOT)
    parent = tip
    while parent != _NONE:
        known = find_edge(nodes, edges, slots, parent, token)
        if known != _NONE:
            break
        _add_edge(header, nodes, edges, slots, parent, token, new)
        parent = nodes[parent, _LINK]
    if parent != _NONE:
        exact = nodes[known, _LENGTH] == nodes[parent, _LENGTH] + 1
        link = known if exact else _split(header, nodes, edges, slots, parent, token, known)
        nodes[new, _LINK] = link
    return new


@compiled
def _count(nodes, edges, slots, before, token, after):
    """Note one more occurrence of the sequences that end in `after`, and what followed those that end in `before`."""
    state = after
    for _ in range(CHAIN):
        if state == ROOT:
            break
        nodes[state, _COUNT] += 1
        state = nodes[state, _LINK]
    nodes[ROOT, _COUNT] += 1
    state = before
    for _ in range(CHAIN):
        nodes[state, _RECENT] = token
        best = nodes[state, _BEST]
        if best == _NONE:
            nodes[state, _BEST] = token
        elif best != token:
            rival = find_edge(nodes, edges, slots, state, best)
            mine = find_edge(nodes, edges, slots, state, token)
            if mine != _NONE and (rival == _NONE or nodes[mine, _COUNT] >= nodes[rival, _COUNT]):
                nodes[state, _BEST] = token
        if state == ROOT:
            break
        state = nodes[state, _LINK]


@compiled
def extend(address, tokens, tip):
    """Add `tokens` after `tip`.

    Returns:
        How many were added before room ran out, and the new tip.
    """
    header, nodes, edges, slots = arrays(address)
    for index in range(tokens.shape[0]):
        roomy = header[_NODE_COUNT] + 2 <= header[_NODE_LIMIT]
        edges_wanted = header[_EDGE_COUNT] + _SPARE_SLOTS
        roomy &= edges_wanted <= header[_EDGE_LIMIT] and edges_wanted + edges_wanted // 4 <= slots.shape[0]
        if not roomy:
            return index, tip
        before = tip
        tip = _append(header, nodes, edges, slots, before, tokens[index])
        _count(nodes, edges, slots, before, tokens[index], tip)
    return tokens.shape[0], tip


@compiled
def advance(nodes, edges, slots, state, length, token):
    """Return state and length of the longest match after one more token; (0, 0) if it never occurred.

    Args:
        state: State of the current match.
        length: Its length in tokens, which may be less than the longest sequence of the state.
    """
    while length and shorter(nodes, state)[1] >= length:  # text added since has split the state
        state = nodes[state, _LINK]
    while True:
        target = find_edge(nodes, edges, slots, state, token)
        if target != _NONE:
            return target, length + 1
        if state == ROOT:
            return ROOT, 0
        state = nodes[state, _LINK]
        length = nodes[state, _LENGTH]


@compiled
def own_match(nodes, tip):
    """Return the match of a text with what stood before in its own automaton: the longest suffix that went on."""
    state = tip
    if nodes[state, _TARGET] == _NONE and state != ROOT:
        state = nodes[state, _LINK]
    return state, nodes[state, _LENGTH]


@inlined
def shorter(nodes, state):
    """Return state and length of the longest suffix of the sequences of `state` that has other occurrences."""
    link = nodes[state, _LINK]
    return link, nodes[link, _LENGTH]


@inlined
def has_edges(nodes, state):
    """Return whether the sequences of `state` ever went on."""
    return nodes[state, _TARGET] != _NONE


@inlined
def occurrences(nodes, state):
    """Return how often the sequences of `state` occurred."""
    return nodes[state, _COUNT]


@inlined
def most_frequent(nodes, state):
    """Return the most frequent continuation of `state` (ties: the most recent), or -1."""
    return nodes[state, _BEST]


@inlined
def most_recent(nodes, state):
    """Return the most recent continuation of `state`, or -1."""
    return nodes[state, _RECENT]


@compiled
def _match(address, tokens, state, length):
    _, nodes, edges, slots = arrays(address)
    for token in tokens:
        state, length = advance(nodes, edges, slots, state, length, token)
    return state, length


@compiled
def _continuation(address, state, token):
    """Return occurrences of `state`, and of its continuation by `token` (0: none)."""
    _, nodes, edges, slots = arrays(address)
    target = find_edge(nodes, edges, slots, state, token)
    return nodes[state, _COUNT], 0 if target == _NONE else nodes[target, _COUNT]


class SuffixAutomaton:
    """One automaton with its arrays.

    Not safe for use by two threads at once; compiled calls release the GIL.
    """

    __slots__ = ("_edges", "_nodes", "_slots", "header", "tokens")

    def __init__(self, *, tokens: int = 256) -> None:
        """Make an empty automaton.

        Args:
            tokens: Length of the text to make room for; it grows as needed.
        """
        self.header = np.zeros(HEADER, np.int64)
        self.tokens = 0
        self._nodes: IntArray = np.empty((0, 8), np.int32)
        self._edges: IntArray = np.zeros((1, 4), np.int32)
        self._slots: IntArray = np.empty(0, np.int32)
        self.header[_EDGE_COUNT] = 1  # 0 means "no edge"
        self.reserve(tokens)
        self._nodes[ROOT] = (0, _NONE, 0, _NONE, _NONE, 0, _NONE, _NONE)
        self.header[_NODE_COUNT] = 1

    @property
    def address(self) -> int:
        """Where the header is; valid as long as this object lives."""
        return int(self.header.ctypes.data)

    @property
    def states(self) -> int:
        """Number of states, the root included."""
        return int(self.header[_NODE_COUNT])

    @property
    def nbytes(self) -> int:
        """Bytes in use; room that was reserved and never touched takes no memory."""
        return int(32 * self.header[_NODE_COUNT] + 16 * self.header[_EDGE_COUNT] + self._slots.nbytes)

    def extend(self, tokens: IntArray, *, tip: int = ROOT) -> int:
        """Add `tokens` after `tip`, and return the new tip. O(len(tokens)) amortised."""
        done = 0
        while done < len(tokens):
            added, tip = extend(self.address, tokens[done:], tip)
            done += added
            if done < len(tokens):
                self.reserve(len(tokens) - done)
        self.tokens += len(tokens)
        return int(tip)

    def reserve(
        self, tokens: int, *, guard: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    ) -> None:
        """Make room for `tokens` more of any text; hash slots, which fill at random, at most for the next `_SLOT_AHEAD`.

        Args:
            tokens: Length of the text to come.
            guard: Held while grown arrays take the place of the old ones, where another thread may be reading them.
        """
        states, edges = int(self.header[_NODE_COUNT]), int(self.header[_EDGE_COUNT])
        nodes = _grown(self._nodes, states, 2 * tokens + 2)
        further = _grown(self._edges, edges, 2 * tokens + 2 * _SPARE_SLOTS)
        slots = self._grown_slots(min(tokens, _SLOT_AHEAD))
        if nodes is self._nodes and further is self._edges and slots is self._slots:
            return
        with guard():
            self._nodes, self._edges, self._slots = nodes, further, slots
            self.header[[_NODES, _EDGES, _SLOTS]] = [array.ctypes.data for array in (nodes, further, slots)]
            self.header[[_NODE_LIMIT, _EDGE_LIMIT, _SLOT_COUNT]] = [len(nodes), len(further), len(slots)]

    def match(self, tokens: IntArray, *, state: int = ROOT, length: int = 0) -> tuple[int, int]:
        """Return state and length of the longest suffix of the text so far plus `tokens` that occurs in here."""
        state, length = _match(self.address, tokens, state, length)
        return int(state), int(length)

    def count(self, state: int) -> int:
        """Return how often the sequences of `state` occurred."""
        return int(self._nodes[state, _COUNT])

    def continuation_count(self, state: int, token: int) -> int:
        """Return how often `token` followed the sequences of `state`."""
        return int(_continuation(self.address, state, token)[1])

    def most_frequent(self, state: int) -> int:
        """Return the most frequent continuation (ties: the most recent), or -1."""
        return int(self._nodes[state, _BEST])

    def most_recent(self, state: int) -> int:
        """Return the most recent continuation, or -1."""
        return int(self._nodes[state, _RECENT])

    def _grown_slots(self, tokens: int) -> IntArray:
        wanted = int(self.header[_EDGE_COUNT]) + tokens + _SPARE_SLOTS
        if wanted + wanted // 4 <= len(self._slots):
            return self._slots
        slots = np.zeros(1 << (wanted * 3 // 2).bit_length(), np.int32)
        _enter_all(self._edges, int(self.header[_EDGE_COUNT]), slots)
        return slots


def _grown(array: IntArray, used: int, more: int) -> IntArray:
    if used + more <= len(array):
        return array
    grown = np.empty((max(used + more, len(array) * 3 // 2), array.shape[1]), np.int32)
    grown[:used] = array[:used]
    return grown
