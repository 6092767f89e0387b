"""Similar sessions: what the estimates are worth, and that no endpoint can hurt the engine."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sam.index import retrieval
from agentinfer_lg.serving.sam.index.retrieval import EmbeddingIndex, MinHashIndex, SessionIndex, Similar
from agentinfer_lg.serving.sam.types import IntArray

KEY = "sk-very-secret"


def ids(*values: int) -> IntArray:
    return np.array(values, dtype=np.int32)


def random_ids(seed: int, length: int = 200) -> IntArray:
    return np.random.default_rng(seed).integers(0, 150_000, length).astype(np.int32)


def jaccard(one: IntArray, two: IntArray) -> float:
    sets = [
        {tuple(tokens[at : at + 3]) for at in range(len(tokens) - 2)}
        for tokens in (one.tolist(), two.tolist())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


class TestMinHash:
    @pytest.mark.parametrize("kind", ["random ids", "ids in a row", "few ids"])
    def test_similarity_estimates_jaccard(self, kind: str) -> None:
        random = np.random.default_rng(1)
        errors = []
        for pair in range(100):
            shared, own = int(random.integers(0, 300)), int(random.integers(20, 300))
            if kind == "few ids":
                text = random.integers(0, 12, shared + 2 * own).astype(np.int32)
            elif kind == "ids in a row":
                text = np.arange(1_000 * pair, 1_000 * pair + shared + 2 * own, dtype=np.int32)
            else:
                text = random_ids(pair, shared + 2 * own)
            one, two = text[: shared + own], np.concatenate([text[:shared], text[shared + own :]])
            index = MinHashIndex(seed=pair)
            index.add(1, one)
            found = index.similar(two, k=1)
            errors.append((found[0].similarity if found else 0.0) - jaccard(one, two))
        assert abs(np.mean(errors)) < 0.02  # no bias: three standard errors of the mean
        assert np.std(errors) < 1 / 16

    def test_the_same_session_is_found_among_many(self) -> None:
        index = MinHashIndex()
        for number in range(1_000):
            index.add(number, random_ids(number))
        for number in range(0, 1_000, 97):
            assert index.similar(random_ids(number), k=3)[0] == Similar(number, 1.0)

    def test_best_first_and_no_strangers(self) -> None:
        index = MinHashIndex()
        query = random_ids(0)
        for key, shared in enumerate((40, 160, 80, 0, 120)):
            index.add(key, np.concatenate([query[:shared], random_ids(key + 10)]))
        assert [found.key for found in index.similar(query, k=10)] == [1, 4, 2, 0]
        assert [found.key for found in index.similar(query, k=2)] == [1, 4]
        assert index.similar(query, k=0) == []

    def test_only_the_end_of_a_query_counts(self) -> None:
        index = MinHashIndex(query_tokens=100)
        index.add(1, random_ids(1))
        index.add(2, random_ids(2))
        assert [
            found.key for found in index.similar(np.concatenate([random_ids(1), random_ids(2)]), k=5)
        ] == [2]

    @pytest.mark.parametrize("tokens", [ids(), ids(5), ids(5, 6), ids(2**31 - 1, 0, 2**31 - 1)])
    def test_short_sessions(self, tokens: IntArray) -> None:
        index = MinHashIndex()
        index.add(1, tokens)
        index.add(2, random_ids(1))
        assert [found.key for found in index.similar(tokens, k=5)] == ([1] if len(tokens) else [])

    def test_a_long_session_and_random_bytes(self) -> None:
        index = MinHashIndex()
        index.add(1, random_ids(1, 131_072))
        index.add(2, np.frombuffer(np.random.default_rng(0).bytes(4_000), np.int32))
        assert index.similar(random_ids(1, 131_072), k=2)[0].key == 1

    def test_tokens_in_other_layouts(self) -> None:
        index = MinHashIndex()
        wide = np.repeat(random_ids(3), 2)
        index.add(1, wide[::2])
        assert index.similar(random_ids(3).astype(np.int64), k=1) == [Similar(1, 1.0)]

    @settings(max_examples=60, deadline=None)
    @given(
        steps=st.lists(
            st.tuples(st.sampled_from(["add", "add", "remove"]), st.integers(-3, 40), st.integers(0, 60)),
            max_size=120,
        )
    )
    def test_adding_and_removing_is_like_a_dictionary(self, steps: list[tuple[str, int, int]]) -> None:
        index = MinHashIndex()
        expected: dict[int, int] = {}
        for step, key, text in steps:
            if step == "add":
                index.add(key, random_ids(text, 30))
                expected[key] = text
            else:
                index.remove(key)
                expected.pop(key, None)
        assert len(index) == len(expected)
        for text in set(expected.values()):
            exact = [
                found.key for found in index.similar(random_ids(text, 30), k=100) if found.similarity == 1
            ]
            assert exact == sorted((key for key, kept in expected.items() if kept == text), reverse=True)

    def test_size(self) -> None:
        index = MinHashIndex()
        for number in range(4_096):
            index.add(number, ids(number, 1, 2, 3))
        assert 136 < (index.bytes - 2**18) / 4_096 < 300
        assert MinHashIndex().bytes < 4_096

    def test_what_all_sessions_share_says_nothing(self) -> None:
        """Contexts that are mostly one prompt: the few tokens of the task decide."""
        prompt = random_ids(0, 2_000)
        index = MinHashIndex()
        for number in range(200):
            index.add(
                number, np.concatenate([prompt, random_ids(1_000 + number // 4, 100), random_ids(number, 50)])
            )
        found = [
            index.similar(np.concatenate([prompt, random_ids(1_000 + task, 100)]), k=4)
            for task in range(10, 50)
        ]
        assert [{similar.key // 4 for similar in similars} for similars in found] == [
            {task} for task in range(10, 50)
        ]
        assert min(similars[3].similarity for similars in found) > 0.3

    def test_a_query_of_nothing_else_finds_what_there_is(self) -> None:
        prompt = random_ids(0, 500)
        index = MinHashIndex()
        for number in range(40):
            index.add(number, prompt)
        assert [found.key for found in index.similar(prompt, k=2)] == [39, 38]

    def test_replacing_one_session_does_not_make_it_common(self) -> None:
        index = MinHashIndex()
        index.add(-1, random_ids(1))
        for _ in range(100):
            index.add(0, random_ids(0))
        assert index.similar(random_ids(0), k=1) == [Similar(0, 1.0)]

    def test_what_was_common_long_ago_counts_again(self) -> None:
        prompt = random_ids(0, 300)
        index = MinHashIndex()
        for number in range(3_000):
            old = number < 1_000
            text = np.concatenate([prompt, random_ids(number, 10)]) if old else random_ids(number, 50)
            index.add(number, text)
        index.add(5_000, np.concatenate([prompt, random_ids(9_999, 300)]))
        found = {similar.key for similar in index.similar(prompt, k=20)}
        assert 5_000 in found
        assert not found & set(range(20, 1_000))

    def test_many_threads(self) -> None:
        index = MinHashIndex()

        def work(worker: int) -> None:
            for number in range(100):
                key = 1_000 * worker + number
                index.add(key, random_ids(key, 50))
                assert index.similar(random_ids(key, 50), k=1)[0].key == key
                if number % 3 == 0:
                    index.remove(key)

        failures: list[threading.ExceptHookArgs] = []
        before, threading.excepthook = threading.excepthook, failures.append
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        threading.excepthook = before
        assert failures == []
        assert len(index) == 4 * 66

    def test_limits_are_checked(self) -> None:
        with pytest.raises(ConfigurationError, match="query_tokens"):
            MinHashIndex(query_tokens=0)

    @pytest.mark.parametrize("kernel", ["_shingles", "_count", "_sign", "_most_equal"])
    def test_kernels_release_the_interpreter(self, kernel: str) -> None:
        options = getattr(retrieval, kernel).targetoptions
        assert options["nogil"]


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
    monkeypatch.setattr(retrieval.time, "monotonic", lambda: now[0])
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
        assert len([record for record in caplog.records if record.name == retrieval.logger.name]) == 1
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
    assert [record.levelname for record in caplog.records if record.name == retrieval.logger.name] == [
        "WARNING"
    ] * 2
