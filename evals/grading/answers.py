"""Scoring short answers: normalised exact match and token F1, as the official HotpotQA script defines them.

Answers with Chinese or Japanese characters, or their punctuation, are normalised further, since that script knows the ASCII
punctuation only and counts words between spaces. All other answers score as the official script scores them. Nothing is
guessed: other spellings (traditional characters, other forms of a date, numbers in words) remain different answers.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = ("yes", "no", "noanswer")

_CHARACTERS = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
"""Chinese and Japanese; Korean puts spaces between words."""
_EAST_ASIAN = re.compile(f"[{_CHARACTERS}\u3000-\u303f\uff00-\uffef]")
"""These, their punctuation, and full-width forms of letters and digits."""
_SPACE_AT_CHARACTER = re.compile(f"(?<=[{_CHARACTERS}])\\s+|\\s+(?=[{_CHARACTERS}])")
_TOKEN = re.compile(f"[{_CHARACTERS}]|[^\\s{_CHARACTERS}]+")
_YEAR = re.compile(r"[0-9]{4}")


def normalise_answer(text: str) -> str:
    """Return `text` in lower case, without punctuation, articles and extra white space.

    East Asian text also has full-width forms made plain (NFKC), any Unicode punctuation removed, and no space next to a
    character: `《 ＡＢＣ　之歌 》` gives `abc之歌`.
    """
    if _EAST_ASIAN.search(text):
        text = _normalise_east_asian(text)
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> bool:
    """Whether the normalised answers are equal; a year of four digits may have `年` after it in one of them."""
    mine, theirs = _alike(answer, gold)
    return mine == theirs


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the tokens of the normalised answers: words, or East Asian characters.

    A yes or no counts only if it is the whole answer.
    """
    mine, theirs = _alike(answer, gold)
    if mine != theirs and (mine in _CLOSED or theirs in _CLOSED):
        return 0.0
    ours, golden = _TOKEN.findall(mine), _TOKEN.findall(theirs)
    shared = sum((Counter(ours) & Counter(golden)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(golden)
    return 2 * precision * recall / (precision + recall)


def _alike(answer: str, gold: str) -> tuple[str, str]:
    """Return both normalised; `1987年` against `1987` loses its last character, against anything else nothing."""
    mine, theirs = normalise_answer(answer), normalise_answer(gold)
    if _YEAR.fullmatch(theirs) and mine == f"{theirs}年":
        return theirs, theirs
    if _YEAR.fullmatch(mine) and theirs == f"{mine}年":
        return mine, mine
    return mine, theirs


def _normalise_east_asian(text: str) -> str:
    before = ""
    # What is removed may bring characters together that compose, so until nothing changes.
    while text != before:
        before = text
        text = unicodedata.normalize("NFKC", text).lower()
        text = "".join(c for c in text if not _is_punctuation(c))
        text = _SPACE_AT_CHARACTER.sub("", text)
    return text


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P") or character in string.punctuation
