"""One engine step of speculation for a whole batch, in one compiled call.

For each request: score the previous draft against the tokens that the engine emitted, add those tokens to the session's
automaton, move the matches in the other automata, and draft anew.

A draft grows token by token. Each kind of source with a match names its most frequent continuation; the acceptance model
says how likely each candidate is, given what all sources know of it; the likeliest is taken, and every source follows
it. The draft ends where the probability that all of it is accepted falls below the threshold of the request: the price
of verifying one more token.

The paper's way (Algorithm 4) is here for comparison: the automata as if merged with similarity weights, the heaviest
continuation of the longest match, no acceptance model.

The arrays that compiled code reads and writes. R: rows, one per request; S: `SOURCES`; D: most drafted tokens; B: requests of
one step; I: `INPUTS` of the acceptance model; K: `KINDS` of sources.

| array | shape | dtype | columns of the last axis |
| --- | --- | --- | --- |
| `matches` | R, S, 3 | int64 | `_ADDRESS` of the automaton (0: none), `_STATE`, `_LENGTH` of the match; `OWN`: state is the tip |
| `weights` | R, S | float64 | similarity of the source; the paper's mode only |
| `drafted` | R | int64 | tokens of the draft that is being verified |
| `notes` | R, D, 5 + I | int32 | `_TOKEN`, `_KIND_OF`, `_FIRST`, `_SECOND`, then from `_PLACES` on a bucket for each input |
| `odds` | R, D, 1 + I | float64 | `_CHANCE`, then from `_INPUTS` on the log-odds of each input |
| `work` | B, 5 | int64 | in: `_ROW`, `_END`, `_LIMIT`; out: `_DRAFTED`, `_TAKEN` |
| `tokens` | all emitted | int32 | of all requests after one another; a request's end at `_END` |
| `states` | S, 2 | int64 | state and length of each match while a draft moves on tentatively; scratch |
| `counts` | K, 2 | int64 | drafted and accepted tokens by kind of source |
| `table` | buckets, 2 | float64 | accepted and tried, by bucket of the acceptance model |
| `mixer` | sets, I + 1 | float64 | weight of each input, and a constant |
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from agentinfer_lg.serving.sam.config import MAX_SIMILAR
from agentinfer_lg.serving.sam.draft.acceptance import (
    INPUTS,
    KINDS,
    LEVELS,
    AcceptanceModel,
    bucket,
    chance,
    first_set,
    learn,
    second_set,
    stretch,
)
from agentinfer_lg.serving.sam.index.automaton import (
    ROOT,
    advance,
    arrays,
    extend,
    find_edge,
    has_edges,
    most_frequent,
    most_recent,
    occurrences,
    own_match,
    shorter,
)
from agentinfer_lg.serving.sam.index.compiled import compiled

OWN: Final = 0
HISTORY: Final = 1
"""Two generations of the text of finished sessions."""
OUTPUTS: Final = 3
"""Two generations of what the model wrote in any session."""
SIMILAR: Final = 5
SOURCES: Final = SIMILAR + MAX_SIMILAR
"""Automata that a request may follow."""
_KIND: Final = (0, 1, 1, 2, 2, *(3,) * MAX_SIMILAR)
_ADDRESS, _STATE, _LENGTH = 0, 1, 2


_TOKEN, _KIND_OF, _FIRST, _SECOND, _PLACES = range(5)
"""Integers kept of a drafted token: itself, the kind of source that was surest of it, its two weight sets, its buckets."""
_CHANCE, _INPUTS = range(2)
"""Numbers kept of it: its probability, and the log-odds it came from."""
_ROW, _END, _LIMIT, _DRAFTED, _TAKEN = range(5)
"""Fields of a request in one step: its row, the end of its tokens, most tokens to draft; then, as results, tokens drafted
and tokens that the own automaton took in."""


class Rows:
    """State of the requests between steps, one row each, in arrays that compiled code reads and writes."""

    def __init__(self, *, rows: int = 64, max_draft: int) -> None:
        self.matches: npt.NDArray[np.int64] = np.zeros((rows, SOURCES, 3), np.int64)
        """Address of the automaton (0: none), state and length of the match; of the own automaton the tip."""
        self.weights: npt.NDArray[np.float64] = np.ones((rows, SOURCES))
        """Similarity of each source; used in the paper's mode only."""
        self.drafted: npt.NDArray[np.int64] = np.zeros(rows, np.int64)
        """Tokens of the draft that is being verified."""
        self.notes: npt.NDArray[np.int32] = np.zeros((rows, max_draft, _PLACES + INPUTS), np.int32)
        self.odds: npt.NDArray[np.float64] = np.zeros((rows, max_draft, _INPUTS + INPUTS))

    def __len__(self) -> int:
        return len(self.drafted)

    def clear(self, row: int) -> None:
        """Forget the request in `row`."""
        self.matches[row] = 0
        self.weights[row] = 1.0
        self.drafted[row] = 0

    def grow(self) -> None:
        """Double the number of rows."""
        for name in ("matches", "weights", "drafted", "notes", "odds"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros_like(old)]))

    def draft(self, row: int, length: int) -> list[int]:
        """Return the first `length` tokens of the draft in `row`."""
        return self.notes[row, :length, _TOKEN].tolist()  # type: ignore[no-any-return]  # a list of ints


def step(
    rows: Rows,
    model: AcceptanceModel,
    *,
    chosen: list[tuple[int, int, int]],
    tokens: list[int],
    threshold: float,
    counts: npt.NDArray[np.int64],
    merged: bool = False,
) -> list[tuple[int, int]]:
    """Take in verified tokens and draft; `Rows.draft` returns the drafts.

    Args:
        rows: State of all requests.
        model: Acceptance model, which learns from the outcome of the previous drafts.
        chosen: For each request of this step its row, where its tokens end, and the most tokens to draft.
        tokens: What the engine emitted, all requests after one another.
        threshold: Least probability that a whole draft is accepted.
        counts: Per kind of source, drafted and accepted tokens so far; added to.
        merged: Draft as the paper does.

    Returns:
        For each request the length of its draft, and how many of its tokens the own automaton could take in (fewer than
        there are: it is full).
    """
    work = np.zeros((len(chosen), 5), np.int64)
    work[:, :_DRAFTED] = chosen
    _step(
        work, np.array(tokens, np.int32), threshold, merged, counts,
        rows.matches, rows.weights, rows.drafted, rows.notes, rows.odds, model.table, model.weights,
    )  # fmt: skip
    return work[:, _DRAFTED:].tolist()  # type: ignore[no-any-return]  # a list of pairs


@compiled
def _step(work, tokens, threshold, merged, counts, matches, weights, drafted, notes, odds, table, mixer):
    states = np.zeros((SOURCES, 2), np.int64)
    begin = 0
    for index in range(work.shape[0]):
        row, end = work[index, _ROW], work[index, _END]
        emitted = tokens[begin:end]
        begin = end
        _score(emitted, notes[row, : drafted[row]], odds[row], table, mixer, counts, merged)
        drafted[row] = 0
        work[index, _TAKEN] = _follow(matches[row], emitted)
        if work[index, _TAKEN] < emitted.shape[0]:
            continue
        _begin(matches[row], states)
        limit = work[index, _LIMIT]
        if merged:
            drafted[row] = _draft_merged(matches[row], weights[row], states, notes[row, :limit])
        else:
            drafted[row] = _draft(
                matches[row], states, threshold, notes[row, :limit], odds[row], table, mixer
            )
        work[index, _DRAFTED] = drafted[row]


@compiled
def _score(emitted, notes, odds, table, mixer, counts, merged):
    """Learn from the draft up to its first wrong token. Tokens that were never verified tell nothing."""
    for index in range(notes.shape[0]):
        counts[notes[index, _KIND_OF], 0] += 1
    for index in range(min(notes.shape[0], emitted.shape[0])):
        right = notes[index, _TOKEN] == emitted[index]
        if not merged:
            learn(
                table, mixer, notes[index, _FIRST], notes[index, _SECOND],
                odds[index, _INPUTS:], notes[index, _PLACES:], odds[index, _CHANCE], 1.0 if right else 0.0,
            )  # fmt: skip
        if not right:
            break
        if index < emitted.shape[0] - 1:  # the last token is the engine's own
            counts[notes[index, _KIND_OF], 1] += 1


@compiled
def _follow(matches, emitted):
    """Add `emitted` to the own automaton and move all matches; return how many tokens the own automaton took."""
    taken = emitted.shape[0]
    if matches[OWN, _ADDRESS]:
        taken, tip = extend(matches[OWN, _ADDRESS], emitted, matches[OWN, _STATE])
        matches[OWN, _STATE] = tip
    for source in range(1, SOURCES):
        if matches[source, _ADDRESS]:
            _, nodes, edges, slots = arrays(matches[source, _ADDRESS])
            state, length = matches[source, _STATE], matches[source, _LENGTH]
            for token in emitted:
                state, length = advance(nodes, edges, slots, state, length, token)
            matches[source, _STATE], matches[source, _LENGTH] = state, length
    return taken


@compiled
def _begin(matches, states):
    """Copy the matches, which the draft moves on tentatively."""
    for source in range(SOURCES):
        states[source, 0], states[source, 1] = matches[source, _STATE], matches[source, _LENGTH]
    if matches[OWN, _ADDRESS]:
        _, nodes, _, _ = arrays(matches[OWN, _ADDRESS])
        states[OWN, 0], states[OWN, 1] = own_match(nodes, matches[OWN, _STATE])


@compiled
def _settle(nodes, state, length):
    """Shorten a match until it is one that went on."""
    while length and shorter(nodes, state)[1] >= length:  # the state was split since
        state = shorter(nodes, state)[0]
    while state != ROOT and not has_edges(nodes, state):
        state, length = shorter(nodes, state)
    return state, length if state != ROOT else 0


@compiled
def _choose_sources(matches, states, best):
    """Settle all matches, and find for each kind the source with the longest; return the kinds that have one, as bits."""
    present = 0
    best[:] = -1
    for source in range(SOURCES):
        if matches[source, _ADDRESS] == 0:
            continue
        _, nodes, _, _ = arrays(matches[source, _ADDRESS])
        states[source, 0], states[source, 1] = _settle(nodes, states[source, 0], states[source, 1])
        kind = _KIND[source]
        if states[source, 1] and (best[kind] < 0 or states[source, 1] > states[best[kind], 1]):
            best[kind] = source
            present |= 1 << kind
    return present


@compiled
def _candidates(matches, states, best, found):
    """List the most frequent continuation of each kind's best source; return how many differ."""
    count = 0
    for kind in range(KINDS):
        if best[kind] < 0:
            continue
        _, nodes, _, _ = arrays(matches[best[kind], _ADDRESS])
        token = most_frequent(nodes, states[best[kind], 0])
        known = False
        for index in range(count):
            known |= found[index] == token
        if not known and token >= 0:
            found[count] = token
            count += 1
    return count


@compiled
def _judge(matches, states, best, token, table, inputs, places):
    """Fill in what each source thinks of `token`; return the kinds that name it first, as bits, and the surest kind."""
    agreeing, surest, most = 0, 0, -1e9
    inputs[:] = 0.0
    places[:] = -1
    for kind in range(KINDS):
        source = best[kind]
        if source < 0:
            continue
        _, nodes, edges, slots = arrays(matches[source, _ADDRESS])
        state, length = states[source, 0], states[source, 1]
        if most_frequent(nodes, state) == token:
            agreeing |= 1 << kind
        for level in range(LEVELS):
            if state == ROOT:
                break
            target = find_edge(nodes, edges, slots, state, token)
            count = occurrences(nodes, target) if target >= 0 else 0
            total = max(occurrences(nodes, state), count, 1)
            recent = 1 if most_recent(nodes, state) == token else 0
            index = kind * LEVELS + level
            places[index] = bucket(index, length, count, total, recent)
            inputs[index] = stretch(table, places[index])
            if inputs[index] > most:
                surest, most = kind, inputs[index]
            state, length = shorter(nodes, state)
    return agreeing, surest


@compiled
def _draft(matches, states, threshold, notes, odds, table, mixer):
    """Fill `notes` and `odds` with a draft, and return its length."""
    best = np.empty(KINDS, np.int64)
    found = np.empty(KINDS, np.int64)
    inputs, places = np.empty(INPUTS), np.empty(INPUTS, np.int64)
    reach = 1.0
    for index in range(notes.shape[0]):
        note, odd = notes[index], odds[index]
        present = _choose_sources(matches, states, best)
        longest = 0
        for kind in range(KINDS):
            if best[kind] >= 0:
                longest = max(longest, states[best[kind], 1])
        one = first_set(present, longest)
        odd[_CHANCE] = 0.0
        for candidate in found[: _candidates(matches, states, best, found)]:
            agreeing, surest = _judge(matches, states, best, candidate, table, inputs, places)
            two = second_set(present, agreeing)
            said = chance(mixer, one, two, inputs)
            if said > odd[_CHANCE]:
                odd[_CHANCE], odd[_INPUTS:] = said, inputs
                note[_TOKEN], note[_KIND_OF], note[_FIRST], note[_SECOND] = candidate, surest, one, two
                note[_PLACES:] = places
        reach *= odd[_CHANCE]
        if reach < threshold or reach <= 0.0:
            return index
        if index + 1 < notes.shape[0]:
            _move(matches, states, note[_TOKEN])
    return notes.shape[0]


@compiled
def _move(matches, states, token):
    for source in range(SOURCES):
        if matches[source, _ADDRESS]:
            _, nodes, edges, slots = arrays(matches[source, _ADDRESS])
            states[source, 0], states[source, 1] = advance(
                nodes, edges, slots, states[source, 0], states[source, 1], token
            )


@compiled
def _draft_merged(matches, weights, states, notes):
    """Draft as from one automaton of all texts, where each occurrence counts with the similarity of its session."""
    best = np.empty(KINDS, np.int64)
    for index in range(notes.shape[0]):
        _choose_sources(matches, states, best)
        longest = 0
        for source in range(SOURCES):
            if matches[source, _ADDRESS]:
                longest = max(longest, states[source, 1])
        heaviest = 0.0
        for source in range(SOURCES):
            if matches[source, _ADDRESS] == 0 or longest == 0 or states[source, 1] < longest:
                continue
            _, nodes, _, _ = arrays(matches[source, _ADDRESS])
            token = most_frequent(nodes, states[source, 0])
            weight = _merged_weight(matches, weights, states, longest, token)
            if weight > heaviest:
                heaviest = weight
                notes[index, _TOKEN], notes[index, _KIND_OF] = token, _KIND[source]
        if heaviest <= 0.0:
            return index
        _move(matches, states, notes[index, _TOKEN])
    return notes.shape[0]


@compiled
def _merged_weight(matches, weights, states, longest, token):
    weight = 0.0
    for source in range(SOURCES):
        if matches[source, _ADDRESS] and states[source, 1] == longest:
            _, nodes, edges, slots = arrays(matches[source, _ADDRESS])
            target = find_edge(nodes, edges, slots, states[source, 0], token)
            if target >= 0:
                weight += weights[source] * occurrences(nodes, target)
    return weight
