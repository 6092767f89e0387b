"""Recall: the tool that gives back the original of a distilled result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, AnyMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool

from agentinfer_lg.compression.originals import recalled
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.text import detect_language

RECALL = "recall"
"""Name of the tool."""
_NUMBER = "agentinfer_result"
"""Key of the artifact that says of which result a recalled text is; 0: of none."""


def result_ids(messages: Sequence[AnyMessage], known: Sequence[str]) -> list[str]:
    """Return the ids of all results in the order of their numbers; a number once given is kept.

    Args:
        messages: The transcript. What the recall tool returned is no result of its own.
        known: Ids that have their numbers already.
    """
    ids = dict.fromkeys(known)
    ids |= {
        str(message.id): None
        for message in messages
        if isinstance(message, ToolMessage) and _recalled_number(message) is None
    }
    return list(ids)


def number_of(message: ToolMessage, ids: Sequence[str]) -> int | None:
    """Return the number of the result in `message`, None if it has none."""
    number = _recalled_number(message)
    if number is not None:
        return number or None
    return ids.index(str(message.id)) + 1 if str(message.id) in ids else None


def recall_tool(*, tokens: int) -> BaseTool:
    """Return the tool.

    Args:
        tokens: Most tokens (estimated) of one answer; of a longer result the slices that match the query best.
    """

    def recall(ticket: int, runtime: ToolRuntime[Any, Any], query: str = "") -> tuple[Any, dict[str, int]]:
        content = _original(runtime.state, ticket)
        if content is None:
            texts = PROMPTS[detect_language(query)]
            return texts.not_distilled.format(number=ticket), {_NUMBER: 0}
        if isinstance(content, str) and estimate_tokens(content) > tokens:
            content = recalled([content], query, tokens=tokens)
        return content, {_NUMBER: ticket}

    return StructuredTool.from_function(
        recall,
        name=RECALL,
        description="Get back the exact text of a result that is only in the notes, by its number; a query chooses the part.",
        response_format="content_and_artifact",
    )


def with_recalled(messages: Sequence[AnyMessage], again: Mapping[str, Mapping[str, Any]]) -> list[AnyMessage]:
    """Return `messages` as if the model had recalled a result after some of them.

    Args:
        messages: What the model is to see.
        again: By the id of a message: `number`, `query` and `text` of the result that follows it. It stays a tool's
            message: what a tool said must not speak for the user.
    """
    seen: list[AnyMessage] = []
    for message in messages:
        seen.append(message)
        if (result := again.get(str(message.id))) is not None:
            call_id, arguments = (
                f"recall-{message.id}",
                {"ticket": result["number"], "query": result["query"]},
            )
            call = ToolCall(name=RECALL, args=arguments, id=call_id, type="tool_call")
            seen.append(AIMessage("", tool_calls=[call], id=f"{call_id}-step"))
            artifact = {_NUMBER: result["number"]}
            seen.append(
                ToolMessage(result["text"], tool_call_id=call_id, name=RECALL, id=call_id, artifact=artifact)
            )
    return seen


def _original(state: Mapping[str, Any], number: int) -> Any:
    """Return the content of result `number` as the tool gave it, None if there is no such result."""
    ids = (state.get("agentinfer_distillation") or {}).get("results", [])
    if not 0 < number <= len(ids):
        return None
    return next((message.content for message in state["messages"] if message.id == ids[number - 1]), None)


def _recalled_number(message: ToolMessage) -> int | None:
    number = message.artifact.get(_NUMBER) if isinstance(message.artifact, Mapping) else None
    return number if isinstance(number, int) else None
