"""Try what the agent needs of a model, with the agent's own calls: what works here works in a run.

The conversation has the form of a seeker's: instructions, a task, a tool call, its result, and a step after it. Whatever the
server refuses on the way is handled, and remembered, as in a run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.chat import ChatTier, Guide, RefusedRequestError, Reply
from agentinfer_lg.llm.protocol import tool_definitions

_LONG_TEXT = "The quick brown fox jumps over the lazy dog near the quiet river bank. " * 24
"""Nearly 400 tokens: more than two blocks of 128 (vLLM on a CPU), so a repeat can hit the prefix cache."""
_SYSTEM = "You are a research assistant. You search documents with the tool web_search."
_TASK = "Call the tool web_search with the query: rivers of France"
_RESULT = "[1] Rivers of France: The Loire is the longest river of France, with 1,006 km."
_SCHEMA = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}
_TOOL_TOKENS = 96
_SHORT_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one check."""

    ok: bool
    detail: str
    """What was seen, in words."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What a model can do, each found out by a real call."""

    completion: Outcome
    tools: Outcome
    schema: Outcome
    regex: Outcome
    cached: Outcome


_NOT_TRIED = Outcome(ok=False, detail="not tried, since the completion failed")


async def check_up(tier: ChatTier) -> Checkup:
    """Try chat, tool calls over two turns, guided output and the report of cached tokens.

    A check that fails is told in its `Outcome`, not raised.
    """
    completion, first = await _completion(tier)
    if not completion.ok:
        return Checkup(
            completion=completion, tools=_NOT_TRIED, schema=_NOT_TRIED, regex=_NOT_TRIED, cached=_NOT_TRIED
        )
    return Checkup(
        completion=completion,
        tools=await _tools(tier),
        schema=await _schema(tier),
        regex=await _regex(tier),
        cached=await _cached(tier, first),
    )


async def _ask(
    tier: ChatTier,
    messages: Sequence[BaseMessage],
    *,
    tokens: int,
    guide: Guide | None = None,
    tools: bool = False,
) -> Reply:
    return await tier.call(
        messages,
        hints=SessionHints(session_id="doctor", final=True),
        max_tokens=tokens,
        temperature=None,
        guide=guide,
        tools=tool_definitions(recall=False) if tools else (),
        enough=bool,
    )


def _long_prompt() -> list[BaseMessage]:
    return [SystemMessage(_SYSTEM), HumanMessage(f"{_LONG_TEXT}\nSay hello.")]


async def _completion(tier: ChatTier) -> tuple[Outcome, Reply]:
    try:
        reply = await _ask(tier, _long_prompt(), tokens=_SHORT_TOKENS)
    except EndpointError as error:
        return Outcome(ok=False, detail=str(error).rstrip(".")), Reply()
    if reply.unreadable:
        return Outcome(
            ok=False, detail=f"it cannot be read: {reply.unreadable}", seconds=reply.seconds
        ), reply
    counted = f"{reply.usage.prompt_tokens} prompt tokens"
    return Outcome(ok=True, detail=counted, seconds=reply.seconds), reply


async def _tools(tier: ChatTier) -> Outcome:
    messages: list[BaseMessage] = [SystemMessage(_SYSTEM), HumanMessage(_TASK)]
    try:
        reply = await _ask(tier, messages, tokens=_TOOL_TOKENS, tools=True)
    except EndpointError as error:
        return Outcome(ok=False, detail=_plain(error))
    if not reply.tool_calls:
        return Outcome(
            ok=False, detail="accepted, but the model did not call the tool", seconds=reply.seconds
        )
    call = reply.tool_calls[0]
    step = AIMessage(
        "", tool_calls=[{"name": call.name, "args": call.arguments, "id": "doctor-0", "type": "tool_call"}]
    )
    second = [*messages, step, ToolMessage(_RESULT, tool_call_id="doctor-0")]
    try:
        await _ask(tier, second, tokens=_TOOL_TOKENS, tools=True)
        await _ask(
            tier,
            [*second, HumanMessage("Did this step help? Answer yes or no.")],
            tokens=_SHORT_TOKENS,
            tools=True,
        )
    except EndpointError as error:
        return Outcome(
            ok=False, detail=f"the model called the tool, but the turn after it failed: {_plain(error)}"
        )
    return Outcome(
        ok=True, detail="the model called the tool, and went on with its result", seconds=reply.seconds
    )


async def _schema(tier: ChatTier) -> Outcome:
    known = tier.known
    try:
        reply = await _ask(
            tier, [HumanMessage("Say hello.")], tokens=_SHORT_TOKENS, guide=Guide(schema=_SCHEMA)
        )
    except EndpointError as error:
        return Outcome(ok=False, detail=_plain(error))
    if known.capabilities.guide in ("none", "json_object"):
        refused = known.lessons.get("guide") or known.lessons.get("guide_json_object") or "it is refused"
        return Outcome(ok=False, detail=refused, seconds=reply.seconds)
    try:
        value = json.loads(reply.text)
    except ValueError:
        value = None
    obeyed = isinstance(value, dict) and value.get("color") in ("red", "blue")
    return Outcome(
        ok=obeyed, detail="obeyed" if obeyed else "accepted, but not obeyed", seconds=reply.seconds
    )


async def _regex(tier: ChatTier) -> Outcome:
    if tier.known.capabilities.guide != "regex":
        return Outcome(ok=False, detail="only vLLM takes them")
    try:
        reply = await _ask(
            tier, [HumanMessage("Say hello.")], tokens=_SHORT_TOKENS, guide=Guide(regex="(TRUE|FALSE)")
        )
    except EndpointError as error:
        return Outcome(ok=False, detail=_plain(error))
    obeyed = reply.text in ("TRUE", "FALSE")
    return Outcome(
        ok=obeyed, detail="obeyed" if obeyed else "accepted, but not obeyed", seconds=reply.seconds
    )


async def _cached(tier: ChatTier, first: Reply) -> Outcome:
    """Repeat the first prompt: vLLM reports cached tokens when told to, others when there are any."""
    try:
        reply = await _ask(tier, _long_prompt(), tokens=_SHORT_TOKENS)
    except EndpointError as error:
        return Outcome(ok=False, detail=_plain(error))
    if not (first.counts_cached or reply.counts_cached):
        return Outcome(ok=False, detail="the usage does not tell cached tokens", seconds=reply.seconds)
    told = f"{reply.usage.cached_tokens} tokens of a repeated prompt were cached"
    return Outcome(ok=True, detail=told, seconds=reply.seconds)


def _plain(error: EndpointError) -> str:
    text = str(error).rstrip(".")
    return (
        text.partition("refused the request: ")[2] or text if isinstance(error, RefusedRequestError) else text
    )
