"""A session's transcript, written for a model in the form that it speaks.

The state keeps one canonical transcript: system, task, then per round an AI message with tool calls and their tool
messages. Both tiers read it, whatever form each of them speaks, and writing it is a pure function of the messages, so
a longer transcript always extends the text of a shorter one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from agentinfer_lg.compression.view import STUB
from agentinfer_lg.llm.protocol import Action, Step, as_tool_call
from agentinfer_lg.llm.request import THOUGHTS
from agentinfer_lg.prompts import Prompts

Mode = Literal["native", "json"]
"""Form in which a model calls tools."""

RAW = "agentinfer_raw"
"""Key under which an AI message keeps the JSON that the model wrote, so that it is replayed to the letter."""

_JSON_NAMES = {"web_search": "search", "crawl": "read", "document_qa": "ask", "finish": "answer"}


def step_message(step: Step, *, message_id: str, raw: str | None, thoughts: str = "") -> AIMessage:
    """Return the canonical message of a Think step.

    Args:
        message_id: Also the stem of the ids of its tool calls.
        raw: The JSON that the model wrote; None for native tool calls.
        thoughts: What led to the step, for a server that wants it given back; empty for every other.
    """
    calls = [
        {"name": name, "args": arguments, "id": f"{message_id}-{position}", "type": "tool_call"}
        for position, (name, arguments) in enumerate(map(as_tool_call, step.actions))
    ]
    extra = ({RAW: raw} if raw is not None else {}) | ({THOUGHTS: thoughts} if thoughts else {})
    return AIMessage(content=step.thought, tool_calls=calls, id=message_id, additional_kwargs=extra)


def write_transcript(
    messages: Sequence[AnyMessage], *, mode: Mode, prompts: Prompts, question: str
) -> list[BaseMessage]:
    """Return `messages` as the model is to see them.

    Args:
        mode: `native` keeps tool calls; `json` writes steps as JSON and results as user messages.
        question: The task, repeated after results in the JSON form: a small model follows what it read last.
    """
    system = prompts.seeker_native if mode == "native" else prompts.seeker_json
    if mode == "native":
        # RAW must not reach the wire: the text of a step is then its thought, as a native model would have written it.
        body = [_without_raw(message) for message in messages]
        return [SystemMessage(system), *_with_pending_results(body)]
    return [SystemMessage(system), *_as_json(messages, prompts.next_step.format(question=question))]


def _without_raw(message: AnyMessage) -> AnyMessage:
    if isinstance(message, AIMessage) and message.additional_kwargs:
        kept = {key: value for key, value in message.additional_kwargs.items() if key == THOUGHTS}
        return message.model_copy(update={"additional_kwargs": kept})
    return message


def _with_pending_results(messages: Sequence[AnyMessage]) -> list[BaseMessage]:
    """Add a placeholder after tool calls that have no result yet: strict servers refuse an open call before a question."""
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    result: list[BaseMessage] = []
    for message in messages:
        result.append(message)
        if isinstance(message, AIMessage):
            result.extend(
                ToolMessage("(pending)", tool_call_id=str(call["id"]))
                for call in message.tool_calls
                if call["id"] not in answered
            )
    return result


def _as_json(messages: Sequence[AnyMessage], next_step: str) -> list[BaseMessage]:
    result: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, AIMessage):
            result.append(AIMessage(str(message.additional_kwargs.get(RAW) or _step_json(message))))
        elif isinstance(message, ToolMessage):
            # Of a stub nothing is to be said any more, so the question is not repeated after it.
            suffix = "" if message.additional_kwargs.get(STUB) else f"\n{next_step}"
            text = str(message.content)
            if result and isinstance(result[-1], HumanMessage) and result[-1].name == "results":
                # Chat templates of small models want user and assistant to alternate: one message for all results.
                previous = str(result[-1].content).removesuffix(f"\n{next_step}")
                text = f"{previous}\n{text}"
                result.pop()
            result.append(HumanMessage(f"{text}{suffix}", name="results"))
        elif isinstance(message, HumanMessage) and result and isinstance(result[-1], HumanMessage):
            result.append(HumanMessage(f"{result.pop().content}\n\n{message.content}"))
        else:
            result.append(message)
    return [HumanMessage(m.content) if isinstance(m, HumanMessage) else m for m in result]


def _step_json(message: AIMessage) -> str:
    """Write a native step as the JSON that the protocol would have had."""
    step: dict[str, object] = {"thought": str(message.content)}
    if message.tool_calls:
        call = message.tool_calls[0]
        step["action"] = _JSON_NAMES.get(call["name"], call["name"])
        step |= _json_arguments(Action(tool=call["name"], arguments=call["args"]))  # type: ignore[arg-type]
    return json.dumps(step, ensure_ascii=False)


def _json_arguments(action: Action) -> dict[str, object]:
    arguments = action.arguments
    match action.tool:
        case "web_search":
            return {"query": "; ".join(arguments["queries"])}
        case "crawl":
            return (
                {"source": arguments["sources"][0]} if arguments["sources"] else {"url": arguments["urls"][0]}
            )
        case "document_qa":
            return {"source": arguments["source"], "question": arguments["question"]}
        case "recall":
            return {"source": arguments["ticket"], "about": arguments["query"]}
        case _:
            return {}
