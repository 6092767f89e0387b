"""Which finished sessions resemble this one: by shared runs of tokens, or by an embeddings endpoint.

An index holds the sessions of one tenant under integer keys. The calls take from microseconds to, for an endpoint, its
timeout, so they belong off the decode path.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx
import numpy as np
import numpy.typing as npt
from numba import njit
from pydantic import SecretStr

from agentinfer_lg.errors import ConfigurationError
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

_FIRST_REST: Final = 5.0
_LONGEST_REST: Final = 600.0
"""Seconds for which an endpoint that failed is left alone: doubling from the first to the longest."""
_REFUSALS_ENOUGH: Final = 8
"""Refused texts in a row from which on the endpoint is the one to blame."""
_MAX_DIMENSIONS: Final = 65_536
_TOO_LARGE: Final = frozenset({400, 413, 422})
"""Answers of servers to a text that is too long; the others of the batch may be fine."""

logger = logging.getLogger(__name__)

_Hashes = npt.NDArray[np.uint32]
_Signatures = npt.NDArray[np.uint16]
_Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Similar:
    """A session that resembles the query."""

    key: int
    similarity: float
    """From 0 to 1."""


class SessionIndex(Protocol):
    """Finds similar sessions of one tenant; may be called from any thread."""

    def add(self, key: int, tokens: IntArray) -> None:
        """Add a session, or replace the one with this key."""
        ...

    def remove(self, key: int) -> None:
        """Remove a session; nothing happens if the key is unknown."""
        ...

    def similar(self, tokens: IntArray, *, k: int) -> list[Similar]:
        """Return at most `k` sessions that have something in common with `tokens`, the most similar first."""
        ...


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


class _UnusableAnswerError(Exception):
    """The endpoint answered something else than vectors."""


_UNUSABLE: Final = (_UnusableAnswerError, httpx.HTTPError, ValueError, RuntimeError)
"""Errors of a request: also of JSON that is none, and of a client that has been closed."""


class EmbeddingIndex:
    """Sessions by the meaning of their text: vectors of an OpenAI-compatible `/v1/embeddings` endpoint.

    Only for an endpoint that may see the text of users. Sessions are sent in batches: when one is full, and with the next
    query. An endpoint that fails costs no more than similarity: one warning, no results, and a rest that doubles up to ten
    minutes before it is tried again; sessions added meanwhile wait, and the oldest of too many are left out.

    Args:
        base_url: For example `http://127.0.0.1:8001/v1`.
        model: Name of the embedding model.
        decode: Turns token ids into text.
        api_key: Sent as a bearer token; never shown.
        timeout: Seconds that one request may take.
        text_tokens: Tokens at the end of a session, or query, that are embedded.
        batch: Most texts in one request.
        max_waiting: Most sessions that wait to be embedded.
        transport: How requests are sent; None: by the network.

    Raises:
        ConfigurationError: The address is not http or https, or a limit is not positive.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        decode: Callable[[IntArray], str],
        api_key: SecretStr | str = "",
        timeout: float = 10.0,
        text_tokens: int = 512,
        batch: int = 16,
        max_waiting: int = 1_024,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            msg = "The address of the embeddings endpoint must be http(s)://host/path, without a password or a query."
            raise ConfigurationError(msg)
        if min(text_tokens, batch, max_waiting) < 1 or not timeout > 0:
            msg = "timeout, text_tokens, batch and max_waiting of the embeddings endpoint must be positive."
            raise ConfigurationError(msg)
        self._host = parts.hostname
        self._url = f"{base_url.rstrip('/')}/embeddings"
        self._model = model
        self._decode = decode
        self._text_tokens = text_tokens
        self._batch = batch
        self._max_waiting = max_waiting
        key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout, transport=transport)
        self._waiting: dict[int, str] = {}
        self._vectors = _VectorTable()
        self._rest = 0.0
        self._retry_at = -math.inf
        self._refusals = 0
        self._skipped = 0
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"EmbeddingIndex(model={self._model!r}, host={self._host!r}, sessions={len(self)})"

    def __len__(self) -> int:
        """Number of sessions that can be found."""
        return len(self._vectors)

    @property
    def waiting(self) -> int:
        """Number of sessions not embedded yet."""
        return len(self._waiting)

    @property
    def skipped(self) -> int:
        """Number of sessions left out: refused by the endpoint, or too many waiting."""
        return self._skipped

    @property
    def bytes(self) -> int:
        """Bytes of the vectors, with their room to grow."""
        return self._vectors.bytes

    def add(self, key: int, tokens: IntArray) -> None:
        """Add a session, or replace the one with this key; it can be found once it has been embedded."""
        text = self._text(tokens)
        with self._lock:
            self.remove(key)
            if text:
                self._waiting[key] = text
            while len(self._waiting) > self._max_waiting:
                del self._waiting[next(iter(self._waiting))]
                self._skipped += 1
            if len(self._waiting) >= self._batch:
                self._embed_waiting()

    def remove(self, key: int) -> None:
        """Remove a session, if it is there."""
        with self._lock:
            self._waiting.pop(key, None)
            self._vectors.remove(key)

    def similar(self, tokens: IntArray, *, k: int) -> list[Similar]:
        """Return at most `k` sessions, by the cosine of their vectors; none while the endpoint does not answer."""
        text = self._text(tokens)
        if k < 1 or not text:
            return []
        with self._lock:
            if self._waiting:
                self._embed_waiting()
            if not len(self._vectors):
                return []
            (vector,) = self._embed([text]) or [None]
            return [] if vector is None else self._vectors.nearest(vector, k)

    def close(self) -> None:
        """Close the connections to the endpoint."""
        self._client.close()

    def _text(self, tokens: IntArray) -> str:
        try:
            return self._decode(tokens[-self._text_tokens :]).strip()
        except Exception:  # a tokenizer's own errors, for instance on ids that it does not have
            logger.debug("decoding a session failed", exc_info=True)
            return ""

    def _embed_waiting(self) -> None:
        """Embed one batch of the sessions that wait; they go on waiting if the endpoint fails."""
        keys = list(self._waiting)[: self._batch]
        vectors = self._embed([self._waiting[key] for key in keys])
        if vectors is None:
            return
        for key, vector in zip(keys, vectors, strict=True):
            del self._waiting[key]
            if vector is None or not self._vectors.add(key, vector):
                self._skipped += 1

    def _embed(self, texts: Sequence[str]) -> list[_Vectors | None] | None:
        """Vectors of `texts`, None for one that is refused; None instead of all if the endpoint fails or rests."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            vectors = self._request(texts)
            self._count_refusals(vectors)
        except _UNUSABLE as error:
            self._give_rest(error)
            return None
        if any(vector is not None for vector in vectors):
            self._rest = 0.0
        return vectors

    def _count_refusals(self, vectors: Sequence[_Vectors | None]) -> None:
        for vector in vectors:
            self._refusals = self._refusals + 1 if vector is None else 0
        if self._refusals >= _REFUSALS_ENOUGH:
            msg = "it refuses every text"
            raise _UnusableAnswerError(msg)

    def _request(self, texts: Sequence[str]) -> list[_Vectors | None]:
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        response = self._client.post(self._url, json=body)
        if response.status_code in _TOO_LARGE:
            if len(texts) == 1:
                return [None]
            half = len(texts) // 2
            return self._request(texts[:half]) + self._request(texts[half:])
        response.raise_for_status()
        return _read_vectors(response.json(), len(texts))

    def _give_rest(self, error: Exception) -> None:
        if not self._rest:
            logger.warning(
                "The embeddings endpoint at %s does not work (%s); similar sessions are not looked up until it does.",
                self._host,
                _kind(error),
            )
        self._rest = min(_LONGEST_REST, 2 * self._rest or _FIRST_REST)
        self._retry_at = time.monotonic() + self._rest


class _VectorTable:
    """Unit vectors of one length under integer keys."""

    def __init__(self) -> None:
        self._vectors: _Vectors = np.empty((0, 0), np.float32)
        self._keys: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._rows: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        return self._vectors.nbytes + self._keys.nbytes

    def add(self, key: int, vector: _Vectors) -> bool:
        """Add a vector under a new key; False: its length is not that of the others."""
        if not self._rows and len(vector) != self._vectors.shape[1]:
            self._vectors, self._keys = np.empty((16, len(vector)), np.float32), np.empty(16, np.int64)
        if len(vector) != self._vectors.shape[1]:
            return False
        row = self._rows[key] = len(self._rows)
        if row == len(self._keys):
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
            self._keys = np.concatenate([self._keys, np.empty_like(self._keys)])
        self._vectors[row], self._keys[row] = vector, key
        return True

    def remove(self, key: int) -> None:
        row = self._rows.pop(key, None)
        last = len(self._rows)
        if row is not None and row != last:
            self._vectors[row], self._keys[row] = self._vectors[last], self._keys[last]
            self._rows[int(self._keys[row])] = row

    def nearest(self, vector: _Vectors, k: int) -> list[Similar]:
        if len(vector) != self._vectors.shape[1]:
            return []
        count = len(self._rows)
        cosines = np.clip(self._vectors[:count] @ vector, 0.0, 1.0)
        best = np.argpartition(-cosines, k)[:k] if k < count else np.arange(count)
        order = sorted(best.tolist(), key=lambda row: (-cosines[row], -self._keys[row]))
        return [Similar(int(self._keys[row]), float(cosines[row])) for row in order if cosines[row] > 0]


def _read_vectors(answer: object, count: int) -> list[_Vectors | None]:
    """Unit vectors in the order of the texts; None for one of no use.

    Raises:
        _UnusableAnswerError: The answer is not that of an embeddings endpoint.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or len(data) != count:
        msg = "its answer has no vector for each text"
        raise _UnusableAnswerError(msg)
    vectors: list[_Vectors | None] = [None] * count
    for place, item in enumerate(data):
        index = item.get("index", place) if isinstance(item, dict) else None
        if not isinstance(index, int) or not 0 <= index < count:
            msg = "its answer has a vector for a text that was not sent"
            raise _UnusableAnswerError(msg)
        vectors[index] = _unit(item.get("embedding"))
    return vectors


def _unit(values: object) -> _Vectors | None:
    if not isinstance(values, list) or not 0 < len(values) <= _MAX_DIMENSIONS:
        return None
    try:
        vector = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    length = float(np.linalg.norm(vector)) if vector.ndim == 1 else 0.0
    return (vector / length).astype(np.float32) if math.isfinite(length) and length > 0 else None


def _kind(error: Exception) -> str:
    """What went wrong; the text of other errors may quote the address, or what was sent."""
    if isinstance(error, _UnusableAnswerError):
        return str(error)
    return (
        f"HTTP {error.response.status_code}"
        if isinstance(error, httpx.HTTPStatusError)
        else type(error).__name__
    )
