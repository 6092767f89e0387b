"""Lists of models and addresses that are not what one expects."""

from pathlib import Path

import pytest
from support.stand_in.exchange import Chat, Http, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import refuses_if
from support.stand_in.server import MODEL, Server, lists


def _only(name: str) -> Server:
    """A server that lists an embedding model first, and chats with one model only."""
    return Server(
        models=lists("nomic-embed-text:latest", "bge-reranker-v2-m3", name),
        checks=[
            refuses_if(
                lambda chat: chat.body.get("model") != name,
                error(400, '"nomic-embed-text:latest" does not support chat', kind="api_error"),
            )
        ],
    )


def _named(name: str, *, listed: str = "") -> Server:
    """Return a server that has one model."""

    def check(chat: Chat) -> Http | None:
        asked = chat.body.get("model")
        return None if asked == name else error(404, f"model '{asked}' not found", code="model_not_found")

    return Server(models=lists(listed or name), checks=[check])


def _list(answer: Http) -> Server:
    return Server(models=lambda number: answer)


def _moved(status: int) -> Server:
    def answer(chat: Chat) -> Http | None:
        if "moved" in chat.path:
            return None
        return Http(status=status, headers={"Location": "/v1/chat/completions?moved=1"})

    return Server(checks=[answer])


def _wants_version(chat: Chat) -> Http | None:
    return (
        None
        if "api-version=2024-10-21" in chat.path
        else Http(status=404, body={"error": {"code": "404", "message": "Resource not found"}})
    )


PROFILES = (
    Profile(
        name="no list of models",
        report="https://github.com/yihong0618/bilingual_book_maker/pull/527",
        server=Server(model_route=False),
    ),
    Profile(
        name="the list of models ends in status 500",
        report="https://github.com/yihong0618/bilingual_book_maker/pull/527",
        server=_list(Http(status=500, body="Internal Server Error", content_type="text/plain")),
    ),
    Profile(
        name="the list of models is empty",
        report="https://github.com/madroidmaq/mlx-omni-server/issues/130",
        server=_list(Http(body={"object": "list", "data": []})),
    ),
    Profile(
        name="the list of models wants a key and chat does not",
        report="https://github.com/charonn0/Xojo-OpenAI/issues/8",
        server=_list(error(401, "Missing bearer authentication", code="invalid_api_key")),
    ),
    Profile(
        name="the list of models is forbidden",
        report="https://github.com/charonn0/Xojo-OpenAI/issues/8",
        server=_list(
            Http(status=403, body={"error": "You have insufficient permissions for this operation."})
        ),
    ),
    Profile(
        name="the list of models is a bare array",
        report="https://github.com/maximhq/bifrost/issues/6711",
        server=_list(Http(body=[{"id": MODEL, "object": "model", "type": "chat"}])),
    ),
    Profile(
        name="the list of models under another name",
        report="https://github.com/muxi-ai/onellm/issues/46",
        server=_list(Http(body={"models": [{"name": MODEL, "model": MODEL}]})),
    ),
    Profile(
        name="the list of models has other models",
        report="https://github.com/oobabooga/textgen/issues/5675",
        server=Server(models=lists("gpt-4o", "gpt-4o-mini")),
    ),
    Profile(
        name="an embedding model first in the list",
        report="https://github.com/sugarforever/chat-ollama/pull/67",
        server=_only("llama3.2:latest"),
        model="",
    ),
    Profile(
        name="a name without its tag",
        report="https://github.com/lucagrippa/obsidian-ai-tagger/issues/37",
        server=_named("llama3.2:latest"),
        model="llama3.2",
    ),
    Profile(
        name="a name in other letters",
        report="https://github.com/lucagrippa/obsidian-ai-tagger/issues/37",
        server=_named("Qwen3-8B-Instruct"),
        model="qwen3-8b-instruct",
    ),
    Profile(
        name="a name that the list has with a prefix",
        report="https://github.com/decolua/9router/issues/1512",
        server=_named(MODEL, listed=f"ds/{MODEL}"),
    ),
    Profile(
        name="a name that nobody serves",
        report="https://github.com/iDiagoValeta/localOllamaRAG/issues/129",
        server=_named("llama3.2:latest"),
        model="llama9.9",
        says="llama9.9",
    ),
    Profile(
        name="a listed model that cannot be called",
        report="https://github.com/anomalyco/opencode/issues/42962",
        server=Server(checks=[lambda chat: error(400, "Model is unavailable.")]),
        says="Model is unavailable",
    ),
    Profile(
        name="a base with a version in its query",
        report="https://github.com/Security-Onion-Solutions/securityonion/issues/15841",
        server=Server(under="/openai/deployments/local-model", model_route=False, checks=[_wants_version]),
        base="/openai/deployments/local-model?api-version=2024-10-21",
    ),
    Profile(
        name="a base without its version",
        report="https://github.com/xtekky/gpt4free/issues/2834",
        base="",
    ),
    Profile(
        name="a base with another version",
        report="https://github.com/HKUDS/nanobot/issues/2548",
        server=Server(under="/api/v3"),
        base="/api/v3",
    ),
    Profile(
        name="a base without any version",
        report="https://github.com/anomalyco/opencode/issues/1508",
        server=Server(under="/inference"),
        base="/inference",
    ),
    Profile(
        name="moved for now",
        report="https://github.com/songquanpeng/one-api/issues/533",
        server=_moved(307),
        extra_calls=8,
    ),
    Profile(
        name="moved for good",
        report="https://github.com/khoj-ai/khoj/pull/1088",
        server=_moved(308),
        extra_calls=8,
    ),
    Profile(
        name="an address of something else",
        report="https://github.com/xtekky/gpt4free/issues/2834",
        server=Server(under="/elsewhere"),
        says="base URL",
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
