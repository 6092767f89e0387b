"""Keys, proxies, quotas: who may ask, and what stands in between."""

from pathlib import Path

import pytest
from support.stand_in.exchange import Chat, Http, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.server import Server

KEYS = ("AGENTINFER_SMALL__API_KEY", "AGENTINFER_LARGE__API_KEY")


def _keys(value: str) -> dict[str, str]:
    return dict.fromkeys(KEYS, value)


def _always(answer: Http) -> Server:
    return Server(checks=[lambda chat: answer])


DENIED = Http(
    status=401, body={"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}
)


def _bearer(chat: Chat) -> Http | None:
    return None if chat.headers.get("authorization") == "Bearer right-key" else DENIED


def _own_header(chat: Chat) -> Http | None:
    return None if chat.headers.get("api-key") == "right-key" else DENIED


PROXY = "http://127.0.0.1:9"

PROFILES = (
    Profile(
        name="a wrong key, with a body of text",
        report="https://github.com/Bytez-com/docs/issues/59",
        server=_always(Http(status=401, body="Unauthorized", content_type="text/plain")),
        environment=_keys("wrong-key-of-mine"),
        says="API_KEY",
    ),
    Profile(
        name="the key in a header of its own",
        report="https://github.com/rohitg00/agentmemory/issues/374",
        server=Server(checks=[_own_header]),
        environment=dict.fromkeys(
            ("AGENTINFER_SMALL__HEADERS", "AGENTINFER_LARGE__HEADERS"), '{"api-key": "right-key"}'
        ),
    ),
    Profile(
        name="a key without the right",
        report="https://github.com/ianand/spreadsheets-are-all-you-need/issues/12",
        server=_always(
            error(403, "You have insufficient permissions for this operation. Missing scopes: model.request.")
        ),
        environment=_keys("some-key"),
        says="Missing scopes: model.request",
    ),
    Profile(
        name="a key with a line break",
        report="https://github.com/bytedance/deer-flow/pull/5066",
        environment=_keys("right-key\nright-key"),
        says="API_KEY",
    ),
    Profile(
        name="a key with letters that no header has",
        report="https://github.com/openai/openai-python/issues/1793",
        environment=_keys("ключ-密钥"),
        says="API_KEY",
    ),
    Profile(
        name="a key with blanks around it",
        report="https://github.com/bytedance/deer-flow/pull/5066",
        server=Server(checks=[_bearer]),
        environment=_keys("  right-key\n"),
    ),
    Profile(
        name="no money left",
        report="https://github.com/anomalyco/opencode/issues/35163",
        server=_always(
            error(402, "Insufficient Balance", kind="unknown_error", code="invalid_request_error")
        ),
        environment=_keys("some-key"),
        says="Insufficient Balance",
        extra_calls=4,
    ),
    Profile(
        name="no quota left",
        report="https://github.com/langchain-ai/langchainjs/issues/1929",
        server=_always(
            error(
                429,
                "You exceeded your current quota, please check your plan and billing details.",
                kind="insufficient_quota",
                code="insufficient_quota",
            )
        ),
        environment=_keys("some-key"),
        says="quota",
        extra_calls=8,
    ),
    Profile(
        name="a proxy for all and a server on this machine",
        report="https://github.com/ollama/ollama/issues/9141",
        environment={"HTTP_PROXY": PROXY, "http_proxy": PROXY, "ALL_PROXY": PROXY, "HTTPS_PROXY": PROXY},
    ),
    Profile(
        name="a proxy that is no address and a server on this machine",
        report="https://github.com/ollama/ollama/issues/9141",
        environment={"ALL_PROXY": "socks://127.0.0.1:9", "all_proxy": "socks://127.0.0.1:9"},
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
