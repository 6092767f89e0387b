"""What is told of the rounds that a model no longer sees as they were: their results, their searches, their steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage

from agentinfer_lg.compression.originals import Original, join_originals, split_results
from agentinfer_lg.compression.policy import fold_until
from agentinfer_lg.compression.view import Round
from agentinfer_lg.prompts import Prompts
from agentinfer_lg.text import clip

_FOLDED_TOKENS = 200


def stub_in(prompts: Prompts) -> Callable[[list[int]], str]:
    """Return what writes the stub of a distilled result from the numbers in it, in the language of `prompts`."""

    def stub(numbers: list[int]) -> str:
        marks = " ".join(f"[{number}]" for number in numbers)
        return prompts.in_notes.format(numbers=marks).strip()

    return stub


def originals_in(rounds: Sequence[Round]) -> list[Original]:
    """Return the results of rounds, each with all of its text, in the order of their numbers."""
    contents = [str(result.content) for round_ in rounds for result in round_.results]
    return join_originals(item for content in contents for item in split_results(content))


def searched(steps: Sequence[AIMessage]) -> list[str]:
    """Return what steps searched for, in order, each query once."""
    found = [
        query
        for step in steps
        for call in step.tool_calls
        if call["name"] == "web_search"
        for query in call["args"].get("queries", [])
    ]
    return list(dict.fromkeys(found))


def queries_made(messages: Sequence[AnyMessage]) -> list[str]:
    """Return what was searched for so far: by the steps, and by the follow-up queries in the artifacts of the results."""
    followed = [
        query
        for message in messages
        if isinstance(message, ToolMessage) and isinstance(message.artifact, dict)
        for query in message.artifact.get("leads", [])
    ]
    return [*searched([message for message in messages if isinstance(message, AIMessage)]), *followed]


def fold(rounds: Sequence[Round], prompts: Prompts, *, folded: str, limit: int) -> tuple[str, str]:
    """Leave out the oldest of the steps if they are longer than `limit`.

    Args:
        rounds: Those that the notes stand for.
        prompts: Of the agent's language.
        folded: Id of the last message left out so far, or empty.
        limit: Most tokens (estimated) of the steps.

    Returns:
        Id of the last message left out, and a sentence on what is left out; both empty if nothing is.
    """
    folded = fold_until(rounds, folded=folded, limit=limit)
    count = next((count for count, round_ in enumerate(rounds, start=1) if round_.last_id == folded), 0)
    if not count:
        return folded, ""
    queries = clip("; ".join(searched([round_.step for round_ in rounds[:count]])), tokens=_FOLDED_TOKENS)
    return folded, prompts.folded.format(count=count, queries=queries)
