"""A chain of invented entities, each leading to the next, and the question that it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentinfer_lg.evals.datasets.closed_world.attributes import ATTRIBUTES
from agentinfer_lg.evals.datasets.closed_world.names import Draw, Kind, Mint, Value
from agentinfer_lg.evals.datasets.closed_world.vocabulary import (
    NAMINGS,
    OPPOSITES,
    RELATIONS,
    Naming,
    Phrase,
    Relation,
    TypeName,
)
from agentinfer_lg.text import Language

_NESTED_HOPS = {"en": 4, "zh": 3}
"""Most hops that one sentence takes; more are told step by step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """Something with an invented name."""

    type: TypeName
    language: Language
    word: str
    part: str

    @property
    def naming(self) -> Naming:
        """How entities of this type are called."""
        return NAMINGS[self.language][self.type]

    @property
    def name(self) -> str:
        """The name, which is also the title of its document."""
        return self.naming.title.format(word=self.word, part=self.part)

    @property
    def form(self) -> str:
        """The name inside a sentence, with an article where it needs one."""
        return self.naming.form.format(name=self.name)


class NameSource:
    """Entities with the invented words of one question; no name comes twice."""

    def __init__(self, words: Sequence[str], *, language: Language, draw: Draw) -> None:
        self._words: Iterator[str] = iter(words)
        self._language = language
        self._draw = draw
        self._used: set[str] = set()

    def word(self) -> str:
        """A word that nothing else in the world has."""
        return next(self._words)

    def entity(self, name: TypeName) -> Entity:
        """An entity that shares no invented word with another one."""
        parts = NAMINGS[self._language][name].parts
        part = self._draw.choice(parts) if parts else self.word()
        return self._new(Entity(type=name, language=self._language, word=self.word(), part=part))

    def similar(self, entity: Entity) -> Entity:
        """An entity of the same type that shares one of the two words of the name of `entity`."""
        for part in self._draw.shuffled(entity.naming.parts):
            other = Entity(type=entity.type, language=entity.language, word=entity.word, part=part)
            if other.name not in self._used:
                return self._new(other)
        word, part = self.word(), entity.part
        if not entity.naming.parts and self._draw.below(2):
            word, part = entity.word, word
        return self._new(Entity(type=entity.type, language=entity.language, word=word, part=part))

    def _new(self, entity: Entity) -> Entity:
        self._used.add(entity.name)
        return entity


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Entities of which each leads to the next, and the fact about the last one that is asked for."""

    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]
    """One fewer than there are entities."""
    kind: Kind
    answer: Value

    @property
    def language(self) -> Language:
        """The language of its documents."""
        return self.entities[0].language

    def sought(self, position: int) -> Phrase:
        """Words for what the document at `position` is needed for."""
        if position < len(self.relations):
            return self.relations[position].phrases[self.language]
        return ATTRIBUTES[self.entities[position].type][self.kind][self.language]

    def question(self) -> str:
        """The question, which names the first entity only."""
        first = self.entities[0]
        start = first.naming.start.format(name=first.name)
        asked = self.sought(len(self.relations)).question
        if len(self.entities) <= _NESTED_HOPS[self.language]:
            for position in range(len(self.relations)):
                start = self.sought(position).noun.format(x=start)
            return asked.format(x=start)
        those = [entity.naming.that for entity in self.entities]
        steps = [self.sought(i).noun.format(x=those[i]) for i in range(len(self.relations))]
        final = asked.format(x=those[-1])
        if self.language == "zh":
            return f"从{start}出发，每一步都以上一步的结果为起点：先找到{'，再找到'.join(steps)}。最后的问题：{final}"
        return f"Start from {start}, and let each step begin where the last one ended: find {', then '.join(steps)}. {final}"


def draw_chain(
    *,
    start: TypeName,
    hops: int,
    kind: Kind,
    slot: int,
    index: int,
    language: Language,
    names: NameSource,
    mint: Mint,
    draw: Draw,
) -> Chain:
    """Draw a chain.

    Args:
        start: Type of the first entity.
        hops: Number of entities, at least 1.
        kind: Of the answer.
        slot: Counts the questions with this kind of answer.
        index: Number of the question.
        language: Of names and documents.
        names: Gives the entities.
        mint: Gives the answer.
        draw: Chooses relations.
    """
    relations = _relations(start, hops - 1, draw)
    types = [start, *(relation.object for relation in relations)]
    word = names.word()
    return Chain(
        entities=tuple(names.entity(name) for name in types),
        relations=relations,
        kind=kind,
        answer=mint.answer(kind, slot=slot, language=language, index=index, word=word),
    )


def _relations(start: TypeName, count: int, draw: Draw) -> tuple[Relation, ...]:
    """A walk over the types that uses no relation twice and visits new types where it can."""
    walk: list[Relation] = []
    visited = {start}
    at = start
    while len(walk) < count:
        last = walk[-1] if walk else None
        open_ones = [
            relation for relation in RELATIONS[at] if follows(last, relation) and relation not in walk
        ]
        new = [relation for relation in open_ones if relation.object not in visited]
        walk.append(draw.choice(new or open_ones))
        at = walk[-1].object
        visited.add(at)
    return tuple(walk)


def follows(last: Relation | None, relation: Relation) -> bool:
    """Whether `relation` leads on after `last`, not back to where that came from."""
    return last is None or (last.subject, last.name, relation.name) not in OPPOSITES
