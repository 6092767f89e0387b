"""How likely is a drafted token to be accepted? Learned online from every draft that was verified.

Two stages, as in context-mixing compressors. A table of counts says, for each kind of source and each of its two longest
matches, how often a token with such a share of so many occurrences after so long a match was right. A logistic mixer
weighs these opinions into one probability; its weights depend on which sources match and how far, and, in a second set
whose opinion is averaged with the first, on which of them name this token first. Both follow the traffic: old counts
fade, and weights move a little with every outcome. How similar or how trustworthy a source is needs no threshold: the
table finds out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from agentinfer_lg.serving.sam.index.compiled import compiled

KINDS: Final = 4
"""Own session, text of finished sessions, outputs of all sessions, similar sessions."""
LEVELS: Final = 2
"""Matches of one source that have a say: the longest, and the next shorter one with other occurrences."""
INPUTS: Final = KINDS * LEVELS
_LENGTHS, _SHARES, _TOTALS, _RECENT = 15, 8, 4, 2
_BUCKETS = INPUTS * _LENGTHS * _SHARES * _TOTALS * _RECENT
_FIRST_SETS = (1 << KINDS) * _LENGTHS
_SETS = _FIRST_SETS + (1 << (2 * KINDS))
_RATE = 0.02
"""Step of the mixer's weights."""
_FADE = 500.0
"""Trials after which the counts of a bucket are halved."""
_PRIOR_TRIALS = 4.0
_PRIOR_SHARES = (0.03, 0.05, 0.15, 0.3, 0.5, 0.65, 0.75, 0.6)
"""Chance of a token by its share of the occurrences, before anything was learned."""
_FIRST_WEIGHT = 0.25
_LEAST, _MOST = 1e-3, 1 - 1e-3


@dataclass(slots=True)
class AcceptanceModel:
    """Counts and weights; shared by all requests of an engine, changed by `learn`."""

    table: npt.NDArray[np.float64] = field(default_factory=lambda: _new_table())
    """Per bucket: accepted, tried."""
    weights: npt.NDArray[np.float64] = field(default_factory=lambda: _new_weights())
    """Per set: one weight for each input, and a constant."""


def _new_table() -> npt.NDArray[np.float64]:
    table = np.full((_BUCKETS, 2), _PRIOR_TRIALS)
    shares = np.repeat(np.array(_PRIOR_SHARES), _TOTALS * _RECENT)
    table[:, 0] *= np.tile(shares, INPUTS * _LENGTHS)
    return table


def _new_weights() -> npt.NDArray[np.float64]:
    weights = np.full((_SETS, INPUTS + 1), _FIRST_WEIGHT)
    weights[:, INPUTS] = 0.0
    return weights


@compiled
def _length_class(length):
    if length <= 6:
        return max(length - 1, 0)
    index = 6
    for bound in (8, 12, 16, 24, 32, 48, 64, 128):
        if length <= bound:
            return index
        index += 1
    return index


@compiled
def _share_class(count, total):
    if count == 0:
        return 0
    if count >= total:
        return 7
    share = count / total
    index = 1
    for bound in (0.1, 0.25, 0.5, 0.75, 0.9):
        if share < bound:
            return index
        index += 1
    return index


@compiled
def bucket(source, length, count, total, recent):
    """Return the bucket of a token that followed `count` of `total` occurrences of a match of `length` tokens.

    Args:
        source: Index of the input, 0 to `INPUTS` - 1.
        recent: 1 if it is also the latest continuation, else 0.
    """
    size = 0 if total <= 1 else (1 if total <= 3 else (2 if total <= 9 else 3))
    place = source * _LENGTHS + _length_class(length)
    return ((place * _SHARES + _share_class(count, total)) * _TOTALS + size) * _RECENT + recent


@compiled
def stretch(table, place):
    """Return the log-odds of bucket `place`."""
    share = min(max(table[place, 0] / table[place, 1], _LEAST), _MOST)
    return math.log(share / (1.0 - share))


@compiled
def first_set(present, longest):
    """Return the weight set for the kinds that match (a bit each) and the longest of their matches."""
    return present * _LENGTHS + _length_class(longest)


@compiled
def second_set(present, agreeing):
    """Return the weight set for the kinds that match and those that name the token first (a bit each)."""
    return _FIRST_SETS + (present << KINDS) + agreeing


@compiled
def chance(weights, one, two, inputs):
    """Return the probability that a token with these `inputs` (log-odds; 0: no opinion) is right."""
    odds = weights[one, INPUTS] + weights[two, INPUTS]
    for index in range(INPUTS):
        odds += (weights[one, index] + weights[two, index]) * inputs[index]
    return 1.0 / (1.0 + math.exp(-0.5 * odds))


@compiled
def learn(table, weights, one, two, inputs, places, said, right):
    """Note the outcome of one drafted token.

    Args:
        one: First weight set.
        two: Second weight set.
        inputs: Log-odds as they were when it was drafted.
        places: Buckets they came from; -1 where there was no opinion.
        said: Probability as it was.
        right: 1.0 if the token was accepted, else 0.0.
    """
    step = (right - said) * _RATE
    for index in range(INPUTS):
        place = places[index]
        if place < 0:
            continue
        table[place, 0] += right
        table[place, 1] += 1.0
        if table[place, 1] > _FADE:
            table[place, 0] *= 0.5
            table[place, 1] *= 0.5
        weights[one, index] += step * inputs[index]
        weights[two, index] += step * inputs[index]
    weights[one, INPUTS] += 0.5 * step
    weights[two, INPUTS] += 0.5 * step
