"""Upper bounds: the best linear draft, chosen with knowledge of what comes.

A linear draft copies what followed an earlier occurrence of the context's end, in the session itself or in a finished
one. The oracles pick the candidate that agrees longest with the true output, and draft of it just the tokens that
will be accepted.

* `oracle`: candidates that statistics can point at: at every match length, the most recent occurrence in the session
  and in the finished ones, and the walk along the most frequent continuations in the session, in the finished ones,
  and in the finished outputs. What choosing the right source, match length and draft length could gain at most.
* `oracle-any`: every occurrence of the last token. No drafter that copies, by any rule, emits more per pass.
"""

from __future__ import annotations

import numpy as np

from agentinfer_lg.evals.datasets.trajectories import Session
from agentinfer_lg.evals.sam.replay.drafters import Costs
from agentinfer_lg.serving.sam.index.automaton import (
    CHAIN,
    ROOT,
    SuffixAutomaton,
    arrays,
    find_edge,
    most_frequent,
    own_match,
    shorter,
)
from agentinfer_lg.serving.sam.index.compiled import compiled
from agentinfer_lg.serving.sam.types import IntArray

_SEPARATOR = -1
"""Stands between sessions; no token has this id."""
_LONGEST_MATCH = 64
"""Longer matches are all alike."""


class OracleDrafter:
    """See the module; a `ReplayDrafter`.

    Args:
        any_occurrence: Whether every occurrence of the last token is a candidate.
    """

    def __init__(self, *, any_occurrence: bool) -> None:
        self._any = any_occurrence
        self._text = _Text()
        self._start = self._begin = 0
        self._truth: IntArray = np.empty(0, dtype=np.int32)
        self._ends: list[int] = []
        self._own = SuffixAutomaton()
        self._tip = ROOT
        self._finished = (SuffixAutomaton(), SuffixAutomaton())  # sessions, outputs
        self._matches = [(ROOT, 0), (ROOT, 0)]

    def begin_session(self, session: Session) -> None:
        """See `ReplayDrafter`."""
        self._start = self._text.length
        self._truth = np.concatenate([part for turn in session.turns for part in (turn.prompt, turn.output)])
        lengths = [len(turn.prompt) + len(turn.output) for turn in session.turns]
        self._ends = np.cumsum(lengths)[::-1].tolist()
        self._own, self._tip = SuffixAutomaton(), ROOT
        self._matches = [(ROOT, 0), (ROOT, 0)]

    def begin_turn(self, prompt: IntArray) -> None:
        """See `ReplayDrafter`."""
        self._extend(prompt[self._text.length - self._start :])
        self._begin = len(prompt)

    def accept(self, tokens: list[int]) -> None:
        """See `ReplayDrafter`."""
        self._extend(np.asarray(tokens, dtype=np.int32))

    def propose(self, k: int) -> list[int]:
        """See `ReplayDrafter`."""
        done = self._text.length - self._start
        coming = self._truth[done : min(done + k, self._ends[-1])]
        best = self._text.agreement(coming, start=self._start, any_occurrence=self._any)
        if not self._any:
            best = max(best, _frequent(self._own.address, *_tip_match(self._own.address, self._tip), coming))
            for automaton, match in zip(self._finished, self._matches, strict=True):
                best = max(best, _frequent(automaton.address, *match, coming))
        draft: list[int] = coming[:best].tolist()
        return draft

    def end_turn(self) -> None:
        """See `ReplayDrafter`."""
        end = self._ends.pop()
        if not self._any:
            self._finished[1].extend(self._truth[self._begin : end])

    def end_session(self) -> None:
        """See `ReplayDrafter`."""
        self._text.extend(np.full(1, _SEPARATOR, dtype=np.int32))
        if not self._any:
            self._finished[0].extend(self._truth)

    def costs(self) -> Costs:
        """See `ReplayDrafter`."""
        return Costs()

    def _extend(self, tokens: IntArray) -> None:
        self._text.extend(tokens)
        if not self._any:
            self._tip = self._own.extend(tokens, tip=self._tip)
            self._matches = [
                automaton.match(tokens, state=state, length=length)
                for automaton, (state, length) in zip(self._finished, self._matches, strict=True)
            ]


class _Text:
    """All tokens so far, each with the place where it stood before."""

    def __init__(self) -> None:
        self._tokens: IntArray = np.empty(1 << 16, dtype=np.int32)
        self._earlier: IntArray = np.empty(1 << 16, dtype=np.int32)  # place of the same token before, or -1
        self._latest: IntArray = np.full(1 << 16, -1, dtype=np.int32)  # per token: its last place
        self.length = 0

    def extend(self, tokens: IntArray) -> None:
        end = self.length + len(tokens)
        if end > len(self._tokens):
            spare = np.empty(end, dtype=np.int32)
            self._tokens = np.concatenate([self._tokens, spare])
            self._earlier = np.concatenate([self._earlier, spare])
        if len(tokens) and (highest := int(tokens.max())) >= len(self._latest):
            more = np.full(highest + 1, -1, dtype=np.int32)
            self._latest = np.concatenate([self._latest, more])
        _append(self._tokens, self._earlier, self._latest, self.length, tokens)
        self.length = end

    def agreement(self, coming: IntArray, *, start: int, any_occurrence: bool) -> int:
        """Most tokens of `coming` that follow an earlier occurrence of the end; the session begins at `start`."""
        last, longest = self.length - 1, 0 if any_occurrence else _LONGEST_MATCH
        return int(_longest_copy(self._tokens, self._earlier, last, start, coming, longest))


@compiled
def _append(text: IntArray, earlier: IntArray, latest: IntArray, length: int, tokens: IntArray) -> None:
    for index in range(tokens.shape[0]):
        token, place = tokens[index], length + index
        text[place] = token
        earlier[place] = latest[token] if token >= 0 else -1
        if token >= 0:
            latest[token] = place


@compiled
def _longest_copy(
    text: IntArray, earlier: IntArray, last: int, start: int, coming: IntArray, longest: int
) -> int:
    """See `_Text.agreement`; with `longest` above 0, only the most recent occurrences of each match length count."""
    best, match, most = 0, 0, coming.shape[0]
    place = earlier[last]
    inside = True
    while place >= 0 and best < most:
        if inside and place < start:
            inside, match = False, 0  # finished sessions are a source of their own
        same = 1
        while same < longest and same <= place and text[place - same] == text[last - same]:
            same += 1
        if longest == 0 or same > match:
            match = same
            ahead = 0
            while ahead < most and place + 1 + ahead <= last and text[place + 1 + ahead] == coming[ahead]:
                ahead += 1
            best = max(best, ahead)
        place = earlier[place]
    return best


@compiled
def _tip_match(address: int, tip: int) -> tuple[int, int]:
    _, nodes, _, _ = arrays(address)
    return own_match(nodes, tip)  # type: ignore[no-any-return]


@compiled
def _frequent(address: int, state: int, length: int, coming: IntArray) -> int:
    """Most tokens of `coming` on the walks along most frequent continuations, from every suffix of the match."""
    _, nodes, edges, slots = arrays(address)
    best = 0
    while length and shorter(nodes, state)[1] >= length:  # text added since has split the state
        state = shorter(nodes, state)[0]
    for _ in range(CHAIN):
        if length == 0 or best == coming.shape[0]:
            break
        ahead, place = 0, state
        while ahead < coming.shape[0] and place >= 0 and most_frequent(nodes, place) == coming[ahead]:
            place = find_edge(nodes, edges, slots, place, coming[ahead])
            ahead += 1
        best = max(best, ahead)
        state, length = shorter(nodes, state)
    return best
