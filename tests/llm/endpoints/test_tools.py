"""Servers that call tools in ways of their own, or not at all."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.stand_in.agent import Agent
from support.stand_in.exchange import Change, Chat, Http, Json, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import contents, pydantic_detail, refuses_field, refuses_if, roles, tool_calls
from support.stand_in.server import MODEL, Server


def _each_call(change: Callable[[Json], None]) -> Change:
    def apply(chat: Chat, completion: Json) -> Json:
        for call in completion["choices"][0]["message"].get("tool_calls") or ():
            change(call)
        return completion

    return apply


def _message(change: Callable[[Json], None]) -> Change:
    def apply(chat: Chat, completion: Json) -> Json:
        change(completion["choices"][0]["message"])
        return completion

    return apply


def _without(name: str) -> Callable[[Json], None]:
    return lambda call: call.pop(name, None)


def _set(**values: Any) -> Callable[[Json], None]:
    return lambda item: item.update(values)


def _set_function(change: Callable[[Json], Json]) -> Callable[[Json], None]:
    return lambda call: call["function"].update(change(call["function"]))


def _written(form: Callable[[str, Json], str]) -> Server:
    return Server(agent=Agent(tool_form=form))


def _hermes(name: str, values: Json) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': values})}\n</tool_call>"


def _xml(name: str, values: Json) -> str:
    parameters = "".join(
        f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>\n"
        for key, value in values.items()
    )
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def _key_and_value(name: str, values: Json) -> str:
    pairs = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{value if isinstance(value, str) else json.dumps(value)}</arg_value>\n"
        for key, value in values.items()
    )
    return f"<tool_call>{name}\n{pairs}</tool_call>"


def _bracket(name: str, values: Json) -> str:
    return f"[TOOL_REQUEST]\n{json.dumps({'name': name, 'arguments': values})}\n[END_TOOL_REQUEST]"


def _tag(name: str, values: Json) -> str:
    return f"<|python_tag|>{json.dumps({'name': name, 'parameters': values})}<|eom_id|>"


def _python(name: str, values: Json) -> str:
    return f"[{name}({', '.join(f'{key}={value!r}' for key, value in values.items())})]"


def _section(name: str, values: Json) -> str:
    return (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>"
        f"{json.dumps(values)}<|tool_call_end|><|tool_calls_section_end|>"
    )


def _wide_bars(name: str, values: Json) -> str:
    return (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{json.dumps(values)}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    )


def _commentary(name: str, values: Json) -> str:
    return f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json.dumps(values)}<|call|>"


def _bare_json(name: str, values: Json) -> str:
    return json.dumps({"name": name, "parameters": values})


def _two_at_once(chat: Chat, completion: Json) -> Json:
    message = completion["choices"][0]["message"]
    for call in list(message.get("tool_calls") or ())[:1]:
        message["tool_calls"].append({**call, "id": f"{call['id']}_b"})
    return completion


def _finish(reason: str | None) -> Change:
    def apply(chat: Chat, completion: Json) -> Json:
        completion["choices"][0]["finish_reason"] = reason
        return completion

    return apply


def _cut_call(reason: str) -> Change:
    """Cut the calls of the first requests."""

    def apply(chat: Chat, completion: Json) -> Json:
        choice = completion["choices"][0]
        for call in choice["message"].get("tool_calls") or ():
            if chat.number < 3:
                call["function"]["arguments"] = call["function"]["arguments"][:14]
                choice["finish_reason"] = reason
        return completion

    return apply


def _signed(chat: Chat, completion: Json) -> Json:
    for call in completion["choices"][0]["message"].get("tool_calls") or ():
        call["extra_content"] = {"google": {"thought_signature": "c2lnbmF0dXJl"}}
    return completion


def _wants_signatures(chat: Chat) -> Http | None:
    if all((call.get("extra_content") or {}).get("google") for call in tool_calls(chat)):
        return None
    fault = {
        "error": {
            "code": 400,
            "message": "Function call is missing a thought_signature in functionCall parts. This is required for tools to work "
            "correctly, and missing thought_signature may lead to degraded model performance.",
            "status": "INVALID_ARGUMENT",
        }
    }
    return Http(status=400, body=[fault])


def _second_turn(chat: Chat) -> bool:
    return "tool" in roles(chat)


def _bad_id(chat: Chat) -> Http | None:
    for call in tool_calls(chat):
        if not re.fullmatch(r"[a-zA-Z0-9]{9}", str(call.get("id"))):
            message = f"Tool call id was {call.get('id')} but must be a-z, A-Z, 0-9, with a length of 9."
            body = {
                "object": "error",
                "message": message,
                "type": "invalid_function_call",
                "param": None,
                "code": "3280",
            }
            return Http(status=400, body=body)
    return None


def _assistant_contents(chat: Chat) -> list[object]:
    return [
        message.get("content", "missing") for message in chat.messages if message.get("role") == "assistant"
    ]


PROFILES = (
    Profile(
        name="no tools, refused with status 400",
        report="https://github.com/ollama/ollama/issues/13578",
        server=Server(
            checks=[
                refuses_field(
                    "tools",
                    error(
                        400, f"registry.ollama.ai/library/{MODEL} does not support tools", kind="api_error"
                    ),
                )
            ]
        ),
        doctor="tool",
        levels=(0, 600),
    ),
    Profile(
        name="no tools, refused with status 500",
        report="https://github.com/defilantech/LLMKube/issues/126",
        server=Server(
            checks=[
                refuses_field(
                    "tools",
                    Http(
                        status=500,
                        body={
                            "error": {
                                "code": 500,
                                "message": "tools param requires --jinja flag",
                                "type": "server_error",
                            }
                        },
                    ),
                )
            ]
        ),
        doctor="tool",
    ),
    Profile(
        name="no tools, refused with status 404",
        report="https://github.com/evalstate/fast-agent/issues/122",
        server=Server(
            checks=[
                refuses_field(
                    "tools",
                    Http(
                        status=404,
                        body={
                            "error": {
                                "message": "No endpoints found that support tool use. To learn more about provider routing, "
                                "visit the documentation.",
                                "code": 404,
                            }
                        },
                    ),
                )
            ]
        ),
        doctor="tool",
    ),
    Profile(
        name="tools only with flags of the server",
        report="https://github.com/langchain4j/langchain4j/issues/3475",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: chat.body.get("tool_choice") == "auto" or chat.has("tools"),
                    Http(
                        status=400,
                        body={
                            "object": "error",
                            "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
                            "type": "BadRequestError",
                            "param": None,
                            "code": 400,
                        },
                    ),
                )
            ]
        ),
        doctor="tool",
    ),
    Profile(
        name="tool_choice without a provider",
        report="https://github.com/zed-industries/zed/issues/36094",
        server=Server(
            checks=[
                refuses_field(
                    "tool_choice",
                    Http(
                        status=404,
                        body={
                            "error": {
                                "message": "No endpoints found that support the provided 'tool_choice' value.",
                                "code": 404,
                            }
                        },
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="tools forbidden by pydantic",
        report="https://github.com/partITech/php-mistral/issues/76",
        server=Server(
            checks=[
                pydantic_detail(
                    ["model", "messages", "temperature", "max_tokens", "stream", "response_format"]
                )
            ]
        ),
        doctor="tool",
    ),
    Profile(
        name="tools ignored",
        report="https://github.com/ggml-org/llama.cpp/issues/22581",
        server=Server(agent=Agent(tools="ignored")),
        doctor="tool",
        levels=(0, 600),
    ),
    Profile(
        name="calls as text in tool_call tags",
        report="https://github.com/vllm-project/vllm/issues/17161",
        server=_written(_hermes),
        levels=(0, 600),
    ),
    Profile(
        name="calls as text in function tags",
        report="https://github.com/mudler/LocalAI/pull/10346",
        server=_written(_xml),
    ),
    Profile(
        name="calls as text in keys and values",
        report="https://github.com/NousResearch/hermes-agent/pull/35129",
        server=_written(_key_and_value),
    ),
    Profile(
        name="calls as text in a TOOL_REQUEST",
        report="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/456",
        server=_written(_bracket),
    ),
    Profile(
        name="calls as text after a python tag",
        report="https://github.com/vllm-project/vllm/issues/16214",
        server=_written(_tag),
    ),
    Profile(
        name="calls as text in the form of python",
        report="https://github.com/vllm-project/vllm/issues/22917",
        server=_written(_python),
    ),
    Profile(
        name="calls as text in a section",
        report="https://github.com/NousResearch/hermes-agent/pull/35129",
        server=_written(_section),
    ),
    Profile(
        name="calls as text between wide bars",
        report="https://github.com/sgl-project/sglang/issues/4379",
        server=_written(_wide_bars),
    ),
    Profile(
        name="calls as text in a commentary channel",
        report="https://github.com/vllm-project/vllm/pull/42454",
        server=_written(_commentary),
    ),
    Profile(
        name="calls as text in bare json",
        report="https://github.com/vllm-project/vllm/issues/28219",
        server=_written(_bare_json),
    ),
    Profile(
        name="the call failed to be generated",
        report="https://github.com/groq/groq-typescript/issues/28",
        server=Server(
            checks=[
                refuses_field(
                    "tools",
                    error(
                        400,
                        "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details.",
                        code="tool_use_failed",
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="the call could not be parsed by the server",
        report="https://github.com/lemonade-sdk/lemonade/issues/1562",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: chat.has("tools"),
                    Http(
                        status=500,
                        body={
                            "error": {
                                "code": 500,
                                "message": "Failed to parse input at pos 94: ; {}",
                                "type": "server_error",
                            }
                        },
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="the second turn fails in the chat template",
        report="https://github.com/zed-industries/zed/issues/45379",
        server=Server(
            checks=[
                refuses_if(
                    _second_turn,
                    Http(
                        status=500,
                        body={"error": 'Error rendering prompt with jinja template: "Unknown operator"'},
                    ),
                )
            ]
        ),
        extra_calls=2,
    ),
    Profile(
        name="ids of nine alphanumerics demanded",
        report="https://github.com/karthink/gptel/issues/1203",
        server=Server(checks=[_bad_id]),
        levels=(0, 600),
    ),
    Profile(
        name="the role tool is unknown",
        report="https://github.com/huggingface/text-generation-inference/issues/3198",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: "tool" in roles(chat),
                    Http(
                        status=422,
                        body={"error": "Template error: unknown role: tool", "error_type": "template_error"},
                    ),
                )
            ]
        ),
        extra_calls=2,
    ),
    Profile(
        name="several calls in one message refused",
        report="https://github.com/vllm-project/vllm/pull/12938",
        server=Server(
            changes=[_two_at_once],
            checks=[
                refuses_if(
                    lambda chat: any(len(message.get("tool_calls") or ()) > 1 for message in chat.messages),
                    error(400, "This model only supports single tool-calls at once!", kind="BadRequestError"),
                )
            ],
        ),
        extra_calls=2,
    ),
    Profile(
        name="content of null refused beside calls",
        report="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/261",
        server=Server(
            changes=[
                _message(lambda message: message.update(content=None) if message.get("tool_calls") else None)
            ],
            checks=[
                refuses_if(
                    lambda chat: None in contents(chat),
                    Http(
                        status=400,
                        body={
                            "error": "Invalid 'content': 'content' field must be a string or an array of objects."
                        },
                    ),
                )
            ],
        ),
    ),
    Profile(
        name="empty content refused beside calls",
        report="https://github.com/vercel/ai/pull/13505",
        server=Server(
            changes=[
                _message(lambda message: message.update(content="") if message.get("tool_calls") else None)
            ],
            checks=[
                refuses_if(
                    lambda chat: "" in contents(chat),
                    error(400, "The text field in the ContentBlock object at messages.1.content.0 is blank."),
                )
            ],
        ),
    ),
    Profile(
        name="content demanded in every message",
        report="https://github.com/jekalmin/extended_openai_conversation/pull/456",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: "missing" in _assistant_contents(chat),
                    error(400, "Missing required parameter: 'messages[2].content'."),
                )
            ]
        ),
    ),
    Profile(
        name="content must be a string",
        report="https://github.com/BerriAI/litellm/issues/6642",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: any(not isinstance(content, str | None) for content in contents(chat)),
                    error(422, "messages[0]: invalid type: sequence, expected a string"),
                )
            ]
        ),
    ),
    Profile(
        name="the name demanded in a tool result",
        report="https://github.com/ollama/ollama/issues/14214",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: any(m.get("role") == "tool" and not m.get("name") for m in chat.messages),
                    Http(
                        status=400,
                        body=[
                            {
                                "error": {
                                    "code": 400,
                                    "message": "GenerateContentRequest.contents[2].parts[0].function_response.name: Name cannot "
                                    "be empty.",
                                    "status": "INVALID_ARGUMENT",
                                }
                            }
                        ],
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="the name forbidden in a tool result",
        report="https://github.com/nomtek/mistralai_client_dart/issues/44",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: any("name" in message for message in chat.messages),
                    Http(
                        status=422,
                        body={
                            "object": "error",
                            "message": {
                                "detail": [
                                    {
                                        "type": "extra_forbidden",
                                        "loc": ["body", "messages", 3, "tool", "name"],
                                        "msg": "Extra inputs are not permitted",
                                    }
                                ]
                            },
                        },
                    ),
                )
            ]
        ),
    ),
    Profile(
        name="signatures of calls wanted back",
        report="https://github.com/securo-finance/securo/issues/884",
        server=Server(changes=[_signed], checks=[_wants_signatures]),
        extra_calls=2,
    ),
    Profile(
        name="arguments are an object",
        report="https://github.com/ggml-org/llama.cpp/issues/20198",
        server=Server(
            changes=[
                _each_call(_set_function(lambda function: {"arguments": json.loads(function["arguments"])}))
            ]
        ),
    ),
    Profile(
        name="arguments are a string of a string",
        report="https://github.com/openclaw/openclaw/pull/40425",
        server=Server(
            changes=[
                _each_call(_set_function(lambda function: {"arguments": json.dumps(function["arguments"])}))
            ]
        ),
    ),
    Profile(
        name="arguments are an empty object",
        report="https://github.com/567-labs/instructor/pull/2362",
        server=Server(changes=[_each_call(_set_function(lambda function: {"arguments": "{}"}))]),
        extra_calls=4,
    ),
    Profile(
        name="names of tools with a prefix",
        report="https://github.com/vllm-project/vllm/pull/42454",
        server=Server(
            changes=[_each_call(_set_function(lambda function: {"name": f"functions.{function['name']}"}))]
        ),
    ),
    Profile(
        name="names of tools with a channel after them",
        report="https://github.com/vllm-project/vllm/issues/32587",
        server=Server(
            changes=[
                _each_call(
                    _set_function(lambda function: {"name": f"{function['name']}<|channel|>commentary"})
                )
            ]
        ),
    ),
    Profile(
        name="calls without ids",
        report="https://github.com/ggml-org/llama.cpp/issues/11992",
        server=Server(changes=[_each_call(_without("id"))]),
    ),
    Profile(
        name="calls with empty ids",
        report="https://github.com/vercel/ai/pull/19091",
        server=Server(changes=[_each_call(_set(id=""))]),
    ),
    Profile(
        name="all calls with the same id",
        report="https://github.com/openclaw/openclaw/pull/47136",
        server=Server(changes=[_each_call(_set(id="call_0"))]),
    ),
    Profile(
        name="calls without a type",
        report="https://github.com/iOfficeAI/aionrs/pull/99",
        server=Server(changes=[_each_call(_without("type"))]),
    ),
    Profile(
        name="an empty list of calls beside a text",
        report="https://github.com/Gitlawb/openclaude/pull/380",
        server=Server(changes=[_message(lambda message: message.setdefault("tool_calls", []))]),
    ),
    Profile(
        name="calls that finish with stop",
        report="https://github.com/anomalyco/opencode/issues/14972",
        server=Server(changes=[_finish("stop")]),
    ),
    Profile(
        name="calls cut by the limit",
        report="https://github.com/ahwurm/localharness/issues/77",
        server=Server(changes=[_cut_call("length")]),
        extra_calls=3,
    ),
    Profile(
        name="calls cut by the limit that finish as if whole",
        report="https://github.com/MiaAI-Lab/DeepSeek-v4-Flash-DSpark-2x-DGX-Spark/issues/55",
        server=Server(changes=[_cut_call("tool_calls")]),
        extra_calls=3,
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
