"""Scoring short answers: normalised exact match and token F1, as the official HotpotQA script defines them."""

from __future__ import annotations

import re
import string
from collections import Counter

__all__ = ("exact_match", "normalise_answer", "token_f1")

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = ("yes", "no", "noanswer")


def normalise_answer(text: str) -> str:
    """Return `text` in lower case, without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> bool:
    """Whether the normalised answers are equal."""
    return normalise_answer(answer) == normalise_answer(gold)


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the tokens of the normalised answers.

    A yes or no counts only if it is the whole answer.
    """
    mine, theirs = normalise_answer(answer), normalise_answer(gold)
    if mine != theirs and (mine in _CLOSED or theirs in _CLOSED):
        return 0.0
    shared = sum((Counter(mine.split()) & Counter(theirs.split())).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(mine.split()), shared / len(theirs.split())
    return 2 * precision * recall / (precision + recall)
