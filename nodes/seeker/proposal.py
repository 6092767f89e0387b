"""Proposal: the answer of a round, and whether it is accepted (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import AIMessage

from agentinfer_lg.llm.protocol import gives_answer
from agentinfer_lg.nodes.seeker.read_answer import Reading, is_unknown
from agentinfer_lg.prompts import PROMPTS, Prompts
from agentinfer_lg.report.support import supporting_sources
from agentinfer_lg.state import Observation, PendingCall, Proposal, SeekerState, Source

_MAX_REFUSALS = 2
"""Answers refused before the next one is taken as it is."""


@dataclass(frozen=True, slots=True)
class FollowedUp:
    """What was looked up for an answer."""

    queries: Sequence[str] = ()
    found: Sequence[Source] = ()


def propose(
    call: PendingCall, reading: Reading, state: SeekerState, followed_up: FollowedUp | None = None
) -> Observation:
    """Return the observation that accepts an answer, or says why not.

    Args:
        call: The `finish` that the transcript shows.
        reading: The answer and the sources that support it.
        state: With the step that answers as its last message.
        followed_up: What was looked up for it.
    """
    prompts, more = PROMPTS[state["language"]], followed_up or FollowedUp()
    reason = _objection(reading, prompts)
    accepted = not reason or _refused(state) >= _MAX_REFUSALS
    text = reading.answer if accepted else prompts.not_accepted.format(reason=reason)
    if more.queries and not accepted:
        text += "\n" + prompts.looked_up.format(queries="; ".join(more.queries))
    arguments = {"answer": reading.answer, "sources": reading.sources, "leads": list(more.queries)}
    # What an answer rests on is numbered first, so that no budget leaves it out.
    sources = sorted(more.found, key=lambda source: source["key"] not in reading.sources)
    return Observation(
        call={**call, "arguments": arguments}, text=text, sources=sources, ok=accepted, seconds=0.0
    )


def proposed(observations: Sequence[Observation]) -> Proposal:
    """Return the answer that a round proposes; an empty one is none."""
    for item in observations:
        if gives_answer(item["call"]["tool"]):
            arguments = item["call"]["arguments"]
            return Proposal(
                answer=str(arguments.get("answer", "")),
                sources=list(arguments.get("sources", [])),
                accepted=item["ok"],
            )
    return Proposal(answer="", sources=[], accepted=False)


def cited_sources(answer: str, named: Sequence[object], state: SeekerState) -> tuple[str, ...]:
    """Return the keys of the sources that a model named by number and that exist, else of those that support the answer."""
    numbers = state.get("numbers", [])
    keys = [numbers[n - 1] for n in named if isinstance(n, int) and 0 < n <= len(numbers)]
    return tuple(keys or supporting_sources(answer, state.get("sources", {}), numbers))


def _objection(reading: Reading, prompts: Prompts) -> str:
    if is_unknown(reading.answer):
        return prompts.not_found_in_passages
    return "" if reading.sources else prompts.not_supported


def _refused(state: SeekerState) -> int:
    """Return how many answers were refused before the one of this step."""
    return sum(
        gives_answer(call["name"])
        for message in state["messages"][:-1]
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    )
