"""The drafter of an engine, from its settings."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sam.draft.assembly import make_drafter
from agentinfer_lg.serving.sam.index.embedding_index import EmbeddingIndex
from agentinfer_lg.serving.sam.index.min_hash_index import MinHashIndex

MODEL = SimpleNamespace(model="some/model", tokenizer="some/tokenizer")


@pytest.fixture
def tokenizers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for transformers; lists the tokenizers that were asked for."""
    asked: list[str] = []
    module = ModuleType("transformers")

    def from_pretrained(name: str) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(decode=str)

    module.AutoTokenizer = SimpleNamespace(from_pretrained=from_pretrained)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    return asked


def index_of(config: SamConfig) -> object:
    drafter = make_drafter(config, MODEL)
    try:
        return drafter.make_index()
    finally:
        drafter.close()


def test_similar_sessions_are_found_by_min_hashes(tokenizers: list[str]) -> None:
    assert isinstance(index_of(SamConfig(memory="off", top_k=2)), MinHashIndex)
    assert tokenizers == []


def test_similar_sessions_may_be_found_by_an_endpoint(
    tokenizers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTINFER_SAM_EMBEDDINGS_KEY", "hidden")
    config = SamConfig(
        memory="off", top_k=2, embeddings_url="http://127.0.0.1:9/v1", embeddings_model="small"
    )
    index = index_of(config)
    assert isinstance(index, EmbeddingIndex)
    assert "hidden" not in repr(index)
    assert tokenizers == ["some/tokenizer"]


def test_without_similar_sessions_no_endpoint_is_made(tokenizers: list[str]) -> None:
    config = SamConfig(memory="off", embeddings_url="http://127.0.0.1:9/v1", embeddings_model="small")
    assert isinstance(index_of(config), MinHashIndex)


@pytest.mark.parametrize("given", [{"embeddings_url": "http://x/v1"}, {"embeddings_model": "small"}])
def test_address_and_model_of_the_endpoint_belong_together(given: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="belong together"):
        SamConfig(**given)  # type: ignore[arg-type]
