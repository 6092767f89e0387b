"""Sessions that share runs of tokens, found by min-hashes."""

from __future__ import annotations

import sys
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sam.index.session_index import Similar
from agentinfer_lg.serving.sam.types import IntArray

_HASHES: Final = 64
_SHINGLE: Final = 3
"""Tokens in a row that count as one feature."""
_QUERY_TOKENS: Final = 4_096
_SLOT_BITS: Final = 18
_FEW: Final = 8
_COMMON: Final = 4
"""A shingle in more than 1/4 of all sessions, and in more than 8, is common."""
_AGEING: Final = 250
"""Sessions after which what was common counts half; counts stay below 256."""
_UNCOUNTED: Final = 3
"""First sessions, after which counting begins: many tenants never have more."""

_Hashes = npt.NDArray[np.uint32]
_Signatures = npt.NDArray[np.uint16]


class MinHashIndex:
    """Sessions by the runs of three tokens that they share: 64 min-hashes each, all compared with the query's.

    Runs that more than a quarter of the latest sessions have are left out, once there are a dozen sessions to tell: the
    prompt of an application and the descriptions of its tools are most of a short context, and say nothing about which of
    its sessions to choose. Of the other runs, the share of equal hashes estimates how many of two sessions' runs together
    are in both (their Jaccard similarity; the standard error is at most 1/16). Hashes are kept in 16 bits, so two sessions
    with nothing in common have one equal hash in a thousand cases. A session takes 136 bytes, and about as much for its
    entry in a dictionary; the counts of runs take 256 kB once there are four sessions.

    Args:
        query_tokens: Only so many tokens at the end of a query count.
        skip_common: Whether to leave out what a quarter of the sessions share.
        seed: Chooses the hash functions.

    Raises:
        ConfigurationError: `query_tokens` is not positive.
    """

    def __init__(self, *, query_tokens: int = _QUERY_TOKENS, skip_common: bool = True, seed: int = 0) -> None:
        if query_tokens < 1:
            msg = f"query_tokens must be at least 1, got {query_tokens}."
            raise ConfigurationError(msg)
        self._query_tokens = query_tokens
        self._skip_common = skip_common
        random = np.random.default_rng(seed)
        self._factors: _Hashes = random.integers(0, 2**31, _HASHES, np.uint32) * 2 + 1
        self._offsets: _Hashes = random.integers(0, 2**32, _HASHES, np.uint32)
        self._signatures: _Signatures = np.empty((16, _HASHES), np.uint16)
        self._keys: npt.NDArray[np.int64] = np.empty(16, np.int64)
        self._rows: dict[int, int] = {}
        self._counts: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._added = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        """Bytes of all arrays and of the dictionary, with their room to grow."""
        arrays = self._signatures.nbytes + self._keys.nbytes + self._counts.nbytes
        return arrays + sys.getsizeof(self._rows) + 2 * sys.getsizeof(2**31) * len(self._rows)

    def add(self, key: int, tokens: IntArray) -> None:
        """Add a session, or replace the one with this key."""
        with self._lock:
            shingles = _shingles(np.ascontiguousarray(tokens, np.int32))
            if self._skip_common and key not in self._rows:
                self._count(shingles)
            signature = self._sign(shingles)
            row = self._rows.setdefault(key, len(self._rows))
            if row == len(self._keys):
                self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
                self._keys = np.concatenate([self._keys, np.empty_like(self._keys)])
            self._signatures[row] = signature
            self._keys[row] = key

    def remove(self, key: int) -> None:
        """Remove a session, if it is there; the last one takes its row."""
        with self._lock:
            row = self._rows.pop(key, None)
            last = len(self._rows)
            if row is not None and row != last:
                moved = int(self._keys[last])
                self._signatures[row] = self._signatures[last]
                self._keys[row] = moved
                self._rows[moved] = row

    def similar(self, tokens: IntArray, *, k: int) -> list[Similar]:
        """Return at most `k` sessions with a hash in common, most similar first; of equals, the highest key first."""
        if k < 1 or len(tokens) == 0:
            return []
        shingles = _shingles(np.ascontiguousarray(tokens[-self._query_tokens :], np.int32))
        with self._lock:
            query = self._sign(shingles)
            count = len(self._rows)
            rows, equal = _most_equal(self._signatures[:count], query, k)
            keys = self._keys[rows]
        order = np.lexsort((keys, equal))[::-1][:k]
        return [Similar(int(keys[at]), int(equal[at]) / _HASHES) for at in order]

    def _count(self, shingles: _Hashes) -> None:
        """Learn what is common; a session that is replaced was counted before."""
        self._added += 1
        if self._added > _UNCOUNTED:
            if not len(self._counts):
                self._counts = np.zeros(1 << _SLOT_BITS, np.uint8)
            _count(shingles, self._counts)
        if self._added >= _AGEING:
            self._added //= 2
            self._counts //= 2

    def _sign(self, shingles: _Hashes) -> _Signatures:
        limit = max(_FEW, self._added // _COMMON)
        signature: _Signatures = _sign(shingles, self._factors, self._offsets, self._counts, limit)
        return signature


@njit(nogil=True, cache=True)
def _shingles(tokens: Any) -> Any:
    """Hashes of all shingles; of a shorter text, one of the whole."""
    length = len(tokens)
    count = max(1, length - _SHINGLE + 1) if length else 0
    shingles = np.empty(count, np.uint32)
    for start in range(count):
        mixed = np.uint64(0x9E3779B97F4A7C15)
        for at in range(start, min(start + _SHINGLE, length)):
            mixed = (mixed ^ np.uint64(np.uint32(tokens[at]))) * np.uint64(0xD6E8FEB86659FD93)
            mixed ^= mixed >> np.uint64(32)
        shingles[start] = np.uint32(mixed)
    return shingles


@njit(nogil=True, cache=True)
def _count(shingles: Any, counts: Any) -> None:
    """Count each shingle once, however often it is in the session."""
    seen = np.zeros(len(counts), np.bool_)
    for shingle in shingles:
        slot = shingle >> np.uint32(32 - _SLOT_BITS)
        counts[slot] += not seen[slot]
        seen[slot] = True


@njit(nogil=True, cache=True)
def _sign(shingles: Any, factors: Any, offsets: Any, counts: Any, limit: int) -> Any:
    """For each hash function the least hash of a shingle that is not common, or of any if all are; folded to 16 bits."""
    telling = np.empty_like(shingles)
    kept = 0
    if len(counts):
        for shingle in shingles:
            telling[kept] = shingle
            kept += counts[shingle >> np.uint32(32 - _SLOT_BITS)] <= limit
    chosen = telling[:kept] if kept else shingles
    least = np.full(_HASHES, 0xFFFFFFFF, np.uint32)
    for shingle in chosen:
        for function in range(_HASHES):
            value = np.uint32(shingle * factors[function] + offsets[function])
            least[function] = min(value, least[function])
    folded = np.empty(_HASHES, np.uint16)
    for function in range(_HASHES):
        folded[function] = np.uint16(least[function] ^ (least[function] >> np.uint32(16)))
    return folded


@njit(nogil=True, cache=True)
def _most_equal(signatures: Any, query: Any, k: int) -> Any:
    """Rows with the `k` largest numbers of hashes equal to the query's, and these numbers: ties included, zeros not."""
    count = len(signatures)
    equal = np.empty(count, np.uint8)
    frequency = np.zeros(_HASHES + 1, np.int64)
    for row in range(count):
        matches = np.uint8(0)
        for function in range(_HASHES):
            matches += np.uint8(signatures[row, function] == query[function])
        equal[row] = matches
        frequency[matches] += 1
    least = _HASHES
    found = frequency[least]
    while found < k and least > 1:
        least -= 1
        found += frequency[least]
    rows = np.empty(found, np.int64)
    at = 0
    for row in range(count):
        if equal[row] >= least:
            rows[at] = row
            at += 1
    return rows, equal[rows]
