"""Which passages to show, and what of them, when one answer is to be read from many sources (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentinfer_lg.compression.extract import key_sentences
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.state import Source
from agentinfer_lg.text import clip, content_terms, idf_scores, spelled_out

Passage = tuple[int, str, str]
"""Number of its source, title, text."""
_CANDIDATES = 4
"""Passages that are shortened, sentence by sentence: so many times what can be shown."""


def select_passages(
    sources: Mapping[str, Source],
    numbers: Sequence[str],
    queries: Sequence[str],
    *,
    tokens: int,
    each: int = 0,
) -> list[Passage]:
    """Choose the passages that match the queries best.

    Args:
        sources: Registry of sources.
        numbers: Keys in the order of their numbers.
        queries: The question first, then what was searched or thought; later ones weigh less.
        tokens: Most tokens (estimated) of all passages together.
        each: Most tokens of one passage: of a longer one its sentences that match best are shown, in order; 0: all of it.

    Returns:
        Best source first: small models read what comes first. At least one if there is any.
    """
    passages = [
        (number, sources[key]["title"], text)
        for number, key in enumerate(numbers, start=1)
        if key in sources
        for text in sources[key]["passages"]
    ]
    ranked = _ranked(passages, queries)
    if each:
        candidates = ranked[: _CANDIDATES * tokens // each]
        shortened = [(number, title, _shortened(text, queries, each)) for number, title, text in candidates]
        ranked = _ranked(shortened, queries)
    return _fitting(ranked, tokens)


def _ranked(passages: Sequence[Passage], queries: Sequence[str]) -> list[Passage]:
    terms = [content_terms(f"{title} {text}") for _, title, text in passages]
    asked = [content_terms(query) for query in queries]
    scores = [
        score * (1 + spelled_out(title, asked))
        for score, (_, title, _) in zip(idf_scores(terms, asked), passages, strict=True)
    ]
    return [passages[index] for index in sorted(range(len(passages)), key=lambda i: (-scores[i], i))]


def _fitting(ranked: Sequence[Passage], tokens: int) -> list[Passage]:
    chosen: list[Passage] = []
    for passage in ranked:
        cost = estimate_tokens(passage[2]) + estimate_tokens(passage[1])
        if chosen and cost > tokens:
            continue
        chosen.append(passage)
        tokens -= cost
    return chosen


def _shortened(text: str, queries: Sequence[str], tokens: int) -> str:
    if estimate_tokens(text) <= tokens:
        return text
    kept = key_sentences([Original(1, "", text)], queries, tokens=tokens)
    return " … ".join(sentence for _, sentence in kept) or clip(text, tokens=tokens)
