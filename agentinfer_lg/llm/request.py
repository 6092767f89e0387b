"""What a model is asked, and how that is written for the server at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agentinfer_lg.llm.capabilities import Capabilities

THOUGHTS: Final = "reasoning_content"
"""Key under which an AI message keeps its thoughts, for servers that want them back."""

_NO_THOUGHTS: Final = "(not kept)"
_BRIDGE: Final = "Go on."
"""Said for the model between two messages of the user, where roles must alternate."""
_ID_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """What the output must look like: by `regex` where the server takes one, else by `schema`, else in words only."""

    schema: Mapping[str, object] | None = None
    """JSON schema of the whole output."""
    regex: str | None = None
    """Regular expression of the whole output; vLLM only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One request, before it is written for a server."""

    messages: Sequence[BaseMessage]
    max_tokens: int
    """Output tokens, those of thoughts included."""
    temperature: float | None = None
    """None: as the model's owner or its server has it."""
    guide: Guide | None = None
    tools: Sequence[Mapping[str, object]] = ()
    tool_choice: Literal["auto", "none"] = "auto"
    quiet: bool = False
    """Ask the model not to think."""
    streams: bool = False
    """Ask for a stream, also where the server is not known to need one."""
    xargs: Mapping[str, object] = field(default_factory=dict)
    """Session hints for vLLM."""
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the owner of the endpoint adds to the body; they win."""


def write_body(
    request: ModelRequest, known: Capabilities, *, model: str
) -> dict[str, Any]:  # Any: the body of an HTTP request
    """Return the body of a chat completion.

    Args:
        request: What is asked.
        known: What the server takes.
        model: Its name there.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": write_messages(request.messages, known, quiet=_switch(request, known)),
    }
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
    if known.streams_only or request.streams:
        body["stream"] = True
    return body | optional_fields(request, known) | dict(request.extra)


def optional_fields(request: ModelRequest, known: Capabilities) -> dict[str, Any]:
    """Return the fields of a request that a server may refuse, as far as it is not known to.

    Args:
        request: What is asked.
        known: What the server takes.
    """
    limit = request.max_tokens if known.most_output is None else min(request.max_tokens, known.most_output)
    optional: dict[str, Any] = {known.limit_name: limit}
    if request.temperature is not None:
        optional["temperature"] = request.temperature
    if request.tools:
        optional["tool_choice"] = request.tool_choice
    if known.streams_only or request.streams:
        optional["stream_options"] = {"include_usage": True}
    if request.guide is not None:
        optional |= _guide_fields(request.guide, known)
    if request.quiet:
        optional |= _quiet_fields(known)
    if request.xargs:
        optional["vllm_xargs"] = dict(request.xargs)
    return {key: value for key, value in optional.items() if known.sends(key)}


def encode(body: Mapping[str, Any]) -> bytes:
    """Return the bytes of a body; half characters become question marks."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def write_messages(
    messages: Sequence[BaseMessage], known: Capabilities, *, quiet: str = ""
) -> list[dict[str, Any]]:
    """Return `messages` in OpenAI's form, as the server at hand takes them.

    Args:
        messages: The whole prompt.
        known: What the server takes.
        quiet: Added to the last message of the user.
    """
    written = [_message(message, known) for message in messages]
    if known.tool_results == "text":
        written = [_without_tool_roles(item) for item in written]
    if known.system == "folded":
        written = _fold_system(written)
    if known.alternating:
        written = _alternate(written)
    if quiet and written and written[-1]["role"] == "user":
        written[-1] = {**written[-1], "content": f"{written[-1]['content']} {quiet}"}
    return written


def message_text(message: BaseMessage) -> str:
    """Return the text of a message; parts that are no text are left out."""
    content = message.content
    if isinstance(content, str):
        return content
    parts = [part if isinstance(part, str) else part.get("text", "") for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def _message(message: BaseMessage, known: Capabilities) -> dict[str, Any]:
    text = message_text(message)
    if isinstance(message, AIMessage):
        return _assistant(message, text, known)
    if isinstance(message, ToolMessage):
        return {"role": "tool", "tool_call_id": _call_id(message.tool_call_id, known), "content": text}
    if isinstance(message, SystemMessage):
        return {"role": "developer" if known.system == "developer" else "system", "content": text}
    return {"role": "user", "content": text}


def _assistant(message: AIMessage, text: str, known: Capabilities) -> dict[str, Any]:
    written: dict[str, Any] = {"role": "assistant", "content": text}
    if message.tool_calls:
        if not text:
            written["content"] = {"null": None, "empty": "", "space": " "}[known.empty_content]
        written["tool_calls"] = [
            {
                "id": _call_id(str(call["id"]), known),
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)},
            }
            for call in message.tool_calls
        ]
        if known.wants_thoughts:
            written[THOUGHTS] = str(message.additional_kwargs.get(THOUGHTS) or _NO_THOUGHTS)
    return written


def _call_id(identity: str, known: Capabilities) -> str:
    """Return the id of a tool call, in the form that the server takes."""
    if not known.short_ids:
        return identity
    number = int.from_bytes(sha256(identity.encode("utf-8", "replace")).digest()[:8])
    letters = []
    for _ in range(9):
        number, digit = divmod(number, len(_ID_LETTERS))
        letters.append(_ID_LETTERS[digit])
    return "".join(letters)


def _without_tool_roles(item: dict[str, Any]) -> dict[str, Any]:
    if item["role"] == "tool":
        return {"role": "user", "content": item["content"]}
    calls = item.get("tool_calls")
    if not calls:
        return item
    told = "\n".join(f"{call['function']['name']}({call['function']['arguments']})" for call in calls)
    return {"role": "assistant", "content": "\n".join(filter(None, ((item["content"] or "").strip(), told)))}


def _fold_system(written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Begin the first message of the user with what the system says."""
    said = [str(item["content"]) for item in written if item["role"] in ("system", "developer")]
    rest = [item for item in written if item["role"] not in ("system", "developer")]
    if not said:
        return rest
    if rest and rest[0]["role"] == "user":
        return [{"role": "user", "content": "\n\n".join([*said, str(rest[0]["content"])])}, *rest[1:]]
    return [{"role": "user", "content": "\n\n".join(said)}, *rest]


def _alternate(written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join neighbours of the same role; between a tool's result and the user the assistant speaks."""
    result: list[dict[str, Any]] = []
    for item in written:
        last = result[-1] if result else None
        if last is None:
            result.append(item)
        elif last["role"] == item["role"] and item["role"] in ("user", "system", "developer"):
            result[-1] = {**last, "content": f"{last['content']}\n\n{item['content']}"}
        elif last["role"] == item["role"] == "assistant" and not last.get("tool_calls"):
            result[-1] = {**item, "content": "\n\n".join(filter(None, (last["content"], item["content"])))}
        elif last["role"] == "tool" and item["role"] == "user":
            result += [{"role": "assistant", "content": _BRIDGE}, item]
        else:
            result.append(item)
    return result


def _guide_fields(guide: Guide, known: Capabilities) -> dict[str, Any]:
    if guide.regex is not None and known.guide == "regex":
        return {"structured_outputs": {"regex": guide.regex}}
    if guide.schema is None or known.guide == "none":
        return {}
    if known.guide == "object_schema":
        return {"response_format": {"type": "json_object", "schema": dict(guide.schema)}}
    if known.guide == "json_object":
        return {"response_format": {"type": "json_object"}}
    schema = {"name": "step", "schema": dict(guide.schema)}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _quiet_fields(known: Capabilities) -> dict[str, Any]:
    match known.quiet:
        case "template":
            # Each family has its own name for the switch; a template ignores those that it does not know.
            return {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
        case "effort":
            return {"reasoning_effort": "low"}
        case _:
            return {}


def _switch(request: ModelRequest, known: Capabilities) -> str:
    return "/no_think" if request.quiet and known.quiet == "switch" else ""


def rewrite_messages(messages: Sequence[BaseMessage], known: Capabilities) -> list[BaseMessage]:
    """Return `messages` for a LangChain chat model, which writes them itself.

    They are the same messages where nothing about their form was learned.
    """
    if (
        known.system == "system"
        and not known.alternating
        and known.tool_results == "tool"
        and not known.short_ids
    ):
        return list(messages)
    return [_as_langchain(item) for item in write_messages(messages, known)]


def _as_langchain(item: Mapping[str, Any]) -> BaseMessage:
    text = str(item["content"] or "")
    match item["role"]:
        case "assistant":
            calls = [
                {
                    "name": call["function"]["name"],
                    "args": json.loads(call["function"]["arguments"]),
                    "id": call["id"],
                    "type": "tool_call",
                }
                for call in item.get("tool_calls", ())
            ]
            return AIMessage(text, tool_calls=calls)
        case "tool":
            return ToolMessage(text, tool_call_id=item["tool_call_id"])
        case "system" | "developer":
            return SystemMessage(text)
        case _:
            return HumanMessage(text)
