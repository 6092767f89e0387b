"""Which passages to show, and what of them, when one answer is to be read from many sources (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentinfer_lg.compression.extract import key_sentences
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.state import Source
from agentinfer_lg.text import clip, content_terms, idf_scores
from agentinfer_lg.tokens import estimate_tokens

__all__ = ("select_passages", "shorten_passages")


def select_passages(
    sources: Mapping[str, Source], numbers: Sequence[str], queries: Sequence[str], *, tokens: int
) -> list[tuple[int, str, str]]:
    """Choose the passages that match the queries best.

    Args:
        sources: Registry of sources.
        numbers: Keys in the order of their numbers.
        queries: The question first, then what was searched or thought; later ones weigh less.
        tokens: Most tokens (estimated) of all passages together.

    Returns:
        `(number, title, text)`, best source first: small models read what comes first. At least one if there is any.
    """
    passages = [
        (number, sources[key]["title"], text)
        for number, key in enumerate(numbers, start=1)
        if key in sources
        for text in sources[key]["passages"]
    ]
    if not passages:
        return []
    terms = [content_terms(f"{title} {text}") for _, title, text in passages]
    scores = idf_scores(terms, [content_terms(query) for query in queries])
    chosen: list[tuple[int, str, str]] = []
    left = tokens
    for index in sorted(range(len(passages)), key=lambda i: (-scores[i], i)):
        cost = estimate_tokens(passages[index][2]) + estimate_tokens(passages[index][1])
        if chosen and cost > left:
            continue
        chosen.append(passages[index])
        left -= cost
    return chosen


def shorten_passages(
    passages: Sequence[tuple[int, str, str]], queries: Sequence[str], *, tokens: int
) -> list[tuple[int, str, str]]:
    """Return passages of which none is much longer than `tokens`: of a longer one its sentences that match best, in order.

    Args:
        passages: `(number, title, text)`.
        queries: The question first, then what was searched; later ones weigh less.
        tokens: Most tokens (estimated) of a text; a text of one sentence is cut.
    """
    return [(number, title, _shortened(text, queries, tokens)) for number, title, text in passages]


def _shortened(text: str, queries: Sequence[str], tokens: int) -> str:
    if estimate_tokens(text) <= tokens:
        return text
    kept = key_sentences([Original(1, "", text)], queries, tokens=tokens)
    return " … ".join(sentence for _, sentence in kept) or clip(text, tokens=tokens)
