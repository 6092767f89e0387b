"""Servers that are not ready, busy, behind a gateway or on a bad connection."""

from email.utils import formatdate
from pathlib import Path
from time import time

import pytest
from support.stand_in.exchange import Chat, Check, Http, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import turns_away
from support.stand_in.server import MODEL, Server, lists


def _at(number: int, answer: Http) -> Check:
    return lambda chat: answer if chat.number == number else None


def _always(answer: Http) -> Server:
    return Server(checks=[lambda chat: answer])


def _soon(_number: int = 0) -> str:
    return formatdate(time() + 1, usegmt=True)


def _dated(chat: Chat) -> Http | None:
    return error(429, "Rate limit reached", headers={"Retry-After": _soon()}) if chat.number == 1 else None


def _late(chat: Chat, completion: dict[str, object]) -> Http:
    return Http(body=completion, seconds=11.0 if chat.number == 0 else 0.0)


def _sent(how: str) -> Server:
    return Server(changes=[lambda chat, completion: Http(body=completion, sent=how)])  # type: ignore[arg-type]


LOADING = Http(
    status=503, body={"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
)
GATEWAY = Http(
    status=502,
    body="<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body></html>",
    content_type="text/html",
)

PROFILES = (
    Profile(
        name="the first answer is late",
        report="https://github.com/rsynnot/magic-lists-for-navidrome/issues/34",
        slow=True,
        server=Server(changes=[_late]),
    ),
    Profile(
        name="the model is being loaded",
        report="https://github.com/mostlygeek/llama-swap/issues/146",
        server=Server(checks=[turns_away(2, LOADING)]),
        extra_calls=2,
    ),
    Profile(
        name="the model is being loaded, with a time",
        report="https://github.com/huggingface/huggingface_hub/issues/2763",
        server=Server(
            checks=[
                turns_away(
                    2,
                    Http(
                        status=503, body={"error": "Model is currently loading"}, headers={"Retry-After": "0"}
                    ),
                )
            ]
        ),
        extra_calls=2,
    ),
    Profile(
        name="the list of models is being loaded",
        report="https://github.com/canonical/inference-snaps/issues/234",
        server=Server(models=lambda number: LOADING if number < 2 else lists(MODEL)(number)),
    ),
    Profile(
        name="the rate is over, for seconds",
        report="https://github.com/CopilotKit/CopilotKit/pull/3842",
        server=Server(checks=[_at(1, error(429, "Rate limit reached", headers={"Retry-After": "1"}))]),
        extra_calls=1,
    ),
    Profile(
        name="the rate is over, for half a second",
        report="https://github.com/i-am-bee/bee-observe/issues/16",
        server=Server(checks=[_at(1, error(429, "Rate limit reached", headers={"Retry-After": "0.5"}))]),
        extra_calls=1,
    ),
    Profile(
        name="the rate is over, until a date",
        report="https://github.com/interviewstreet/hiring-agent/issues/386",
        server=Server(checks=[_dated]),
        extra_calls=1,
    ),
    Profile(
        name="the rate is over, for milliseconds",
        report="https://github.com/openclaw/openclaw/pull/111353",
        server=Server(checks=[_at(1, error(429, "Rate limit reached", headers={"retry-after-ms": "40"}))]),
        extra_calls=1,
    ),
    Profile(
        name="the rate is over, told in the body",
        report="https://github.com/router-for-me/CLIProxyAPI/pull/787",
        server=Server(
            checks=[
                _at(
                    1,
                    error(
                        429,
                        f"Rate limit reached for model `{MODEL}` on tokens per minute (TPM): Limit 6000, Used 5990. "
                        "Please try again in 120ms.",
                        kind="tokens",
                        code="rate_limit_exceeded",
                    ),
                )
            ]
        ),
        extra_calls=1,
    ),
    Profile(
        name="the rate is over for a day",
        report="https://github.com/CopilotKit/CopilotKit/pull/3727",
        server=_always(
            error(429, "Daily limit reached. Upgrade your plan.", headers={"Retry-After": "86400"})
        ),
        says="Daily limit reached",
        extra_calls=8,
    ),
    Profile(
        name="overloaded once",
        report="https://github.com/vava-nessa/free-coding-models/issues/148",
        server=Server(
            checks=[
                _at(
                    1,
                    Http(
                        status=529,
                        body={
                            "type": "error",
                            "error": {"type": "overloaded_error", "message": "Overloaded"},
                        },
                    ),
                )
            ]
        ),
        extra_calls=1,
    ),
    Profile(
        name="a gateway's page once",
        report="https://github.com/anomalyco/opencode/issues/35163",
        server=Server(checks=[_at(1, GATEWAY)]),
        extra_calls=1,
    ),
    Profile(
        name="a gateway's page always",
        report="https://github.com/smallmain/vscode-unify-chat-provider/issues/59",
        server=_always(GATEWAY),
        says="502 Bad Gateway",
        extra_calls=8,
    ),
    Profile(
        name="an unknown error of a gateway once",
        report="https://github.com/earendil-works/pi/issues/9627",
        server=Server(checks=[_at(1, Http(status=520, body="error code: 520", content_type="text/plain"))]),
        extra_calls=1,
    ),
    Profile(
        name="a time-out of a gateway once",
        report="https://github.com/earendil-works/pi/issues/9627",
        server=Server(
            checks=[_at(1, Http(status=504, body="upstream request timeout", content_type="text/plain"))]
        ),
        extra_calls=1,
    ),
    Profile(
        name="the connection is reset once",
        report="https://github.com/BerriAI/litellm/issues/12100",
        server=Server(checks=[_at(1, Http(sent="reset"))]),
        extra_calls=1,
    ),
    Profile(
        name="the connection is closed after each answer without a word",
        report="https://github.com/ollama/ollama-python/issues/436",
        server=_sent("and closed"),
        extra_calls=4,
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
