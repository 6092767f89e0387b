"""Servers that refuse fields of a request, or values of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.stand_in.agent import Agent, silent_on
from support.stand_in.exchange import Chat, Http, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import pydantic_detail, refuses_field, refuses_if
from support.stand_in.server import MODEL, Server, lists

STANDARD = (
    "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stop", "response_format", "tools",
    "tool_choice",
)  # fmt: skip


def _value_refused(name: str, value: str) -> Http:
    message = f"Unsupported value: '{name}' does not support {value} with this model. Only the default (1) value is supported."
    return error(400, message, param=name, code="unsupported_value")


_NO_TEMPERATURE = refuses_if(
    lambda chat: chat.body.get("temperature", 1) != 1, _value_refused("temperature", "0.0")
)
_NO_MAX_TOKENS = refuses_field(
    "max_tokens",
    error(
        400,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        param="max_tokens",
        code="unsupported_parameter",
    ),
)


def _asks_for_more_than(tokens: int) -> Callable[[Chat], bool]:
    return lambda chat: (chat.limit or 0) > tokens


def _both_limits(chat: Chat) -> bool:
    return chat.has("max_tokens") and chat.has("max_completion_tokens")


PROFILES = (
    Profile(
        name="temperature other than one refused",
        report="https://github.com/assafelovic/gpt-researcher/issues/1485",
        server=Server(checks=[_NO_TEMPERATURE]),
        doctor="temperature",
    ),
    Profile(
        name="max_tokens refused for max_completion_tokens",
        report="https://github.com/teilomillet/gollm/issues/33",
        server=Server(checks=[_NO_MAX_TOKENS]),
        doctor="max_completion_tokens",
        levels=(0, 600),
    ),
    Profile(
        name="temperature and max_tokens refused one after the other",
        report="https://github.com/BerriAI/litellm/issues/13432",
        server=Server(checks=[_NO_MAX_TOKENS, _NO_TEMPERATURE]),
        levels=(600, 0, 4000),
    ),
    Profile(
        name="max_completion_tokens forbidden",
        report="https://github.com/voideditor/void/issues/128",
        server=Server(checks=[pydantic_detail([*STANDARD])]),
    ),
    Profile(
        name="both limits together refused",
        report="https://github.com/langchain-ai/langgraph/issues/5943",
        server=Server(
            checks=[
                refuses_if(
                    _both_limits,
                    error(
                        400,
                        "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="temperature of zero refused",
        report="https://github.com/vibrantlabsai/ragas/issues/264",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: chat.body.get("temperature") == 0,
                    Http(
                        status=422,
                        body={
                            "error": "Input validation error: `temperature` must be strictly positive",
                            "error_type": "validation",
                        },
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="unknown fields forbidden by pydantic",
        report="https://github.com/mistralai/platform-docs-public/issues/7",
        server=Server(agent=Agent(silent=silent_on("template")), checks=[pydantic_detail(STANDARD)]),
        levels=(0, 600),
    ),
    Profile(
        name="hints of the session forbidden by a server that says it is vLLM",
        report="https://github.com/vllm-project/vllm/issues/12864",
        server=Server(
            models=lists(MODEL, owned_by="vllm", max_model_len=32768),
            checks=[pydantic_detail([*STANDARD, "structured_outputs", "max_completion_tokens"], status=400)],
        ),
    ),
    Profile(
        name="unknown argument named in a sentence",
        report="https://github.com/TutteInstitute/toponymy/pull/148",
        server=Server(
            checks=[
                refuses_field(name, error(400, f"Unrecognized request argument supplied: {name}"))
                for name in (
                    "chat_template_kwargs",
                    "vllm_xargs",
                    "structured_outputs",
                    "enable_thinking",
                    "thinking",
                    "reasoning_effort",
                )
            ]
        ),
        levels=(600, 0),
    ),
    Profile(
        name="unknown name in a list of errors",
        report="https://github.com/HELPMEEADICE/doge-code/issues/16",
        server=Server(
            checks=[
                refuses_field(
                    name,
                    Http(
                        status=400,
                        body=[
                            {
                                "error": {
                                    "code": 400,
                                    "message": f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.',
                                    "status": "INVALID_ARGUMENT",
                                }
                            }
                        ],
                    ),
                )
                for name in ("chat_template_kwargs", "enable_thinking", "thinking", "vllm_xargs")
            ]
        ),
        levels=(600, 0),
    ),
    Profile(
        name="stop refused",
        report="https://github.com/huggingface/smolagents/pull/1766",
        server=Server(checks=[refuses_field("stop")]),
    ),
    Profile(
        name="parallel_tool_calls refused",
        report="https://github.com/evalstate/fast-agent/issues/279",
        server=Server(checks=[refuses_field("parallel_tool_calls")]),
    ),
    Profile(
        name="stream_options refused",
        report="https://github.com/microsoft/semantic-kernel/issues/10510",
        server=Server(
            checks=[
                refuses_field(
                    "stream_options",
                    error(
                        422,
                        "Validation error at #/stream_options: Extra inputs are not permitted",
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="output limit above that of the model refused",
        report="https://github.com/RooCodeInc/Roo-Code/issues/5729",
        server=Server(
            checks=[
                refuses_if(
                    _asks_for_more_than(1024),
                    error(
                        400,
                        "`max_tokens` must be less than or equal to `1024`, the maximum value for `max_tokens` is less than "
                        "the `context_window` for this model",
                        param="max_tokens",
                    ),
                )
            ]
        ),
        levels=(0, 600),
    ),
    Profile(
        name="output limit below sixteen refused",
        report="https://github.com/vectorize-io/hindsight/issues/58",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: chat.limit is not None and chat.limit < 16,
                    error(
                        400,
                        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 1.",
                        param="max_output_tokens",
                        code="integer_below_min_value",
                    ),
                )
            ]
        ),
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
