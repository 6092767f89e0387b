"""Sessions of similar meaning."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sam.index import embedding_index
from agentinfer_lg.serving.sam.index.embedding_index import EmbeddingIndex
from agentinfer_lg.serving.sam.index.session_index import SessionIndex
from agentinfer_lg.serving.sam.types import IntArray

KEY = "sk-very-secret"


def ids(*values: int) -> IntArray:
    return np.array(values, dtype=np.int32)


def by_word(text: str) -> list[float]:
    """A vector of words; texts are of the form `w1 w2 w3`."""
    vector = [0.0] * 64
    for word in text.split():
        vector[int(word) % 64] += 1.0
    return vector


def decode(tokens: IntArray) -> str:
    return " ".join(map(str, tokens.tolist()))


class Endpoint:
    """An embeddings endpoint whose answers a test can change."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.headers: list[httpx.Headers] = []
        self.answer: Callable[[list[str]], httpx.Response] = self.vectors

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/embeddings"
        texts = json.loads(request.content)["input"]
        self.batches.append(texts)
        self.headers.append(request.headers)
        return self.answer(texts)

    @staticmethod
    def vectors(texts: list[str]) -> httpx.Response:
        data = [{"index": at, "embedding": by_word(text)} for at, text in enumerate(texts)]
        return httpx.Response(200, json={"data": data[::-1]})

    def index(self, **options: object) -> EmbeddingIndex:
        transport = httpx.MockTransport(self)
        return EmbeddingIndex(
            "http://host:1/v1", "m", decode=decode, api_key=SecretStr(KEY), transport=transport, **options
        )  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(embedding_index.time, "monotonic", lambda: now[0])
    return now


class TestEmbeddings:
    def test_nearest_first(self) -> None:
        endpoint = Endpoint()
        index: SessionIndex = endpoint.index(batch=2)
        index.add(1, ids(1, 1, 2))
        index.add(2, ids(1, 2, 2))
        index.add(3, ids(9, 9))
        found = index.similar(ids(1, 1, 1, 2), k=5)
        assert [similar.key for similar in found] == [1, 2]
        assert found[0].similarity == pytest.approx(7 / 50**0.5)
        assert endpoint.batches == [["1 1 2", "1 2 2"], ["9 9"], ["1 1 1 2"]]
        assert all(headers["authorization"] == f"Bearer {KEY}" for headers in endpoint.headers)

    def test_replace_and_remove(self) -> None:
        index = Endpoint().index()
        for key in range(40):
            index.add(key, ids(key % 8))
        for _ in range(3):
            index.similar(ids(0), k=1)
        index.add(8, ids(63))
        index.remove(16)
        index.remove(999)
        assert [found.key for found in index.similar(ids(0), k=9)] == [32, 24, 0]
        assert len(index) == 39

    def test_only_the_end_is_sent(self) -> None:
        endpoint = Endpoint()
        index = endpoint.index(text_tokens=3, batch=1)
        index.add(1, np.arange(100, dtype=np.int32))
        assert endpoint.batches == [["97 98 99"]]

    @pytest.mark.parametrize(
        "answer",
        [
            lambda texts: httpx.Response(500),
            lambda texts: httpx.Response(401, text=KEY),
            lambda texts: httpx.Response(302, headers={"location": "http://elsewhere/"}),
            lambda texts: httpx.Response(200, text="<html>"),
            lambda texts: httpx.Response(200, json=[]),
            lambda texts: httpx.Response(200, json={"data": []}),
            lambda texts: httpx.Response(200, json={"data": [{"index": 7, "embedding": [1.0]}] * len(texts)}),
            lambda texts: httpx.Response(200, json={"data": ["x"] * len(texts)}),
            lambda texts: httpx.Response(200, json={"data": [{"embedding": [0.0, 0.0]}] * len(texts)}),
            lambda texts: httpx.Response(
                200, content=b'{"data": [{"embedding": [NaN]}, {"embedding": ["a"]}]}'
            ),
            lambda texts: httpx.Response(400),
            lambda texts: (_ for _ in ()).throw(httpx.ReadTimeout(f"url with {KEY}")),
        ],
    )
    def test_whatever_the_endpoint_does_there_is_one_warning(
        self,
        answer: Callable[[list[str]], httpx.Response],
        clock: list[float],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.WARNING)
        endpoint = Endpoint()
        endpoint.answer = answer
        index = endpoint.index(batch=2)
        for key in range(8):
            index.add(key, ids(key))
            assert index.similar(ids(key), k=3) == []
            clock[0] += 1_000.0
        assert len([record for record in caplog.records if record.name == embedding_index.logger.name]) == 1
        assert "host" in caplog.text
        assert KEY not in caplog.text + repr(index) + str(index)
        endpoint.answer = endpoint.vectors
        for _ in range(4):
            index.similar(ids(0), k=1)
        assert index.waiting == 0
        assert len(index) + index.skipped == 8

    def test_a_dead_endpoint_rests_ever_longer(self, clock: list[float]) -> None:
        endpoint = Endpoint()
        endpoint.answer = lambda texts: httpx.Response(503)
        index = endpoint.index(batch=1)
        tried = []
        for second in range(2_000):
            clock[0] = 1_000.0 + second
            before = len(endpoint.batches)
            index.add(second % 5, ids(1))
            if len(endpoint.batches) > before:
                tried.append(second)
        assert tried == [0, 5, 15, 35, 75, 155, 315, 635, 1235, 1835]

    def test_waiting_is_bounded(self, clock: list[float]) -> None:
        endpoint = Endpoint()
        endpoint.answer = lambda texts: httpx.Response(503)
        index = endpoint.index(max_waiting=10)
        for key in range(100):
            index.add(key, ids(key % 64))
        assert (index.waiting, index.skipped) == (10, 90)
        clock[0] += 10
        endpoint.answer = endpoint.vectors
        assert index.similar(ids(99 % 64), k=1)[0].key == 99

    def test_one_text_that_is_too_long(self) -> None:
        endpoint = Endpoint()
        endpoint.answer = lambda texts: httpx.Response(413) if "7" in texts else endpoint.vectors(texts)
        index = endpoint.index(batch=4)
        for key in range(8):
            index.add(key, ids(key))
        assert (len(index), index.skipped) == (7, 1)
        assert index.similar(ids(6), k=1)[0].key == 6

    def test_vectors_of_another_length(self) -> None:
        endpoint = Endpoint()
        index = endpoint.index(batch=1)
        index.add(1, ids(1))
        endpoint.answer = lambda texts: httpx.Response(200, json={"data": [{"embedding": [1.0]}]})
        index.add(2, ids(1))
        assert index.similar(ids(1), k=1) == []
        assert (len(index), index.skipped) == (1, 1)

    def test_a_tokenizer_that_fails(self) -> None:
        endpoint = Endpoint()
        index = endpoint.index()
        index._decode = lambda tokens: {}[0]
        index.add(1, ids(1))
        assert index.similar(ids(1), k=1) == []
        assert endpoint.batches == []

    def test_closed(self, caplog: pytest.LogCaptureFixture) -> None:
        index = Endpoint().index(batch=1)
        index.add(1, ids(1))
        index.close()
        assert index.similar(ids(1), k=1) == []

    @pytest.mark.parametrize(
        "url", ["host:80/v1", "ftp://host/v1", "http:///v1", f"http://u:{KEY}@host/", f"http://h/?key={KEY}"]
    )
    def test_bad_addresses(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            EmbeddingIndex(url, "m", decode=decode)
        assert KEY not in str(caught.value)

    def test_bad_limits(self) -> None:
        with pytest.raises(ConfigurationError, match="must be positive"):
            EmbeddingIndex("http://host/v1", "m", decode=decode, batch=0)


class _Handler(BaseHTTPRequestHandler):
    """Embeds; the model `stuck` answers only when `released` is set."""

    released: ClassVar[threading.Event]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] == "stuck":
            self.released.wait(60)
        data = [{"index": at, "embedding": by_word(text)} for at, text in enumerate(body["input"])]
        content = json.dumps({"object": "list", "data": data, "model": body["model"]}).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # the client did not wait
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def test_over_the_network(caplog: pytest.LogCaptureFixture) -> None:
    _Handler.released = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1/"
        fast = EmbeddingIndex(url, "fast", decode=decode)
        fast.add(1, ids(1, 2))
        assert fast.similar(ids(1, 2), k=1)[0].key == 1
        fast.close()
        stuck = EmbeddingIndex(url, "stuck", decode=decode, timeout=0.1)
        stuck.add(1, ids(1, 2))
        assert stuck.similar(ids(1, 2), k=1) == []
        stuck.close()
        _Handler.released.set()
        server.shutdown()
        thread.join()
    dead = EmbeddingIndex(url, "m", decode=decode)
    dead.add(1, ids(1))
    assert dead.similar(ids(1), k=1) == []
    dead.close()
    assert [record.levelname for record in caplog.records if record.name == embedding_index.logger.name] == [
        "WARNING"
    ] * 2
