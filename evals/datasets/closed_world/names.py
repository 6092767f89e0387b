"""Invented names and values of a closed world: drawn from a seed, and never given out twice where it matters."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from agentinfer_lg.evals.common.data_file import read_data
from agentinfer_lg.text import Language

T = TypeVar("T")

Kind = Literal["year", "number", "code", "colour", "name"]
"""What a question can ask for in the end."""

CAPACITY: Final = 500
"""Most questions of one world."""
WORDS_PER_QUESTION: Final = 64
"""Invented words that belong to one question alone."""

_NUMBERS_PER_QUESTION = 128
_ANSWERS_PER_KIND = CAPACITY // 5 + 5
_COMMON_WORDS = 4000
_FIRST_NUMBER, _NUMBERS = 2100, 87_000
_YEARS = range(1690, 1980)
_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_CODES = len(_CODE_LETTERS) ** 3 * 900

_DATA = read_data(__file__, "names.json")
# English: one vowel group ends each of the first two parts and a consonant begins the others: no word can be put together twice.
# Chinese: the three places share no character, so that a word never begins inside another one.
_PARTS: dict[Language, tuple[Sequence[str], Sequence[str], Sequence[str]]] = _DATA["parts"]
_COLOURS: dict[Language, tuple[Sequence[str], Sequence[str]]] = _DATA["colours"]


class Draw:
    """Random choices that come out alike in every version of Python: only `random.Random.random` is used.

    Args:
        key: Names the sequence, for example a seed and a number.
    """

    def __init__(self, *key: object) -> None:
        self._random = random.Random(" ".join(map(str, key)))

    def below(self, end: int) -> int:
        """A number from 0 to `end` - 1."""
        return int(self._random.random() * end)

    def between(self, first: int, last: int) -> int:
        """A number from `first` to `last`, both included."""
        return first + self.below(last - first + 1)

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`, which must not be empty."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All of `items` in a new order."""
        result = list(items)
        for end in range(len(result), 1, -1):
            other = self.below(end)
            result[end - 1], result[other] = result[other], result[end - 1]
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A final fact as documents write it, and other ways to write it."""

    text: str
    variants: tuple[str, ...] = ()


class Mint:
    """Names and values of one seed.

    Words, numbers and codes are given out by question, so that no two questions share one; years and colours are too few
    for that, and the ones that answer questions are kept apart from all others.
    """

    def __init__(self, seed: int) -> None:
        self._words: dict[Language, list[str]] = {
            "en": _words(*_PARTS["en"], draw=Draw(seed, "words en")),
            "zh": _words(*_PARTS["zh"], draw=Draw(seed, "words zh")),
        }
        self._colours: dict[Language, list[str]] = {
            "en": Draw(seed, "colours en").shuffled(
                [" ".join(parts) for parts in itertools.product(*_COLOURS["en"])]
            ),
            "zh": Draw(seed, "colours zh").shuffled(
                [f"{shade}{colour}色" for shade, colour in itertools.product(*_COLOURS["zh"])]
            ),
        }
        self._years = Draw(seed, "years").shuffled(_YEARS)
        self._numbers = Permutation(_NUMBERS, draw=Draw(seed, "numbers"))
        self._codes = Permutation(_CODES, draw=Draw(seed, "codes"))

    def words(self, question: int, *, language: Language) -> list[str]:
        """The `WORDS_PER_QUESTION` words that no other question has."""
        start = _COMMON_WORDS + question * WORDS_PER_QUESTION
        return self._words[language][start : start + WORDS_PER_QUESTION]

    def common_word(self, draw: Draw, *, language: Language) -> str:
        """A word for the margins of documents: never a part of a name in a chain, nor an answer."""
        return draw.choice(self._words[language][:_COMMON_WORDS])

    def answer(self, kind: Kind, *, slot: int, language: Language, index: int, word: str) -> Value:
        """The value that answers a question.

        Args:
            kind: Kind of value.
            slot: Counts the questions of this kind, over all languages.
            language: Of the documents.
            index: Number of the question.
            word: What a `name` is.
        """
        match kind:
            case "year":
                return _year(self._years[slot], language)
            case "colour":
                return _colour(self._colours[language][slot], language)
            case "name":
                return Value(text=word)
            case _:
                return self._counted(kind, index * _NUMBERS_PER_QUESTION, language)

    def other(self, kind: Kind, *, draw: Draw, language: Language, index: int, count: int) -> Value:
        """A value that answers no question.

        Args:
            kind: Kind of value.
            draw: Chooses among years, colours and names.
            language: Of the documents.
            index: Number of the question.
            count: Counts the values of this question, from 0.
        """
        match kind:
            case "year":
                return _year(draw.choice(self._years[_ANSWERS_PER_KIND:]), language)
            case "colour":
                return _colour(draw.choice(self._colours[language][_ANSWERS_PER_KIND:]), language)
            case "name":
                return Value(text=self.common_word(draw, language=language))
            case _:
                place = 1 + count % (_NUMBERS_PER_QUESTION - 1)
                return self._counted(kind, index * _NUMBERS_PER_QUESTION + place, language)

    def _counted(self, kind: Kind, index: int, language: Language) -> Value:
        if kind == "number":
            number = _FIRST_NUMBER + self._numbers[index]
            plain, grouped = str(number), f"{number:,}"
            written, other = (grouped, plain) if language == "en" else (plain, grouped)
            return Value(text=written, variants=(other,))
        rest, digits = divmod(self._codes[index], 900)
        rest, last = divmod(rest, len(_CODE_LETTERS))
        first, second = divmod(rest, len(_CODE_LETTERS))
        parts = (_CODE_LETTERS[first] + _CODE_LETTERS[second], str(100 + digits), _CODE_LETTERS[last])
        return Value(text="-".join(parts), variants=(" ".join(parts), "".join(parts)))


class Permutation:
    """The numbers from 0 to `size` - 1 in an order that looks random."""

    def __init__(self, size: int, *, draw: Draw) -> None:
        self._size = size
        self._start = draw.below(size)
        step = size // 3 + draw.below(size // 3)
        while math.gcd(step, size) != 1:
            step += 1
        self._step = step

    def __getitem__(self, index: int) -> int:
        return (self._start + index * self._step) % self._size


def _words(first: Sequence[str], second: Sequence[str], last: Sequence[str], *, draw: Draw) -> list[str]:
    """All words once, so that words of one question seldom differ in their ends alone."""
    stems = [a + b for a, b in itertools.product(first, second)]
    ends = {stem: draw.shuffled(last) for stem in stems}
    return [stem + ends[stem][turn] for turn in range(len(last)) for stem in draw.shuffled(stems)]


def _year(year: int, language: Language) -> Value:
    return Value(text=str(year), variants=(f"{year}年",) if language == "zh" else ())


def _colour(colour: str, language: Language) -> Value:
    return Value(text=colour, variants=(colour.removesuffix("色"),) if language == "zh" else ())
