"""Models by the name of their provider, for a process and for a single run."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from pydantic import SecretStr
from support.fake_openai import FakeOpenAI

from agentinfer_lg.context import Context
from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.graphs.deep_research import create_deep_research_graph
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.chat import ChatTier
from agentinfer_lg.llm.models import Models
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import EndpointSettings, Settings

HINTS = SessionHints(session_id="a")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What LangChain was asked to make."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def init_chat_model(model: str, **options: Any) -> FakeListChatModel:
        calls.append((model, options))
        return FakeListChatModel(responses=["hosted"])

    module = ModuleType("langchain.chat_models")
    module.init_chat_model = init_chat_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "langchain.chat_models", module)
    return calls


@pytest.mark.parametrize(
    ("model", "base_url", "provider"),
    [
        ("anthropic:some-model", "", "anthropic"),
        ("google_genai:some-model", "", "google_genai"),
        ("ollama:qwen3:8b", "", "ollama"),
        ("qwen3:8b", "", ""),
        ("anthropic:some-model", "http://127.0.0.1:1/v1", ""),
        ("anthropic:", "", ""),
        ("", "", ""),
    ],
)
def test_a_provider_is_meant_where_there_is_no_address(model: str, base_url: str, provider: str) -> None:
    endpoint = EndpointSettings(model=model, base_url=base_url)
    assert endpoint.provider == provider
    assert endpoint.configured is bool(base_url or provider)


def test_a_tier_without_an_address_of_its_own() -> None:
    small = EndpointSettings(base_url="http://127.0.0.1:1/v1", model="a")
    hosted = Settings(_env_file=None, small=small, large=EndpointSettings(model="anthropic:b"))
    assert hosted.endpoint("large").provider == "anthropic"
    tagged = Settings(_env_file=None, small=small, large=EndpointSettings(model="qwen3:8b"))
    assert (tagged.endpoint("large").base_url, tagged.endpoint("large").model) == (small.base_url, "qwen3:8b")
    alone = Settings(_env_file=None, large=EndpointSettings(model="anthropic:b"))
    assert alone.endpoint("small").model == "anthropic:b"


async def test_the_model_is_made_with_its_key_and_arguments(made: list[tuple[str, dict[str, Any]]]) -> None:
    endpoint = EndpointSettings(model="anthropic:m", api_key=SecretStr("k"), model_kwargs={"max_retries": 1})
    tier = ChatTier("large", endpoint)
    reply = await tier.call([HumanMessage("q")], hints=HINTS, max_tokens=20, temperature=None)
    assert (reply.text, reply.model) == ("hosted", "anthropic:m")
    assert made == [("anthropic:m", {"max_retries": 1, "api_key": "k"})]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ImportError("No module named 'langchain_anthropic'", name="langchain_anthropic"),
            "pip install langchain-anthropic",
        ),
        (ValueError("no key"), "cannot be made: no key"),
    ],
)
async def test_what_a_provider_needs_is_told(
    error: Exception, words: str, made: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: str, **options: Any) -> None:
        raise error

    monkeypatch.setattr(sys.modules["langchain.chat_models"], "init_chat_model", fail)
    with pytest.raises(ConfigurationError, match=words):
        await ChatTier("large", EndpointSettings(model="anthropic:m")).connect()


async def test_a_run_may_name_its_models(made: list[tuple[str, dict[str, Any]]]) -> None:
    with FakeOpenAI(lambda request, index: "local") as server:
        here = EndpointSettings(base_url=server.url, model="fake-small", api_key=SecretStr("k"))
        resources = Resources(Settings(_env_file=None, small=here, docs="."))
        named = await resources.for_run(
            Context(large_model_name="anthropic:m", small_model_name="fake-large")
        )
        assert await resources.for_run(Context()) is resources
        assert (
            await resources.for_run(Context(large_model_name="anthropic:m", small_model_name="fake-large"))
            is named
        )
        assert named.store is resources.store
        large = await named.models.large.call(
            [HumanMessage("q")], hints=HINTS, max_tokens=5, temperature=None
        )
        small = await named.models.small.call([HumanMessage("q")], hints=HINTS, max_tokens=5)
    assert (large.text, small.text, small.model) == ("hosted", "local", "fake-large")
    assert made == [("anthropic:m", {})], "the endpoint's key is not the provider's"


@pytest.mark.parametrize("wrong", ["anthropic:m", 7, object(), FakeListChatModel])
def test_an_object_of_another_kind_is_refused_when_the_graph_is_built(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"small model must be a LangChain chat model.*not"):
        create_deep_research_graph(settings=Settings(_env_file=None), small=wrong)


def test_a_model_with_bound_tools_is_refused_with_a_reason() -> None:
    bound: Any = FakeListChatModel(responses=["a"]).bind(stop=["x"])
    with pytest.raises(ConfigurationError, match="give the model itself"):
        Models(Settings(_env_file=None), large=bound)


def test_keyword_arguments_of_one_provider_do_not_go_to_another() -> None:
    settings = Settings(
        _env_file=None,
        large=EndpointSettings(
            model="anthropic:a", api_key=SecretStr("key-a"), model_kwargs={"api_key": "key-b", "timeout": 9}
        ),
    )
    assert settings.with_models(large="openai:b").large.model_kwargs == {}
    same = settings.with_models(large="anthropic:b").large
    assert (same.model, same.api_key.get_secret_value(), same.model_kwargs["timeout"]) == (
        "anthropic:b",
        "key-a",
        9,
    )
