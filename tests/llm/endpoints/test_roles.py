"""Servers and chat templates that do not take every order of roles."""

from itertools import pairwise
from pathlib import Path

import pytest
from support.stand_in.exchange import Chat, Http, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import alternate, refuses_if, roles
from support.stand_in.server import Server


def _user_after_tool(chat: Chat) -> bool:
    order = roles(chat)
    return any(pair == ("tool", "user") for pair in pairwise(order))


def _same_twice(chat: Chat) -> bool:
    order = roles(chat)
    return any(left == right == "user" for left, right in pairwise(order))


def _late_system(chat: Chat) -> bool:
    return "system" in roles(chat)[1:]


PROFILES = (
    Profile(
        name="no system role",
        report="https://github.com/vllm-project/vllm/issues/2964",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: "system" in roles(chat),
                    error(400, "System role not supported", kind="BadRequestError", code=400),
                )
            ]
        ),
        levels=(0, 600),
    ),
    Profile(
        name="no system role, in the words of a template",
        report="https://github.com/sgl-project/sglang/issues/892",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: "system" in roles(chat),
                    Http(
                        status=500,
                        body="jinja2.exceptions.TemplateError: System role not supported",
                        content_type="text/plain",
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="system only at the beginning",
        report="https://github.com/vllm-project/vllm/pull/44505",
        server=Server(
            checks=[refuses_if(_late_system, error(400, "System message must be at the beginning."))],
        ),
    ),
    Profile(
        name="user and assistant take turns, no tools",
        report="https://github.com/charmbracelet/crush/issues/279",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: not alternate(chat),
                    error(
                        400,
                        "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...",
                        kind="BadRequestError",
                        code=400,
                    ),
                )
            ]
        ),
        extra_calls=2,
    ),
    Profile(
        name="user and assistant take turns, no system, no tools",
        report="https://github.com/huggingface/text-generation-inference/issues/3198",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: "system" in roles(chat) or not alternate(chat),
                    Http(
                        status=422,
                        body={
                            "error": "Template error: Conversation roles must alternate user/assistant/user/assistant/...",
                            "error_type": "template_error",
                        },
                    ),
                )
            ]
        ),
        extra_calls=2,
    ),
    Profile(
        name="two messages of the user in a row refused",
        report="https://github.com/charmbracelet/crush/issues/279",
        server=Server(
            checks=[
                refuses_if(
                    _same_twice,
                    error(
                        400, "Unexpected role 'user' after role 'user'", kind="invalid_request_message_order"
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="a user after a tool refused",
        report="https://github.com/BerriAI/litellm/issues/6323",
        server=Server(
            checks=[
                refuses_if(
                    _user_after_tool,
                    error(
                        400, "Unexpected role 'user' after role 'tool'", kind="invalid_request_message_order"
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="the last message must be of the user",
        report="https://github.com/0xPlaygrounds/rig/issues/708",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: roles(chat)[-1] == "assistant",
                    error(
                        400,
                        "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="a system message alone refused",
        report="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1586",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: "user" not in roles(chat),
                    error(400, "No user query found in messages.", kind="BadRequestError"),
                )
            ]
        ),
    ),
    Profile(
        name="developer instead of system",
        report="https://github.com/agno-agi/agno/issues/1621",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: "system" in roles(chat),
                    error(
                        400,
                        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                        param="messages[0].role",
                        code="unsupported_value",
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="developer unknown",
        report="https://github.com/langchain-ai/langchain/issues/28895",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: "developer" in roles(chat),
                    Http(
                        status=400,
                        body={
                            "error": {
                                "message": "developer is not one of ['system', 'assistant', 'user', 'function'] - "
                                "'messages.0.role'"
                            }
                        },
                    ),
                )
            ]
        ),
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
