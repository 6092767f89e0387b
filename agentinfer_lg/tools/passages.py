"""Passages: parts of a document that are short enough to rank and to show to a model."""

from __future__ import annotations

import math
import re
from collections import Counter

from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.text import clip, content_terms, sentence_spans, terms

_PARAGRAPH_END = re.compile(r"\n[ \t]*+\n\s*+")
_K1, _B = 1.2, 0.75  # the usual constants of BM25


def split_passages(text: str, *, size: int = 1000) -> list[str]:
    """Cut `text` at borders of paragraphs or sentences.

    Args:
        text: Plain text or markdown.
        size: Most characters of a passage; only a longer sentence is cut inside.

    Returns:
        Passages without the white space around them, in order, none empty.
    """
    return [part for start, end in passage_spans(text, size=size) if (part := text[start:end].strip())]


def passage_spans(text: str, *, size: int = 1000) -> list[tuple[int, int]]:
    """Like `split_passages`, as `(start, end)`; the spans cover the text without gaps."""
    size = max(1, size)
    spans: list[tuple[int, int]] = []
    for start, end in _units(text, size):
        if spans and end - spans[-1][0] <= size:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _units(text: str, size: int) -> list[tuple[int, int]]:
    """Paragraphs; sentences of the paragraphs that are too long; pieces of the sentences that are too long."""
    units: list[tuple[int, int]] = []
    start = 0
    ends = [match.end() for match in _PARAGRAPH_END.finditer(text)]
    for end in [*ends, len(text)]:
        if end - start <= size:
            units += [(start, end)] if end > start else []
        else:
            for first, last in sentence_spans(text[start:end]):
                units += _pieces(text, start + first, start + last, size)
        start = end
    return units


def _pieces(text: str, start: int, end: int, size: int) -> list[tuple[int, int]]:
    pieces = []
    while end - start > size:
        space = text.rfind(" ", start + size // 2, start + size)
        cut = space + 1 if space >= 0 else start + size
        pieces.append((start, cut))
        start = cut
    pieces.append((start, end))
    return pieces


def best_passages(text: str, query: str, *, tokens: int) -> list[str]:
    """Choose the passages of `text` that match `query` best (BM25 within the document).

    Args:
        text: The document.
        query: What is asked.
        tokens: Most tokens of all passages together, by `estimate_tokens`.

    Returns:
        Passages in the order of the document. The head of the document where nothing matches; nothing for an empty
        document or budget.
    """
    if tokens <= 0 or not text.strip():
        return []
    if estimate_tokens(text) <= tokens:
        return split_passages(text)
    passages = split_passages(text, size=max(200, min(1000, 2 * tokens)))
    scores = _bm25(passages, content_terms(query) or set(terms(query)))
    chosen: dict[int, str] = {}
    left = tokens
    for index in sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: -scores[i]):
        cost = estimate_tokens(passages[index])
        if cost <= left:
            chosen[index] = passages[index]
            left -= cost
        elif not chosen:
            chosen[index] = clip(passages[index], tokens=left)
            break
    if not chosen:
        head = clip(text.strip(), tokens=tokens)
        return [head] if head else []
    return [chosen[index] for index in sorted(chosen)]


def _bm25(passages: list[str], query: set[str]) -> list[float]:
    counts = [Counter(terms(passage)) for passage in passages]
    lengths = [max(1, count.total()) for count in counts]
    mean = sum(lengths) / max(1, len(lengths))
    scores = [0.0] * len(passages)
    for term in sorted(query):  # sorted: the sum of floats must not depend on the hash seed
        holders = [i for i, count in enumerate(counts) if term in count]
        weight = math.log(1 + (len(passages) - len(holders) + 0.5) / (len(holders) + 0.5))
        for i in holders:
            frequency = counts[i][term]
            scores[i] += (
                weight * frequency * (_K1 + 1) / (frequency + _K1 * (1 - _B + _B * lengths[i] / mean))
            )
    return scores
