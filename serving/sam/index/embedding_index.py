"""Sessions of similar meaning, found by the vectors of an embeddings endpoint."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import SecretStr

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sam.index.session_index import Similar
from agentinfer_lg.serving.sam.types import IntArray

_FIRST_REST: Final = 5.0
_LONGEST_REST: Final = 600.0
"""Seconds for which an endpoint that failed is left alone: doubling from the first to the longest."""
_REFUSALS_ENOUGH: Final = 8
"""Refused texts in a row from which on the endpoint is the one to blame."""
_MAX_DIMENSIONS: Final = 65_536
_TOO_LARGE: Final = frozenset({400, 413, 422})
"""Answers of servers to a text that is too long; the others of the batch may be fine."""

logger = logging.getLogger(__name__)

_Vectors = npt.NDArray[np.float32]


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
