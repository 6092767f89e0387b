"""What code alone can take out of a text: the sentences that matter for a question, and the exact strings in it.

The sentences stand in where a model failed to distil; the exact strings tell a model what it could recall.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from agentinfer_lg.compression.originals import Original
from agentinfer_lg.text import clip, content_terms, idf_scores, sentences
from agentinfer_lg.tokens import estimate_tokens

__all__ = ("exact_strings", "key_sentences")

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?"
)
_KINDS = (
    r"https?://[^\s<>\"')\]]+",
    r"[\w.+-]+@[\w-]+\.[\w.]+",
    rf"\d{{1,2}} {_MONTH} \d{{4}}|{_MONTH} \d{{1,2}}, \d{{4}}|\d{{4}}-\d{{2}}-\d{{2}}",
    r"\d{4}年(?:\d{1,2}月(?:\d{1,2}日)?)?",
    r"\b(?=[\w\-/.]*\d)(?=[\w\-/.]*[A-Z])[A-Z0-9][A-Za-z0-9]*(?:[\-/.][A-Za-z0-9]+)*\b",
    r"[$€£¥]\s?\d[\d,]*(?:\.\d+)?(?: (?:million|billion|thousand))?",
    r"\d[\d,]*(?:\.\d+)?\s?(?:%|percent|km|m|kg|mph|km/h|million|billion|人|元|米|公里|万|亿|岁|吨)(?![a-z])",
    r"《[^》]{1,40}》|“[^”]{2,40}”",
    r"\b\d[\d,]{2,}(?:\.\d+)?\b|\b\d+\.\d+\b",
    r"[A-Z][\w'’]+(?: (?:of|the|de|van|von|and|&) [A-Z][\w'’]+| [A-Z][\w'’.]+)+",
)
"""Kinds of exact strings, the ones that are hardest to remember first."""
_PATTERNS = tuple(re.compile(kind) for kind in _KINDS)
_MAX_DETAIL = 80
_MAX_SENTENCE_TOKENS = 80


def exact_strings(text: str, *, known: str = "", tokens: int) -> list[str]:
    """Return identifiers, links, dates, amounts and names of `text`, in order, as many as fit.

    Args:
        text: An original.
        known: What need not be told again.
        tokens: Most tokens (estimated) of all together; identifiers, links and dates go before plain numbers and names.
    """
    taken: dict[int, str] = {}
    covered: list[tuple[int, int]] = []
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.span()
            value = match[0].strip()
            if any(start < last and first < end for first, last in covered):
                continue
            covered.append((start, end))
            if len(value) > _MAX_DETAIL or value in known or value in taken.values():
                continue
            cost = estimate_tokens(value) + 1
            if cost > tokens:
                return [taken[position] for position in sorted(taken)]
            tokens -= cost
            taken[start] = value
    return [taken[position] for position in sorted(taken)]


def key_sentences(
    originals: Sequence[Original], queries: Sequence[str], *, tokens: int
) -> list[tuple[int, str]]:
    """Return the sentences that match the queries best, as `(number, sentence)` in the order of the originals.

    Args:
        originals: Where to look.
        queries: The question first; later ones weigh less.
        tokens: Most tokens (estimated) of all sentences together.
    """
    candidates = [
        (original.number, clip(sentence, tokens=_MAX_SENTENCE_TOKENS))
        for original in originals
        for sentence in sentences(original.text)
    ]
    terms = [content_terms(sentence) for _, sentence in candidates]
    matches = idf_scores(terms, [content_terms(query) for query in queries])
    # Over the root of the length: short and dense sentences first.
    scores = [match / math.sqrt(1 + len(own)) for match, own in zip(matches, terms, strict=True)]
    chosen: list[int] = []
    for index in sorted(range(len(candidates)), key=lambda i: (-scores[i], i)):
        cost = estimate_tokens(candidates[index][1]) + 4
        if cost <= tokens:
            chosen.append(index)
            tokens -= cost
    return [candidates[index] for index in sorted(chosen)]
