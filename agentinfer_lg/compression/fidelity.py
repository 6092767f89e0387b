"""Whether a sentence of a distillate says only what its original says: numbers, names, links, and most of its words.

A small model that summarises mixes up digits and invents names. What cannot be found in the original is taken out
before it can mislead anybody; the original itself can be recalled.
"""

from __future__ import annotations

import re
import unicodedata

from agentinfer_lg.text import content_terms

__all__ = ("exact_terms", "is_faithful")

_URL = re.compile(r"https?://[^\s<>\"'）)\]]+|www\.[^\s<>\"'）)\]]+", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,:/\-]\d+)*")
_WORD = re.compile(r"[^\W_]+(?:['’\-.&][^\W_]+)*")
_QUOTED = re.compile(r"《([^》]{1,80})》|「([^」]{1,80})」|“([^”]{2,80})”|\"([^\"]{2,80})\"")
_SHARE = 0.6
"""Share of the content words of a sentence that its original must contain."""
_OPENERS = frozenset(
    [
        "according",
        "additionally",
        "although",
        "also",
        "another",
        "author",
        "based",
        "because",
        "born",
        "both",
        "built",
        "called",
        "created",
        "currently",
        "designed",
        "despite",
        "directed",
        "during",
        "each",
        "established",
        "first",
        "following",
        "founded",
        "from",
        "given",
        "headquartered",
        "however",
        "it",
        "its",
        "known",
        "located",
        "later",
        "many",
        "most",
        "named",
        "no",
        "none",
        "not",
        "one",
        "only",
        "originally",
        "other",
        "produced",
        "published",
        "released",
        "several",
        "since",
        "some",
        "starring",
        "the",
        "their",
        "there",
        "these",
        "they",
        "this",
        "those",
        "though",
        "two",
        "under",
        "when",
        "where",
        "which",
        "while",
        "who",
        "with",
        "written",
    ]
)
"""Words that begin a sentence with a capital although they are no names."""


def is_faithful(sentence: str, original: str) -> bool:
    """Whether every number, name, quotation and link of `sentence` occurs in `original`, and most of its words do."""
    sentence, original = _normal(sentence), _normal(original)
    lowered = original.lower()
    links = [link.rstrip(".,;。，；") for link in _URL.findall(sentence)]
    if not all(link.lower() in lowered for link in links):
        return False
    rest = _URL.sub(" ", sentence)
    quoted = (next(filter(None, match.groups())).strip() for match in _QUOTED.finditer(rest))
    if not all(text.lower() in lowered for text in quoted):
        return False
    numbers = _numbers(original)
    if not all(number in numbers for number in _numbers(rest)):
        return False
    words = {word.lower() for word in _WORD.findall(original)} | _pieces(original)
    if not all(name in words for name in _names(rest)):
        return False
    said = content_terms(rest)
    return not said or len(said & content_terms(original)) >= _SHARE * len(said)


def exact_terms(text: str) -> set[str]:
    """The numbers, names and links of `text`, in the form in which `is_faithful` compares them."""
    text = _normal(text)
    links = {link.rstrip(".,;。，；").lower() for link in _URL.findall(text)}
    rest = _URL.sub(" ", text)
    return links | set(_numbers(rest)) | set(_names(rest))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _numbers(text: str) -> set[str]:
    """Numbers as they are written, without the commas of thousands."""
    return {re.sub(r",(?=\d{3}\b)", "", match) for match in _NUMBER.findall(text)}


def _names(text: str) -> list[str]:
    """Words with a capital or with letters and digits, lower-cased; an opener of a sentence is no name."""
    names = []
    for match in _WORD.finditer(text):
        word = match[0]
        if word.isdigit() or not any(char.isupper() or char.isdigit() for char in word):
            continue
        before = text[: match.start()].rstrip()
        opens = not before or before[-1] in ".!?:。！？："
        if opens and word.lower() in _OPENERS:
            continue
        name = re.sub(r"['’]s$", "", word.lower())
        if not _NUMBER.fullmatch(name):
            names.append(name)
    return names


def _pieces(text: str) -> set[str]:
    """Words without a possessive, and the parts of joined ones: `Anglo-Dutch` also names `Dutch`."""
    found = set()
    for word in _WORD.findall(text):
        lowered = re.sub(r"['’]s$", "", word.lower())
        found.add(lowered)
        found.update(re.split(r"['’\-.&]", lowered))
    return found
