"""Servers that refuse guided output, ignore it or fail at it."""

from pathlib import Path

import pytest
from support.fake_openai import render_prompt
from support.stand_in.agent import Agent
from support.stand_in.exchange import Chat, Http, Json, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import refuses_if, schema_words
from support.stand_in.server import Server


def _schema(chat: Chat) -> bool:
    return chat.guided == "json_schema"


def _any_guide(chat: Chat) -> bool:
    return bool(chat.guided or chat.has("structured_outputs"))


def _without_the_word_json(chat: Chat) -> bool:
    return chat.guided == "json_object" and "json" not in render_prompt({"messages": chat.messages}).lower()


def _fenced(chat: Chat, completion: Json) -> Json:
    message = completion["choices"][0]["message"]
    if _any_guide(chat) and message["content"]:
        message["content"] = f"Here is the JSON:\n```json\n{message['content']}\n```"
    return completion


def _blanks(chat: Chat, completion: Json) -> Json:
    """A grammar lets a model write blanks for ever."""
    if _any_guide(chat):
        choice = completion["choices"][0]
        choice["message"]["content"] = "{" + "\n" * 4 * (chat.limit or 4000)
        choice["finish_reason"] = "length"
    return completion


ONLY_TEXT_OR_OBJECT = Http(
    status=500,
    body={
        "error": {
            "message": "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input should be 'text' "
            "or 'json_object'\", 'input': 'json_schema', 'ctx': {'expected': \"'text' or 'json_object'\"}}]",
            "type": "internal_server_error",
            "param": None,
            "code": None,
        }
    },
)

PROFILES = (
    Profile(
        name="json_schema ends in status 500, text and json_object are taken",
        report="https://github.com/abetlen/llama-cpp-python/pull/1677",
        server=Server(checks=[refuses_if(_schema, ONLY_TEXT_OR_OBJECT)]),
        doctor="json",
    ),
    Profile(
        name="this response_format type is unavailable",
        report="https://github.com/llm-exe/llm-exe/issues/662",
        server=Server(
            checks=[refuses_if(_schema, error(400, "This response_format type is unavailable now"))],
        ),
        levels=(0, 600),
    ),
    Profile(
        name="grammar cannot be parsed",
        report="https://github.com/ggml-org/llama.cpp/issues/26596",
        server=Server(
            checks=[
                refuses_if(
                    _schema,
                    Http(
                        status=400,
                        body={
                            "error": {
                                "code": 400,
                                "message": "Failed to initialize samplers: failed to parse grammar",
                                "type": "invalid_request_error",
                            }
                        },
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="json generated does not match the schema",
        report="https://github.com/langchain-ai/langchain/issues/31459",
        server=Server(
            checks=[
                refuses_if(
                    _any_guide,
                    Http(
                        status=400,
                        body={
                            "error": {
                                "message": "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more "
                                "details.",
                                "type": "invalid_request_error",
                                "code": "json_validate_failed",
                                "failed_generation": "",
                            }
                        },
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="features of the schema unknown to the grammar engine",
        report="https://github.com/vllm-project/vllm/issues/26421",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: bool(
                        schema_words(chat) & {"minLength", "maxLength", "minItems", "maxItems", "pattern"}
                    ),
                    error(
                        400,
                        "The provided JSON schema contains features not supported by xgrammar.",
                        kind="BadRequestError",
                        code=400,
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="accepted and ignored",
        report="https://github.com/ggml-org/llama.cpp/issues/24096",
        server=Server(agent=Agent(guided="ignored")),
        levels=(0, 600),
    ),
    Profile(
        name="accepted and ignored, without tools",
        report="https://github.com/ggml-org/llama.cpp/issues/24096",
        server=Server(agent=Agent(guided="ignored", tools="ignored")),
        doctor="tool",
    ),
    Profile(
        name="json_object only where the prompt has the word json",
        report="https://github.com/browserbase/stagehand/issues/1204",
        server=Server(
            checks=[
                refuses_if(
                    _schema,
                    error(
                        400,
                        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
                    ),
                ),
                refuses_if(
                    _without_the_word_json,
                    error(
                        400,
                        "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
                        param="messages",
                    ),
                ),
                refuses_if(lambda chat: chat.has("tools"), error(400, "tools are not supported")),
            ]
        ),
    ),
    Profile(
        name="json_object refused, json_schema taken, error a string",
        report="https://github.com/bhimrazy/receipt-ocr/issues/20",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: chat.guided == "json_object",
                    Http(
                        status=400, body={"error": "'response_format.type' must be 'json_schema' or 'text'"}
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="every response_format refused",
        report="https://github.com/InternLM/lmdeploy/issues/4079",
        server=Server(checks=[refuses_if(_any_guide, error(400, "response_format is not supported"))]),
        levels=(0, 4000),
    ),
    Profile(
        name="guided output together with tools refused",
        report="https://github.com/google-gemini/deprecated-generative-ai-swift/issues/195",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: _any_guide(chat) and chat.has("tools"),
                    error(
                        400, "Function calling with a response mime type: 'application/json' is unsupported"
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="json in a fence of markdown",
        report="https://github.com/7836246/cursor2api/issues/34",
        server=Server(agent=Agent(tools="ignored"), changes=[_fenced]),
    ),
    Profile(
        name="blanks to the end of the limit",
        report="https://github.com/jundot/omlx/issues/2990",
        server=Server(changes=[_blanks]),
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
