"""Words and forms of the generated sessions: things, their exact details, and sentences around them, in two languages."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agentinfer_lg.evals.common.data_file import read_data
from agentinfer_lg.text import Language


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """One language. `{title}`, `{value}`, `{label}` and so on mark what is filled in."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    things: tuple[str, ...]
    sites: tuple[str, ...]
    title: str
    details: dict[str, tuple[str, ...]]
    """By kind of detail, the labels that things may have of it."""
    sentences: tuple[str, ...]
    fillers: tuple[str, ...]
    task: str
    query: str
    question: str
    thought: str
    known: str
    missing: str


_DATA = read_data(__file__, "vocabulary.json")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def _vocabulary(words: dict[str, Any]) -> Vocabulary:  # Any: JSON
    details = {kind: tuple(labels) for kind, labels in words["details"].items()}
    fixed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in words.items()
    }
    return Vocabulary(**{**fixed, "details": details})


VOCABULARY: Final[dict[Language, Vocabulary]] = {
    language: _vocabulary(words) for language, words in _DATA["languages"].items()
}
"""The words by language."""


def draw_detail(kind: str, language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    """Draw a detail of a kind and return it with other spellings that mean the same."""
    return _DRAWS[kind](language, draw)


def _identifier(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    one, two = draw.sample("GKLT", 2)
    return f"{one}{two}-{draw.randrange(100, 1000)}-{draw.choice(_LETTERS)}", ()


def _price(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    amount = draw.randrange(1_000, 90_000)
    if language == "zh":
        return f"{amount}元", (f"¥{amount}", f"{amount}")
    return f"${amount:,}", (f"{amount:,}",)


def _date(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    year, month, day = draw.randrange(2016, 2026), draw.randrange(1, 13), draw.randrange(1, 29)
    iso, numbers = f"{year}-{month:02}-{day:02}", f"{year}年{month}月{day}日"
    name = _DATA["months"][month - 1]
    spelled = (f"{day} {name} {year}", f"{name} {day}, {year}", f"{name} {day} {year}")
    return (numbers, (iso,)) if language == "zh" else (spelled[0], (*spelled[1:], iso))


def _phone(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    first, last = draw.randrange(100, 1000), draw.randrange(1000, 10_000)
    return f"555-{first}-{last}", (f"555 {first} {last}", f"(555) {first}-{last}")


def _code_name(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    name, number = draw.choice(_DATA["calls"]), draw.randrange(2, 100)
    return f"{name} {number}", (f"{name}-{number}", f"{name}{number}")


def _email(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    return f"{draw.choice(_DATA['desks'])}.{draw.randrange(10, 1000)}@example.org", ()


def _version(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    number = f"{draw.randrange(1, 10)}.{draw.randrange(0, 30)}.{draw.randrange(0, 30)}"
    return f"v{number}", (number,)


def _measure(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    number = f"{draw.randrange(11, 990)}.{draw.randrange(1, 10)}"
    return (f"{number}公斤", (f"{number} kg", number)) if language == "zh" else (f"{number} kg", (number,))


_DRAWS: Final[dict[str, Callable[[Language, random.Random], tuple[str, tuple[str, ...]]]]] = {
    "identifier": _identifier,
    "price": _price,
    "date": _date,
    "phone": _phone,
    "code name": _code_name,
    "email": _email,
    "version": _version,
    "measure": _measure,
}
