"""Servers whose answers have another shape than the documentation says, or that err inside of an answer."""

import gzip
from pathlib import Path

import pytest
from support.stand_in.exchange import Change, Chat, Http, Json
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.server import Server


def _once(answer: Http, *, at: int = 1) -> Change:
    """Put `answer` in place of one completion."""
    return lambda chat, completion: answer if chat.number == at else completion


def _always(answer: Http) -> Change:
    return lambda chat, completion: answer


def _usage(value: object) -> Change:
    return lambda chat, completion: {**completion, "usage": value}


def _finish(reason: str | None, *, at: int | None = None) -> Change:
    def apply(chat: Chat, completion: Json) -> Json:
        if at is None or chat.number == at:
            completion["choices"][0]["finish_reason"] = reason
        return completion

    return apply


def _without(*names: str) -> Change:
    return lambda chat, completion: {key: value for key, value in completion.items() if key not in names}


def _refusal(chat: Chat, completion: Json) -> Json:
    choice = completion["choices"][0]
    choice["message"] = {"role": "assistant", "content": None, "refusal": "I cannot help with that request."}
    choice["finish_reason"] = "stop"
    return completion


def _as(answer: Http) -> Change:
    """Send the completion in the wrapping of `answer`."""
    import json

    def apply(chat: Chat, completion: Json) -> Http:
        text = json.dumps(completion)
        body: object = text
        if dict(answer.headers).get("Content-Encoding") == "gzip":
            body = gzip.compress(text.encode())
        return Http(
            body=f"{answer.body}{body}" if answer.body else body,
            content_type=answer.content_type,
            headers=answer.headers,
        )

    return apply


LIMITED = Http(
    body={
        "id": "gen-1",
        "choices": None,
        "error": {"message": "Rate limit exceeded: free models per minute", "code": 429},
    }
)

PROFILES = (
    Profile(
        name="choices of null with an error of 429 once",
        report="https://github.com/UKGovernmentBEIS/inspect_ai/issues/1534",
        server=Server(changes=[_once(LIMITED)]),
        extra_calls=1,
    ),
    Profile(
        name="choices of null with an error of 429 always",
        report="https://github.com/UKGovernmentBEIS/inspect_ai/issues/1534",
        server=Server(changes=[_always(LIMITED)]),
        says="Rate limit exceeded: free models per minute",
        extra_calls=8,
    ),
    Profile(
        name="status 200 with an error of 500 once",
        report="https://github.com/UKGovernmentBEIS/inspect_ai/pull/1536",
        server=Server(
            changes=[
                _once(Http(body={"error": {"message": "Internal error encountered upstream", "code": 500}}))
            ]
        ),
        extra_calls=1,
    ),
    Profile(
        name="status 200 with an error in words always",
        report="https://github.com/apache/rocketmq-dashboard/issues/2178",
        server=Server(changes=[_always(Http(body={"error": "model requires more system memory (9.1 GiB)"}))]),
        says="model requires more system memory",
        extra_calls=8,
    ),
    Profile(
        name="an error inside of the choice",
        report="https://github.com/maximhq/bifrost/issues/5425",
        server=Server(
            changes=[
                _once(
                    Http(
                        body={
                            "id": "gen-1",
                            "choices": [
                                {
                                    "index": 0,
                                    "message": {"role": "assistant", "content": ""},
                                    "finish_reason": "error",
                                    "error": {"code": 502, "message": "Upstream error from the provider"},
                                }
                            ],
                        }
                    )
                )
            ]
        ),
        extra_calls=1,
    ),
    Profile(
        name="no choices once",
        report="https://github.com/langgenius/dify/issues/9249",
        server=Server(
            changes=[_once(Http(body={"id": "x", "object": "chat.completion", "choices": [], "usage": None}))]
        ),
        extra_calls=2,
    ),
    Profile(
        name="no choices always",
        report="https://github.com/microsoft/vscode-copilot-release/issues/7955",
        server=Server(changes=[_always(Http(body={"id": "x", "object": "chat.completion", "choices": []}))]),
        says="no choices",
        extra_calls=8,
    ),
    Profile(
        name="an empty body once",
        report="https://github.com/openai/openai-node/pull/1998",
        server=Server(changes=[_once(Http(body=""))]),
        extra_calls=2,
    ),
    Profile(
        name="an empty body always",
        report="https://github.com/openai/openai-node/pull/1998",
        server=Server(changes=[_always(Http(body=""))]),
        says="empty",
        extra_calls=8,
    ),
    Profile(
        name="json after blank lines",
        report="https://github.com/inferencerlabs/inferencer-feedback/issues/158",
        server=Server(changes=[_as(Http(body="\n\n     \n"))]),
    ),
    Profile(
        name="usage of null",
        report="https://github.com/vercel/ai/pull/20102",
        server=Server(changes=[_usage(None)]),
    ),
    Profile(
        name="usage missing",
        report="https://github.com/openai/openai-python/issues/1145",
        server=Server(changes=[_without("usage")]),
    ),
    Profile(
        name="usage with nulls inside",
        report="https://github.com/maximhq/bifrost/issues/5425",
        server=Server(
            changes=[
                _usage({"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": None})
            ]
        ),
    ),
    Profile(
        name="finish_reason of null",
        report="https://github.com/VicBilibily/GCMP/issues/217",
        server=Server(changes=[_finish(None)]),
    ),
    Profile(
        name="finish_reason of unknown words",
        report="https://github.com/genkit-ai/genkit/pull/6259",
        server=Server(changes=[_finish("eos_token")]),
    ),
    Profile(
        name="filtered always",
        report="https://github.com/microsoft/semantic-kernel/issues/5240",
        server=Server(
            changes=[
                _always(
                    Http(
                        body={
                            "choices": [
                                {
                                    "index": 0,
                                    "finish_reason": "content_filter",
                                    "message": {"role": "assistant", "content": ""},
                                }
                            ]
                        }
                    )
                )
            ]
        ),
        says="filter",
        extra_calls=8,
    ),
    Profile(
        name="refused in the field refusal",
        report="https://github.com/genkit-ai/genkit/pull/6259",
        server=Server(changes=[_refusal]),
        says="I cannot help with that request.",
        extra_calls=8,
    ),
    Profile(
        name="broken off once",
        report="https://github.com/vllm-project/vllm/issues/57082",
        server=Server(changes=[_finish("abort", at=1)]),
        extra_calls=1,
    ),
    Profile(
        name="broken off always",
        report="https://github.com/vllm-project/vllm/issues/57082",
        server=Server(changes=[_finish("abort")]),
        says="broke off",
        extra_calls=8,
    ),
    Profile(
        name="an answer that calls itself packed once",
        report="https://github.com/langgenius/dify/issues/9275",
        server=Server(changes=[_once(Http(body='{"choices": []}', headers={"Content-Encoding": "gzip"}))]),
        extra_calls=2,
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
