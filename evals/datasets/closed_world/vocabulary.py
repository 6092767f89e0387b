"""What there is in a closed world: types of entities, relations between them, and facts that a question can end in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from agentinfer_lg.evals.common.data_file import read_data
from agentinfer_lg.text import Language

TypeName = Literal[
    "ship",
    "person",
    "shipyard",
    "company",
    "town",
    "institute",
    "book",
    "invention",
    "prize",
    "expedition",
    "museum",
    "bridge",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How entities of a type are called in one language."""

    title: str
    """The name, of a `{word}` and a `{part}`."""
    parts: tuple[str, ...]
    """What stands for `{part}`; empty: a second invented word."""
    form: str
    """The `{name}` inside a sentence."""
    start: str
    """The `{name}` where a question begins, so that its type is clear."""
    noun: str
    """One of them."""
    that: str
    """One of them that was spoken of."""
    measure: str = ""
    """Chinese measure word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """Words for a relation or a fact, with `{x}` for the entity that has it."""

    noun: str
    sentence: str
    """With `{v}` for the value."""
    question: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Leads from an entity to the one other entity that stands in this relation to it."""

    name: str
    subject: TypeName
    object: TypeName
    phrases: Mapping[Language, Phrase]


# Type; in a sentence, at the start of a question, one of them, that one; in Chinese also the measure word.
_DATA = read_data(__file__, "vocabulary.json")

OPPOSITES: Final = frozenset(
    {("person", "won", "first winner"), ("prize", "first winner", "won")}
    | {("ship", "ordered by", "flagship"), ("company", "flagship", "ordered by")}
    | {("person", "directed", "founded by"), ("institute", "founded by", "directed")}
)
"""Type of the subject, name, and name of the next one: of relations of which the second would mostly lead back."""


def _namings(language: Language) -> dict[str, Naming]:
    found = {}
    for name, (form, start, noun, that, *measure) in _DATA["namings"][language].items():
        title, *parts = _DATA["titles"][language][name]
        found[name] = Naming(
            title=title,
            parts=tuple(parts),
            form=form,
            start=start,
            noun=noun,
            that=that,
            measure="".join(measure),
        )
    return found


def _relations() -> dict[TypeName, tuple[Relation, ...]]:
    found: dict[TypeName, list[Relation]] = {name: [] for name in ENTITY_TYPES}
    for row in _DATA["relations"]:
        phrases = {language: Phrase(noun=row[language][0], sentence=row[language][1]) for language in NAMINGS}
        relation = Relation(name=row["name"], subject=row["subject"], object=row["object"], phrases=phrases)
        found[relation.subject].append(relation)
    return {name: tuple(relations) for name, relations in found.items()}


ENTITY_TYPES: Final[tuple[TypeName, ...]] = get_args(TypeName)
"""Types of entities."""
NAMINGS: Final[dict[Language, dict[str, Naming]]] = {
    language: _namings(language) for language in get_args(Language)
}
"""How entities are called, by language and type."""
RELATIONS: Final[dict[TypeName, tuple[Relation, ...]]] = _relations()
"""Relations by type of the entity from which they lead."""
