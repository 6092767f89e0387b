"""Which passages to show when one answer is to be read from many sources (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentinfer_lg.state import Source
from agentinfer_lg.text import content_terms, idf_scores
from agentinfer_lg.tokens import estimate_tokens

__all__ = ("select_passages",)


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
