"""Recall: originals of distilled results, for the model that asks for one and for the search that needs one.

Small models hardly ever ask: they state a detail of another result instead. So a search whose answer stands in a distilled
result, but not in the notes on it, brings that result back by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentinfer_lg.compression.lacking import lacking
from agentinfer_lg.compression.originals import Original, recall_text
from agentinfer_lg.context import Context
from agentinfer_lg.events import emit
from agentinfer_lg.llm.calling import recalls
from agentinfer_lg.nodes.seeker.compaction import hidden_numbers, visible_results
from agentinfer_lg.state import Observation, SeekerState


@dataclass(frozen=True, slots=True)
class Recalled:
    """A result that is shown again."""

    number: int
    text: str


def originals_of(state: SeekerState, numbers: Iterable[int]) -> list[Original]:
    """Return results by their numbers, in order; numbers that do not exist are left out."""
    keys, sources = state.get("numbers", []), state.get("sources", {})
    found = [(number, sources[keys[number - 1]]) for number in sorted(numbers) if 0 < number <= len(keys)]
    return [Original(number, each["title"], "\n".join(each["passages"])) for number, each in found]


async def auto_recall(
    observations: Sequence[Observation], state: SeekerState, context: Context
) -> Recalled | None:
    """Return the distilled result that a search of this round needs and the model does not see, if there is one.

    Args:
        observations: What the round brought.
        state: Before it is shown.
        context: Knobs of the run; the text gets at most half of `max_observation_tokens`.
    """
    if not (context.auto_recall and recalls(context)):
        return None
    hidden = [each for each in originals_of(state, hidden_numbers(state, context)) if each.text]
    if not hidden:
        return None
    brought = [text for item in observations for source in item["sources"] for text in source["passages"]]
    fresh = [text for text in brought if not any(text in original.text for original in hidden)]
    visible = "\n".join([visible_results(state, context), *fresh])
    found = await asyncio.to_thread(lacking, hidden, visible, _queries(observations))
    if found is None:
        return None
    original, query = found
    emit("recall", state["task"]["id"], turn=state.get("turn", 0), ticket=str(original.number), text=query)
    text = recall_text([original], original.number, query, tokens=context.max_observation_tokens // 2)
    return Recalled(original.number, text)


def _queries(observations: Sequence[Observation]) -> list[str]:
    return [
        query
        for item in observations
        if item["call"]["tool"] == "web_search"
        for query in item["call"]["arguments"].get("queries", [])
    ]
