import base64
import hashlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.load
import tiktoken_ext.openai_public
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm import tokens
from agentinfer_lg.llm.tokens import estimate_tokens, token_counter

ENGLISH = (
    "Retrieval over long documents is done passage by passage, because a model that is shown everything at once "
    "pays for every token and finds less."
)
CHINESE = "长文档的检索是逐段进行的，因为一次看到所有内容的模型要为每个词元付费，找到的却更少。"


def test_english_has_about_four_characters_per_token() -> None:
    assert len(ENGLISH) / 5 < estimate_tokens(ENGLISH) < len(ENGLISH) / 3


def test_chinese_is_not_counted_as_if_it_were_english() -> None:
    assert 0.6 * len(CHINESE) < estimate_tokens(CHINESE) < 1.1 * len(CHINESE)


def test_empty_text_has_no_token_and_any_other_has_one() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("a") == 1
    assert estimate_tokens("\ud800") == 1


@given(st.text(), st.text())
def test_joining_never_costs_more_and_growing_never_costs_less(left: str, right: str) -> None:
    joined = estimate_tokens(left + right)
    assert max(estimate_tokens(left), estimate_tokens(right)) <= joined
    assert joined <= estimate_tokens(left) + estimate_tokens(right)


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("the network was touched")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of tiktoken on a machine without a network, which has loaded no encoding yet."""
    monkeypatch.setattr(socket, "socket", _no_network)
    monkeypatch.setattr(socket, "getaddrinfo", _no_network)
    monkeypatch.setattr(tiktoken.load, "read_file", _no_network)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def _cached_name(encoding: str) -> str:
    return hashlib.sha1(tokens._FILES[encoding].address.encode()).hexdigest()


def _put_encoding(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an encoding of the 256 bytes and of `ab` into the cache, and make it the expected one."""
    words = [bytes([byte]) for byte in range(256)] + [b"ab"]
    ranks = dict(zip(words, range(len(words)), strict=True))
    content = _content(ranks)
    for name in ("o200k_base", "cl100k_base"):
        (cache / _cached_name(name)).write_bytes(content)
    expected = {name: _with_hash(file, content) for name, file in tokens._FILES.items()}
    monkeypatch.setattr(tokens, "_FILES", expected)
    load = tiktoken.load.load_tiktoken_bpe

    def load_unchecked(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
        return load(address)

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", load_unchecked)


def _content(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(word) + b" %d\n" % rank for word, rank in ranks.items())


def _with_hash(file: Any, content: bytes) -> Any:
    return tokens._EncodingFile(address=file.address, sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-5-mini", "gpt-4-turbo", "openai/gpt-oss-20b", "ft:gpt-4o:me::1"]
)
def test_tokens_of_a_hosted_model_are_counted(
    model: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put_encoding(cache, monkeypatch)
    count = token_counter(model, openai=True)
    assert [count(text) for text in ("", "ab", "abab", "c", "潮", "<|endoftext|>")] == [0, 1, 2, 1, 3, 13]
    assert count("\ud800") > 0


def test_a_long_text_is_counted_in_pieces(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put_encoding(cache, monkeypatch)
    count = token_counter("gpt-4o", openai=True)
    assert count("ab" * 200_000) == 200_000
    assert count(" " * 3_000_000) == 3_000_000, "tiktoken alone panics"


def test_elsewhere_the_name_says_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put_encoding(cache, monkeypatch)
    assert token_counter("gpt-4o") is estimate_tokens
    assert token_counter() is estimate_tokens


@pytest.mark.parametrize(
    "model", ["", "gpt-4o", "gpt-4", "davinci", "gpt2", "my-deployment", "../x", "gpt-4o\ud800"]
)
def test_without_a_file_tokens_are_estimated_and_nothing_is_downloaded(model: str, cache: Path) -> None:
    assert token_counter(model, openai=True) is estimate_tokens
    assert list(cache.iterdir()) == []


def test_a_damaged_file_is_neither_used_nor_downloaded_again(cache: Path) -> None:
    damaged = cache / _cached_name("o200k_base")
    damaged.write_bytes(b"YWI= 0\n")
    assert token_counter("gpt-4o", openai=True) is estimate_tokens
    assert damaged.exists()


def test_the_cache_may_be_anywhere_or_nowhere(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    _put_encoding(other, monkeypatch)
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(other))
    assert token_counter("gpt-4o", openai=True) is estimate_tokens, "TIKTOKEN_CACHE_DIR comes first"
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    assert token_counter("gpt-4o", openai=True) is not estimate_tokens
    monkeypatch.delenv("DATA_GYM_CACHE_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(other.parent))
    other.rename(other.parent / "data-gym-cache")
    assert token_counter("gpt-4", openai=True) is not estimate_tokens
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert token_counter("gpt-4o", openai=True) is estimate_tokens


@pytest.mark.parametrize("name", sorted(tokens._FILES))
def test_the_files_are_those_that_tiktoken_asks_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
        asked.append((address, expected_hash))
        return {}

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", ask)
    tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[name]()
    assert asked == [(tokens._FILES[name].address, tokens._FILES[name].sha256)]


def test_estimates_load_no_encoding() -> None:
    code = (
        "import sys; from agentinfer_lg.llm.tokens import token_counter\n"
        "token_counter('gpt-4o'); print('tiktoken' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
