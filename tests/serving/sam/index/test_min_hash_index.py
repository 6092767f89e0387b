"""Sessions that share runs of tokens."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sam.index import min_hash_index
from agentinfer_lg.serving.sam.index.min_hash_index import MinHashIndex
from agentinfer_lg.serving.sam.index.session_index import Similar
from agentinfer_lg.serving.sam.types import IntArray


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
        options = getattr(min_hash_index, kernel).targetoptions
        assert options["nogil"]
