"""Looking up: one search for several queries, and what follow-up queries add to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentinfer_lg.compression.steps import queries_made
from agentinfer_lg.context import Context
from agentinfer_lg.errors import AgentInferError, ToolError
from agentinfer_lg.nodes.seeker.compaction import hidden_numbers
from agentinfer_lg.nodes.seeker.followup_queries import asks_nothing_new, followup_queries, same_query
from agentinfer_lg.report.sources import source_key
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import SeekerState, Source
from agentinfer_lg.tools import SearchProvider

_SEARCH_SECONDS = 60.0
_MOST_FOLLOWUPS = 2
"""Follow-up queries at a time."""
_RESULTS_PER_FOLLOWUP = 5
"""Results of a follow-up query that are read for an answer: it asks for one thing by its name."""


def source_of(uri: str, title: str, passages: list[str], *, read: bool) -> Source:
    """Return a source under its key."""
    return Source(key=source_key(uri), uri=uri, title=title, passages=passages, read=read)


async def look_up(search: SearchProvider, queries: Sequence[str], *, limit: int) -> list[Source]:
    """Search for all queries and return what was found: the best of each first, then the second best, and so on.

    Args:
        search: Where.
        queries: What for.
        limit: Results per query.

    Raises:
        ToolError: The search failed, or did not answer in time.
    """
    try:
        async with asyncio.timeout(_SEARCH_SECONDS):
            found = await search.search(list(queries), limit=limit)
    except TimeoutError:
        msg = f"The search did not answer within {_SEARCH_SECONDS:.0f} s."
        raise ToolError(msg) from None
    ranked: dict[str, Source] = {}
    # Round-robin over the queries: what is cut off later is then the tail of each, not the whole of the last one.
    for rank in range(max((len(hits) for hits in found), default=0)):
        for hits in found:
            if rank < len(hits):
                hit = hits[rank]
                passages = [hit.snippet] if hit.snippet else []
                ranked.setdefault(hit.uri, source_of(hit.uri, hit.title, passages, read=hit.complete))
    return list(ranked.values())


async def with_followups(
    state: SeekerState, context: Context, queries: list[str]
) -> tuple[list[str], list[str]]:
    """Return what a search is to search for, and which of it are follow-up queries: none unless it asks nothing new.

    Args:
        state: With the step that searches as its last message.
        context: Knobs of the run.
        queries: What the step asks for.
    """
    made = queries_made(state["messages"][:-1])
    if not context.leads or not asks_nothing_new(queries, made):
        return queries, []
    followed = await _suggested(state, [*made, *queries])
    if not followed:
        return queries, []
    # What notes stand for may be asked for again, to see it whole.
    again = bool(hidden_numbers(state, context))
    fresh = [query for query in queries if again or not any(same_query(query, other) for other in made)]
    return [*fresh, *followed], followed


async def look_up_followups(
    state: SeekerState, context: Context, resources: Resources
) -> tuple[list[Source], list[str]]:
    """Return what is found by what the results name and nobody searched for, and those queries.

    A search that fails finds nothing: there are results to read without it.
    """
    followed = await _suggested(state, queries_made(state["messages"])) if context.leads else []
    if not followed:
        return [], []
    try:
        found = await look_up(resources.search, followed, limit=_RESULTS_PER_FOLLOWUP)
    except AgentInferError:
        return [], []
    known = state.get("sources", {})
    fresh = [each for each in found if each["key"] not in known or not known[each["key"]]["passages"]]
    return [each for each in fresh if each["passages"]], followed


async def _suggested(state: SeekerState, made: Sequence[str]) -> list[str]:
    found = [source for source in state.get("sources", {}).values() if source["passages"]]
    suggested = await asyncio.to_thread(
        followup_queries,
        [text for source in found for text in source["passages"]],
        [source["title"] for source in found],
        state["task"]["question"],
        made,
        most=_MOST_FOLLOWUPS,
    )
    return [query.text for query in suggested]
