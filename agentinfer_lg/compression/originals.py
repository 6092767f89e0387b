"""What tools returned, by the numbers under which an agent knows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.text import clip, content_terms, idf_scores
from agentinfer_lg.tools import best_passages

_LINE = re.compile(r"^\[(\d{1,4})\] ", re.MULTILINE)
_MAX_TITLE = 200
_SEEN = tuple(text for prompts in PROMPTS.values() for text in (prompts.see_above, prompts.known_in_notes))
"""How the line of a result ends whose text is not shown again."""


@dataclass(frozen=True, slots=True)
class Original:
    """The text of one result, exactly as it was shown."""

    number: int
    """By which the agent cites it; also its ticket for `recall`."""
    title: str
    text: str


def split_results(text: str) -> list[Original]:
    """Split a tool message of the seeker, `[1] title: text` per result, into its results.

    Lines before the first number belong to none of them. Results without a text (`see above`) are left out.
    """
    starts = list(_LINE.finditer(text))
    ends = [*(match.start() for match in starts[1:]), len(text)]
    found = []
    # Not strict: a message without any result has no start, but the text has its end.
    for match, end in zip(starts, ends, strict=False):
        entry = text[match.end() : end].strip()
        title, separator, body = entry.partition(": ")
        is_seen = "\n" not in entry and entry.endswith(_SEEN)  # its title may contain a colon
        if separator and body.strip() and len(title) <= _MAX_TITLE and not is_seen:
            found.append(Original(int(match[1]), title, body.strip()))
    return found


def as_body(text: str) -> str:
    """Return a document's text so that none of its lines, such as those of a bibliography, looks like a result."""
    return _LINE.sub(lambda match: f" {match[0]}", text)


def join_originals(originals: Iterable[Original]) -> list[Original]:
    """Join the texts of results that were shown more than once, in the order of their numbers."""
    joined: dict[int, Original] = {}
    for original in originals:
        known = joined.get(original.number)
        if known is None:
            joined[original.number] = original
        elif original.text not in known.text:
            joined[original.number] = Original(known.number, known.title, f"{known.text}\n{original.text}")
    return [joined[number] for number in sorted(joined)]


def recalled(texts: Sequence[str], query: str, *, tokens: int) -> str:
    """Return an original as it was, or the slices that match `query` best if it is too long.

    Args:
        texts: Its parts, in order.
        query: What is looked for; without one, the beginning counts.
        tokens: Most tokens (estimated) of the result.
    """
    whole = "\n".join(texts)
    if estimate_tokens(whole) <= tokens:
        return whole
    if not query.strip():
        return clip(whole, tokens=tokens)
    return "\n".join(best_passages(whole, query, tokens=tokens))


def recall_text(originals: Sequence[Original], number: int, query: str, *, tokens: int) -> str:
    """Write what a recall of result `number` gives back: the result and, if another one matches `query` better, that too.

    A small model finds the words for what it misses more easily than the number of the result that has it.

    Args:
        originals: All that can be recalled, `number` among them.
        number: The result that was asked for.
        query: What is looked for.
        tokens: Most tokens (estimated) of the texts together.
    """
    named = next(original for original in originals if original.number == number)
    other = _better_match(originals, named, query)
    if other is None:
        return _entry(named, query, tokens)
    room = min(estimate_tokens(other.text), tokens // 2)
    return f"{_entry(named, query, tokens - room)}\n{_entry(other, query, room)}"


def _entry(original: Original, query: str, tokens: int) -> str:
    title = clip(original.title, tokens=40)
    return f"[{original.number}] {title}: {as_body(recalled([original.text], query, tokens=tokens))}"


def _better_match(originals: Sequence[Original], named: Original, query: str) -> Original | None:
    texts = [content_terms(f"{original.title} {original.text}") for original in originals]
    scores = idf_scores(texts, [content_terms(query)])
    best = max(range(len(originals)), key=lambda index: scores[index])
    better = scores[best] > scores[originals.index(named)]
    return originals[best] if better else None
