"""What a perfect Progress Check would say of a step, from what only the benchmark knows.

A question of a benchmark with a chain (`closed_world`) names its evidence: the titles of the documents that have to be
found, in order, the last of which holds the answer. With it a step can be judged without a model. Open question of
AgentInfer (arXiv 2512.18337): what do wrong self-evaluations cost? To force errors at a rate one has to know what is
right.

The step is the last one of the transcript, as it stands there. It is progress when at least one of its actions can bring
the agent nearer to the answer:

- a search, when one of its queries names an evidence title that has not been shown yet (the next hop is one of them) and
  has not been made before;
- reading a result, when it is an evidence document and no earlier step read it;
- asking a question about a result, under the same condition, when the same was not asked before;
- recalling a result, when it is an evidence document and no earlier step recalled it;
- answering, when the last evidence document has been shown.

Everything else is none: repeats, drifts, other names, pages by their URL, a step without an action.

A query names a title when it has all its words that carry content (`text.content_terms`: case, width and plural make no
difference; a title of function words only has to be there as a whole); a title with Chinese characters when it contains
it, punctuation and spaces left out. A document has been shown when a line of a result began with its number and title;
titles that the search filter only listed have not. Queries are the same when `verifier.normalise_action` says so.

What code adds to a step is not judged, for the checker does not see it either: the first search of a session also asks
the question itself.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentinfer_lg.collab.verifier import normalise_action
from agentinfer_lg.compression.originals import split_results
from agentinfer_lg.llm.protocol import Action, parse_step, read_tool_call
from agentinfer_lg.text import clip, content_terms, word_runs

Message = Mapping[str, Any]  # Any: JSON of a chat message

_TITLE_TOKENS = 40
"""As much of a title as a result shows (`nodes.filter`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an agent has seen and done."""

    titles: Mapping[int, str] = field(default_factory=dict)
    """By the number of a result, its title if it is an evidence document, else empty."""
    asked: frozenset[str] = frozenset()
    """Queries, and questions about documents, as `normalise_action` writes them."""
    read: frozenset[int] = frozenset()
    """Numbers of results that a step wanted to read."""
    recalled: frozenset[int] = frozenset()

    def is_evidence(self, number: int) -> bool:
        """Whether the result of this number is an evidence document."""
        return bool(self.titles.get(number))


def seen_in(messages: Sequence[Message], evidence: Sequence[str], *, before: Seen | None = None) -> Seen:
    """Return what the transcript shows, added to what was known of the same session before.

    Context compression takes results and steps out of a transcript. Who gives what the session's earlier transcripts
    showed loses nothing; a number keeps the title that it was first seen with.

    Args:
        messages: Chat messages of a request, JSON steps or native tool calls.
        evidence: Titles of the documents that the answer needs, in order.
        before: From earlier transcripts of this session.
    """
    known = before or Seen()
    titles = dict(known.titles)
    asked, read, recalled = set(known.asked), set(known.read), set(known.recalled)
    shown = {f"{clip(title, tokens=_TITLE_TOKENS)}: ": title for title in evidence}
    for message in _after_first_step(messages):
        if message["role"] != "assistant":
            for result in split_results(_text(message)):
                line = f"{result.title}: {result.text}"
                found = (title for start, title in shown.items() if line.startswith(start))
                titles.setdefault(result.number, next(found, ""))
            continue
        for action in _actions(message):
            asked.update(_questions(action))
            read.update(_sources(action) if action.tool == "crawl" else ())
            recalled.update(_sources(action) if action.tool == "recall" else ())
    return Seen(titles=titles, asked=frozenset(asked), read=frozenset(read), recalled=frozenset(recalled))


def is_progress(messages: Sequence[Message], evidence: Sequence[str], *, before: Seen | None = None) -> bool:
    """Judge the last step of a transcript; the module says how.

    Args:
        messages: Chat messages of a Progress Check: the transcript, which ends with the step, and the instruction.
        evidence: Titles of the documents that the answer needs, in order.
        before: What earlier transcripts of this session showed (`seen_in`).
    """
    last = max((place for place, each in enumerate(messages) if each["role"] == "assistant"), default=None)
    if last is None:
        return False
    seen = seen_in(messages[:last], evidence, before=before)
    return any(_brings_nearer(action, seen, evidence) for action in _actions(messages[last]))


def names_title(query: str, title: str) -> bool:
    """Whether a query names a document."""
    squeezed = _squeezed(title)
    if any(is_cjk for _, is_cjk in word_runs(squeezed)) or not content_terms(title):
        return bool(squeezed) and squeezed in _squeezed(query)
    return content_terms(title) <= content_terms(query)


def _brings_nearer(action: Action, seen: Seen, evidence: Sequence[str]) -> bool:
    shown = set(seen.titles.values())
    match action.tool:
        case "web_search":
            missing = [title for title in evidence if title not in shown]
            queries = [query for query in action.arguments["queries"] if _query_key(query) not in seen.asked]
            return any(names_title(query, title) for query in queries for title in missing)
        case "crawl":
            return any(seen.is_evidence(number) and number not in seen.read for number in _sources(action))
        case "document_qa":
            (number,) = _sources(action)
            return (
                seen.is_evidence(number)
                and number not in seen.read
                and seen.asked.isdisjoint(_questions(action))
            )
        case "recall":
            return any(
                seen.is_evidence(number) and number not in seen.recalled for number in _sources(action)
            )
        case "finish" | "read_answer":
            return bool(evidence) and evidence[-1] in shown


def _after_first_step(messages: Sequence[Message]) -> Sequence[Message]:
    """Leave out instruction and task: what the planner wrote into it may look like results."""
    first = next((place for place, each in enumerate(messages) if each["role"] == "assistant"), len(messages))
    return messages[first:]


def _actions(message: Message) -> tuple[Action, ...]:
    calls = message.get("tool_calls") or ()
    if not calls:
        return parse_step(_text(message)).actions
    read = (_native_action(call["function"]) for call in calls)
    return tuple(action for action in read if action is not None)


def _native_action(function: Mapping[str, str]) -> Action | None:
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return None
    return read_tool_call(function["name"], arguments) if isinstance(arguments, dict) else None


def _sources(action: Action) -> list[int]:
    match action.tool:
        case "crawl":
            return list(action.arguments["sources"])
        case "document_qa":
            return [action.arguments["source"]]
        case "recall":
            return [action.arguments["ticket"]]
        case _:
            return []


def _questions(action: Action) -> set[str]:
    match action.tool:
        case "web_search":
            return {_query_key(query) for query in action.arguments["queries"]}
        case "document_qa":
            return {normalise_action(action.tool, action.arguments)}
        case _:
            return set()


def _query_key(query: str) -> str:
    return normalise_action("web_search", {"query": query})


def _squeezed(text: str) -> str:
    """Return only the letters and digits, plain and in lower case."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _text(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
