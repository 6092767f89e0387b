"""Result filter: which results of a round's searches are shown at all, decided on title and snippet before any is read.

A result whose title a query spells out passes in any case. Among the others the words that they share with the question and the
queries decide, or the small model does in one constrained call; where that fails or is slow, and where every search was made
before, it is the words again. What is pruned stays known by number and title: a tool call reads it by the one, a search finds
it by the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from langchain_core.messages import HumanMessage

from agentinfer_lg.compression.steps import queries_made
from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.events import emit
from agentinfer_lg.llm.calling import seeker_caller
from agentinfer_lg.llm.chat import Guide
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.nodes.seeker.budget import seconds_left
from agentinfer_lg.nodes.seeker.followup_queries import same_query
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import CallRecord, FilterRecord, Observation, SeekerState, Source
from agentinfer_lg.text import clip, content_terms, idf_scores, spelled_out

_SHOWN_TOKENS = 60
"""Tokens of a result that the filter sees."""
_FEWEST = 3
"""Results that pass at least, chosen by their words if the model names fewer."""
_MOST = 40
"""Results that the model chooses from."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What passed the filter."""

    observations: list[Observation]
    pruned: list[Source] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    records: list[FilterRecord] = field(default_factory=list)


async def choose_results(
    observations: Sequence[Observation], state: SeekerState, context: Context, resources: Resources
) -> Chosen:
    """Prune the search results of a round; other observations pass as they are."""
    found = _found(observations)
    if context.search_filter == "off" or len(found) <= context.search_keep:
        return Chosen(list(observations))
    calls: list[CallRecord] = []
    asked: list[int] = []
    failure = ""
    if context.search_filter == "model" and not _made_before(observations, state):
        asked, failure = await _ask(found[:_MOST], state, context, resources, calls)
    rank = _ranked(found, asked, observations, state, keep=context.search_keep)
    pruned = [source for source in found if source["key"] not in rank]
    record = FilterRecord(
        agent=state["task"]["id"],
        turn=state.get("turn", 0),
        method="model" if asked else "lexical",
        results=len(found),
        pruned=len(pruned),
        tokens_saved=sum(map(_tokens, pruned)),
    )
    _tell(record, found, failure)
    return Chosen([_pruned(item, rank) for item in observations], pruned, calls, [record])


def _ranked(
    found: Sequence[Source],
    asked: Sequence[int],
    observations: Sequence[Observation],
    state: SeekerState,
    *,
    keep: int,
) -> dict[str, int]:
    """Return the rank of each result that passes, by its key: those asked for by title, the model's choice, then by words."""
    by_words = _by_words(found, observations, state)
    named = _named(found, _queries(observations), state["task"]["question"])
    first = [index for index in by_words if index in named]
    order = list(dict.fromkeys([*first, *asked]))[:keep]
    fewest = min(_FEWEST, keep) if asked else keep  # a small model may name one and stop
    if len(order) < fewest:
        order += [index for index in by_words if index not in order][: fewest - len(order)]
    return {found[index]["key"]: position for position, index in enumerate(order)}


def _pruned(item: Observation, rank: Mapping[str, int]) -> Observation:
    """Return a search with the results that pass, best first; any other observation as it is."""
    if item["call"]["tool"] != "web_search":
        return item
    kept = [source for source in item["sources"] if source["key"] in rank]
    return {**item, "sources": sorted(kept, key=lambda source: rank[source["key"]])}


def _tell(record: FilterRecord, found: Sequence[Source], failure: str) -> None:
    tokens = sum(map(_tokens, found))
    emit(
        "filter",
        record["agent"],
        turn=record["turn"],
        results=record["results"] - record["pruned"],
        removed=record["pruned"],
        tokens_before=tokens,
        tokens_after=tokens - record["tokens_saved"],
        ok=not failure,
        text=failure,
    )


def read_choice(text: str, count: int) -> list[int]:
    """Return the positions that a reply such as `3, 1` names, best first; numbers that do not exist are left out."""
    numbers = [int(number) for number in re.findall(r"(?<!\d)\d{1,3}(?!\d)", text)]
    return list(dict.fromkeys(number - 1 for number in numbers if 0 < number <= count))


def _found(observations: Sequence[Observation]) -> list[Source]:
    found: dict[str, Source] = {}
    for item in observations:
        if item["call"]["tool"] == "web_search":
            for source in item["sources"]:
                found.setdefault(source["key"], source)
    return list(found.values())


async def _ask(
    found: Sequence[Source],
    state: SeekerState,
    context: Context,
    resources: Resources,
    calls: list[CallRecord],
) -> tuple[list[int], str]:
    """Return the model's choice, and why there is none."""
    lines = [
        f"{number}. {clip(' '.join([source['title'] + ':', *source['passages']]), tokens=_SHOWN_TOKENS)}"
        for number, source in enumerate(found, start=1)
    ]
    prompt = PROMPTS[state["language"]].choose.format(
        question=state["task"]["question"], results="\n".join(" ".join(line.split()) for line in lines)
    )
    number = "|".join(str(n) for n in range(1, len(found) + 1))
    tier: Tier = "large" if context.policy == "always-large" else "small"
    try:
        called = await seeker_caller(state, context, resources).call(
            tier,
            [HumanMessage(prompt)],
            role="filter",
            max_tokens=5 * context.search_keep,
            guide=Guide(regex=rf"({number})(, ({number})){{0,{context.search_keep - 1}}}"),
            timeout=min(context.filter_seconds, seconds_left(state)),
            fallback=False,
        )
    except EndpointError as error:
        return [], str(error)
    calls.append(called.record)
    order = read_choice(called.reply.text, len(found))
    return order, "" if order else "the model's choice could not be read"


def _named(found: Sequence[Source], queries: Sequence[str], question: str) -> set[int]:
    """Return the positions of the results that a query other than the task's question asks for by their whole title."""
    asked = [content_terms(query) for query in queries if not question.startswith(query)]
    titles = [content_terms(source["title"]) for source in found]
    return {index for index, title in enumerate(titles) if title and any(title <= query for query in asked)}


def _made_before(observations: Sequence[Observation], state: SeekerState) -> bool:
    """Whether every search of the round was made in an earlier one: its results were chosen from then."""
    made = queries_made(state["messages"][:-1])
    return all(any(same_query(query, other) for other in made) for query in _queries(observations))


def _queries(observations: Sequence[Observation]) -> list[str]:
    searches = [item["call"] for item in observations if item["call"]["tool"] == "web_search"]
    return [query for call in searches for query in call["arguments"].get("queries", [])]


def _by_words(found: Sequence[Source], observations: Sequence[Observation], state: SeekerState) -> list[int]:
    queries = [content_terms(query) for query in (state["task"]["question"], *_queries(observations))]
    texts = [content_terms(" ".join([source["title"], *source["passages"]])) for source in found]
    scores = [
        score * (1 + spelled_out(source["title"], queries))
        for score, source in zip(idf_scores(texts, queries), found, strict=True)
    ]
    return sorted(range(len(found)), key=lambda index: (-scores[index], index))


def _tokens(source: Source) -> int:
    return sum(map(estimate_tokens, source["passages"]))
