"""Keys in what servers say."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from support.fake_openai import FakeOpenAI, Faults, Reply

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.chat import ChatTier
from agentinfer_lg.llm.secret_texts import SecretTexts
from agentinfer_lg.settings import EndpointSettings

KEY = "sk-ver/y+secret=0123456789"
LETTERS = st.text("abcXYZ0123456789-_+/=%&", min_size=8, max_size=60)


@given(LETTERS, st.text(), st.text())
def test_no_form_of_a_key_is_left(key: str, before: str, after: str) -> None:
    for form in (key, quote(key), quote(key, safe=""), quote_plus(key)):
        assert form not in SecretTexts([key]).hide(f"{before}{form}{after}") or form in f"{before}***{after}"


@pytest.mark.parametrize("said", ["sk-ver/y****************6789", "'sk-ver/...'", "Bearer sk-ver/y+se…789"])
def test_a_key_with_a_masked_middle_is_hidden(said: str) -> None:
    assert "ver/" not in SecretTexts([KEY]).hide(f"Incorrect API key provided: {said}. See the page.")


@pytest.mark.parametrize("said", ["The list goes on...", "**** is not allowed", "wait ... then"])
def test_other_sentences_stay(said: str) -> None:
    assert SecretTexts([KEY, "", "x", "EMPTY"]).hide(said) == said


def test_all_places_of_a_secret_are_known() -> None:
    endpoint = EndpointSettings(
        base_url="https://me:password-1@a.example/v1?api-version=2024-10-21&key=query-key-1",
        api_key=SecretStr(KEY),
        headers={"X-Auth": SecretStr("Basic header-secret-1")},
        model_kwargs={"openai_api_key": "kwargs-secret-1", "timeout": "ten-seconds"},
    )
    text = f"password-1 query-key-1 {KEY} header-secret-1 kwargs-secret-1 2024-10-21 ten-seconds"
    assert SecretTexts.of(endpoint).hide(text) == "*** *** *** *** *** 2024-10-21 ten-seconds"


class _Errors(BaseCallbackHandler):
    """What a tracer hears of failures."""

    def __init__(self) -> None:
        self.heard = ""

    def on_llm_error(self, error: BaseException, **more: Any) -> None:
        self.heard += repr(error)

    def on_chat_model_start(self, serialized: Any, messages: Any, **more: Any) -> None:
        self.heard += repr((serialized, messages, more))


async def _error(tier: ChatTier) -> str:
    with pytest.raises(EndpointError) as caught:
        await tier.call([HumanMessage("hi")], hints=SessionHints(session_id="a"), max_tokens=9)
    return repr(caught.value)


@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_a_server_that_repeats_the_key_is_not_quoted_with_it(status: int) -> None:
    # The sentence is long, so that the key is where a message ends.
    text = "x" * 280 + f" {KEY} is not a key that this server takes"
    with FakeOpenAI(lambda request, index: Reply(status=status, text=text)) as server:
        endpoint = EndpointSettings(
            base_url=server.url, model="fake-small", api_key=SecretStr(KEY), max_retries=0
        )
        told = await _error(ChatTier("small", endpoint))
        unlisted = EndpointSettings(base_url=server.url, model="other", api_key=SecretStr(KEY), max_retries=0)
        server.faults = Faults()
        told += await _error(ChatTier("small", unlisted))
        given = ChatOpenAI(base_url=server.url, api_key=SecretStr(KEY), model="m", max_retries=0)
        told += await _error(ChatTier("small", EndpointSettings(), model=given))
    assert "sk-ver" not in told


async def test_a_tracer_hears_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = _Errors()
    with FakeOpenAI(lambda request, index: Reply(status=400, text=f"no {KEY}")) as server:
        endpoint = EndpointSettings(
            base_url=server.url, model="fake-small", api_key=SecretStr(KEY), max_retries=0,
            headers={"X-Key": SecretStr("header-secret-1")},
        )  # fmt: skip
        tier = ChatTier("small", endpoint)
        await tier.connect()
        assert tier._client is not None
        tier._client.callbacks = [heard]
        await _error(tier)
    assert heard.heard
    assert "sk-ver" not in heard.heard
    assert "header-secret" not in heard.heard
