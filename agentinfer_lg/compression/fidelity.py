"""Whether a sentence of a distillate says only what its original says: numbers, names, links, and most of its words.

A small model that summarises mixes up digits and invents names. What cannot be found in the original is taken out
before it can mislead anybody; the original itself can be recalled.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

from agentinfer_lg.text import content_terms

_URL = re.compile(
    r"(?:https?://|\bwww\.)[^\s<>\"')\]，。；、）】》」]*[^\s<>\"')\]，。；、）】》」.,:;!?]", re.IGNORECASE
)
_AUTHORITY = re.compile(r"(?:https?://)?[^/?#]*", re.IGNORECASE)
_NUMBER = re.compile(r"\d++(?:[.,:/\-]\d++)*+")
_THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")
_PLAIN = re.compile(r"\d++(?:\.\d++)?+")
_SCALE = re.compile(
    r" ?(thousand|million|billion|trillion|万|亿|%|percent|per cent)(?![A-Za-z])", re.IGNORECASE
)
_SCALES = {
    "thousand": 3,
    "万": 4,
    "million": 6,
    "亿": 8,
    "billion": 9,
    "trillion": 12,
}
"""Powers of ten."""
_LONE_SCALE = re.compile(r"(?<!\d)(?<!\d )\b(thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_COUNTED = re.compile(r"(\d+)-([a-z]{3,})")
_MAX_SCALED = 20
"""Digits up to which a number can be written out exactly."""
_RANGE = re.compile(r"(\d{4})-(\d{4})")
_HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[^\W_{_HAN}]++(?:['\-.&][^\W_{_HAN}]++)*+")
"""Chinese text has no borders of words: there, only numbers, quotations and most pairs of characters are compared."""
_JOINT = re.compile(r"['\-.&]")
_QUOTED = re.compile(
    r"《([^》]{1,300})》|「([^」]{1,300})」|『([^』]{1,300})』|“([^”]{2,300})”|\"([^\"]{2,300})\""
)
_COUNTS = {
    word: str(count)
    for count, word in enumerate(
        [
            *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
            *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
        ],
        start=2,
    )
}
"""Numbers that are written as words. `one` is left out: it is also a pronoun."""
_DENYING = frozenset(["cannot", "neither", "never", "no", "nobody", "none", "nor", "not", "nothing"])
_PUNCTUATION = str.maketrans(dict.fromkeys("’‘`´", "'") | dict.fromkeys("‐‑‒–—−", "-"))
_EDGES = " .,;:!?'。，；：！？…"
_BEFORE_OPENER = " \"'“「『《([{-*•"
_SHARE = 0.6
"""Share of the content words of a sentence that its original must contain."""
_NO_NAMES = """
according acted additionally appeared author based began besides born built called created currently
designed despite died directed established featured features finally following formed founded given
furthermore headquartered held hosted includes including initially introduced known later launched led lived located
meanwhile moreover moved named none notably occurred opened originally overall owned performed played produced published
recorded released served set several situated sold starring stars started studied specifically subsequently today unlike used won
works written wrote
"""
_OPENERS = frozenset(_NO_NAMES.split())
"""Words that begin a sentence with a capital although they are no names, next to those that carry no content."""


class Reference:
    """What sentences are compared with; reading it once serves many of them.

    Args:
        text: An original.
    """

    def __init__(self, text: str) -> None:
        self._text = _normal(text)
        self._lowered = self._text.lower()
        self._links = set(_links(self._text))
        self._words = _pieces(self._text)
        self._numbers = _numbers_held(self._text)
        self._counts = self._numbers | {_COUNTS[word] for word in self._words if word in _COUNTS}
        self._terms = content_terms(self._text)
        self._denials = _denials(self._text)

    def supports(self, sentence: str, *, denies: bool = False) -> bool:
        """Whether every number, name, quotation and link of `sentence` occurs here, and most of its words do.

        Args:
            sentence: What is to be borne out.
            denies: It may say `not` although nothing here does: it tells what was not found.
        """
        sentence = _normal(sentence)
        if self._contains(sentence):
            return True
        if not all(link in self._links for link in _links(sentence)):
            return False
        rest = _URL.sub(" ", sentence)
        if not all(text in self._lowered for text in _quotations(rest)):
            return False
        if not (self._has_numbers(rest) and all(map(self._has_name, _names(rest)))):
            return False
        if not denies and not _denials(rest) <= self._denials:
            return False
        said = content_terms(rest)
        return not said or sum(map(self._says, said)) >= _SHARE * len(said)

    def _contains(self, sentence: str) -> bool:
        """Whether `sentence` occurs word for word, and is not cut inside a word or a number."""
        if not sentence:
            return True
        start = self._text.find(sentence)
        while start >= 0:
            end = start + len(sentence)
            if not (_is_inside(self._text, start) or _is_inside(self._text, end)):
                return True
            start = self._text.find(sentence, start + 1)
        return False

    def _has_name(self, name: str) -> bool:
        if name in self._words or name.replace(".", "") in self._words:
            return True
        if counted := _COUNTED.fullmatch(name):  # `4-year` of `four-year`
            return counted[1] in self._counts and counted[2] in self._words
        parts = _JOINT.split(name)
        return (
            len(parts) > 1 and all(part in self._words for part in parts) and name.replace("-", "").isalpha()
        )

    def _has_numbers(self, text: str) -> bool:
        if not all(number in self._counts for number in _numbers(text)):
            return False
        words = {word.lower() for word in _WORD.findall(text)}
        if not all(match[1].lower() in self._words for match in _LONE_SCALE.finditer(text)):
            return False
        return all(word in self._words or _COUNTS[word] in self._numbers for word in words & _COUNTS.keys())

    def _says(self, term: str) -> bool:
        return term in self._terms or term in self._counts or _COUNTS.get(term) in self._numbers


def is_faithful(sentence: str, original: str) -> bool:
    """Whether every number, name, quotation and link of `sentence` occurs in `original`, and most of its words do.

    It compares words. A sentence that is there word for word always passes; one that joins two facts wrongly, swaps
    two names of the same original, or leaves out a `not`, passes too.
    """
    return Reference(original).supports(sentence)


def exact_terms(text: str) -> set[str]:
    """The numbers, names and links of `text`, in the form in which `is_faithful` compares them."""
    text = _normal(text)
    rest = _URL.sub(" ", text)
    return {*_links(text), *_numbers(rest), *_names(rest)}


def _normal(text: str) -> str:
    """Write what looks alike alike: widths, dashes, apostrophes, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_PUNCTUATION).split())


def _links(text: str) -> Iterator[str]:
    """Links; only of scheme and host the case does not matter."""
    for match in _URL.finditer(text):
        link = match[0].rstrip("/")
        end = _AUTHORITY.match(link).end()  # type: ignore[union-attr]  # matches the empty string too
        yield link[:end].lower() + link[end:]


def _quotations(text: str) -> Iterator[str]:
    for match in _QUOTED.finditer(text):
        yield next(filter(None, match.groups())).strip(_EDGES).lower()


def _is_inside(text: str, position: int) -> bool:
    """Whether `position` is inside a word or a number such as `1,234.5`."""
    if not 0 < position < len(text):
        return False
    left, right = text[position - 1], text[position]
    if left.isalnum() and right.isalnum():
        return left.isascii() or right.isascii()  # Chinese words have no borders
    joint = text[position - 2 : position + 1] if right.isdigit() else text[position - 1 : position + 2]
    return len(joint) == 3 and joint[0].isdigit() and joint[1] in ".,:/-" and joint[2].isdigit()


def _numbers(text: str) -> Iterator[str]:
    """Numbers as they are to be found: without the commas of thousands, with `million` written out."""
    for match in _NUMBER.finditer(text):
        number = _THOUSANDS.sub("", match[0])
        span = _RANGE.fullmatch(number)
        if span and span[1] < span[2]:
            yield from span.groups()  # `1999-2001` says no more than `from 1999 to 2001`
        else:
            yield _scaled(number, _SCALE.match(text, match.end()))


def _numbers_held(text: str) -> set[str]:
    """Numbers that `text` bears out: also the parts of a range or a date, and the bare number of a percentage."""
    found = set(_numbers(text))
    found.update(number.removesuffix("%") for number in list(found) if number.endswith("%"))
    for match in _NUMBER.findall(text):
        number = _THOUSANDS.sub("", match)
        if "-" in number or "/" in number:
            found.add(number)
            found.update(part.lstrip("0") or "0" for part in re.split(r"[\-/]", number))
            found.update(re.split(r"[\-/]", number))
    return found


def _scaled(number: str, scale: re.Match[str] | None) -> str:
    if scale is None or len(number) > _MAX_SCALED or not _PLAIN.fullmatch(number):
        return number
    power = _SCALES.get(scale[1].lower())
    if power is None:
        return number + "%"
    value = f"{Decimal(number).scaleb(power):f}"
    return value.rstrip("0").rstrip(".") if "." in value else value


def _denials(text: str) -> set[str]:
    """What denies in `text`; English words all count as the same."""
    words = (word.lower() for word in _WORD.findall(text))
    found = {"not"} if any(word in _DENYING or word.endswith("n't") for word in words) else set()
    return found | {char for char in "不没未" if char in text}


def _names(text: str) -> Iterator[str]:
    """Words with a capital or with letters and digits, lower-cased; an opener of a sentence is no name."""
    for match in _WORD.finditer(text):
        word = match[0]
        if word.isdigit() or not any(char.isupper() or char.isdigit() for char in word):
            continue
        before = text[max(0, match.start() - 8) : match.start()].rstrip(_BEFORE_OPENER)
        opens = not before or before[-1] in ".!?:;。！？："
        if opens and (word.lower() in _OPENERS or not content_terms(word)):
            continue
        name = _without_possessive(word)
        if not _NUMBER.fullmatch(name):
            yield name


def _without_possessive(word: str) -> str:
    return word.lower().removesuffix("'s")


def _pieces(text: str) -> set[str]:
    """Words as they are and without a possessive, and the parts of joined ones: `Anglo-Dutch` also names `Dutch`."""
    found: set[str] = set()
    for word in _WORD.findall(text):
        lowered = _without_possessive(word)
        found.update((word.lower(), lowered, lowered.replace(".", ""), *_JOINT.split(lowered)))
    return found
