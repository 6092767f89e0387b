"""What code alone can take out of a text: the sentences that matter for a question, and the exact strings in it.

The sentences stand in where a model failed to distill; the exact strings tell a model what it could recall.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from agentinfer_lg.compression.originals import Original
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.text import clip, content_terms, idf_scores, sentences

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?"
)
_CAPITAL = "A-ZÀ-ÖØ-ÞĆČĐĞİŁŃŌŘŚŞŠŪŹŻŽ"
_LETTER = "A-Za-zÀ-ÖØ-öø-ɏ"
_OF = r"(?: (?:of|the|de|la|van|der|von|and|&)){1,2}"
_NAME = rf"[{_CAPITAL}][{_LETTER}'’\-]++"
_AMOUNT = r"(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)(?:\.\d++)?+"
_KINDS = (
    r"https?://[^\s<>\"')\]，。；、）】》」]*[^\s<>\"')\]，。；、）】》」.,:;!?]",
    r"(?<![A-Za-z0-9.+_-])[A-Za-z0-9.+_-]{1,64}+@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++",
    rf"(?<!\d)\d{{1,2}} {_MONTH} \d{{4}}(?!\d)|{_MONTH} \d{{1,2}}, \d{{4}}(?!\d)|(?<!\d)\d{{4}}-\d{{2}}-\d{{2}}(?!\d)",
    r"(?<!\d)\d{4}年(?:\d{1,2}月(?:\d{1,2}日)?)?",
    r"(?<![A-Za-z0-9\-/.])[A-Za-z0-9]++(?:[\-/.][A-Za-z0-9]++)*+",
    rf"[$€£¥]\s?{_AMOUNT}(?: (?:million|billion|thousand))?",
    rf"(?<!\d)(?<!\d[.,]){_AMOUNT}\s?(?:%|percent|km|m|kg|mph|km/h|million|billion|人|元|米|公里|万|亿|岁|吨)(?![A-Za-z])",
    r"《[^》]{1,40}》|「[^」]{1,40}」|“[^”]{2,40}”",
    r"(?<![A-Za-z\d])(?<!\d[.,])(?:\d{1,3}(?:,\d{3})++(?!\d)(?:\.\d++)?+|\d++\.\d++|\d{3,}+)",
    rf"(?<![{_LETTER}'’\-]){_NAME}(?:{_OF} {_NAME}| (?:[{_CAPITAL}]|Jr|Sr|St)\.| {_NAME})+",
)
"""Kinds of exact strings, the ones that are hardest to remember first. Each starts at a border only, and what repeats
gives nothing back: pages are long, and anybody may have written them."""
_PATTERNS = tuple(re.compile(kind) for kind in _KINDS)
_IDENTIFIER = _PATTERNS[4]
_PARTS = re.compile(r"[^\-/.]+")
_LEAST_PARTS = 3
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
    told: set[str] = set()
    covered = bytearray(len(text))
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.span()
            value = match[0].strip()
            if covered.find(1, start, end) >= 0 or (pattern is _IDENTIFIER and not _is_identifier(value)):
                continue
            covered[start:end] = b"\1" * (end - start)
            if len(value) > _MAX_DETAIL or value in told or _names(known, value):
                continue
            cost = estimate_tokens(value) + 1
            if cost <= tokens:
                tokens -= cost
                taken[start] = value
                told.add(value)
            if tokens < 2:
                return [taken[position] for position in sorted(taken)]
    return [taken[position] for position in sorted(taken)]


def _is_identifier(value: str) -> bool:
    """Digits with capitals, or in three parts and more: telephone numbers, versions, addresses of machines."""
    return any(map(str.isdigit, value)) and (
        any(map(str.isupper, value)) or len(_PARTS.findall(value)) >= _LEAST_PARTS
    )


def _names(text: str, value: str) -> bool:
    """Whether `text` contains `value` and not just something longer: `$50` does not name `$5`."""
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        before, after = text[start - 1 : start] if start else "", text[end : end + 1]
        if not (_joins(before, value[0]) or _joins(value[-1], after)):
            return True
        start = text.find(value, start + 1)
    return False


def _joins(left: str, right: str) -> bool:
    return left.isascii() and right.isascii() and left.isalnum() and right.isalnum()


def key_sentences(
    originals: Sequence[Original], queries: Sequence[str], *, tokens: int
) -> list[tuple[int, str]]:
    """Return the sentences that match the queries best, as `(number, sentence)` in the order of the originals.

    They are word for word as they were, on one line each; a very long one is cut, and `…` shows it.

    Args:
        originals: Where to look.
        queries: The question first; later ones weigh less.
        tokens: Most tokens (estimated) of all sentences together.
    """
    candidates = [
        (original.number, clip(" ".join(sentence.split()), tokens=min(_MAX_SENTENCE_TOKENS, tokens - 4)))
        for original in originals
        for sentence in sentences(original.text)
    ]
    candidates = [candidate for candidate in dict.fromkeys(candidates) if candidate[1]]
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
