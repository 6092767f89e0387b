"""Documents around a chain of entities: those that lead on, and those that only look as if they did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agentinfer_lg.evals.datasets.closed_world.attributes import ATTRIBUTES, KINDS
from agentinfer_lg.evals.datasets.closed_world.chain import Chain, Entity, NameSource, follows
from agentinfer_lg.evals.datasets.closed_world.names import Draw, Kind, Mint
from agentinfer_lg.evals.datasets.closed_world.prose import PROSE
from agentinfer_lg.evals.datasets.closed_world.vocabulary import (
    ENTITY_TYPES,
    NAMINGS,
    RELATIONS,
    Phrase,
    Relation,
    TypeName,
)
from agentinfer_lg.text import Language

DocumentKind = Literal["evidence", "distractor", "advertisement", "dead end"]
"""Evidence holds a fact of a chain; distractors hold other facts, the others none."""

_PLACES: Final[tuple[TypeName, ...]] = ("ship", "shipyard", "institute", "museum", "bridge")
_LENGTHS: Final[dict[Language, tuple[int, int]]] = {"en": (120, 470), "zh": (200, 720)}
"""Words of an English and characters of a Chinese document about an entity."""
_SHORT_LENGTHS: Final[dict[Language, tuple[int, int]]] = {"en": (70, 160), "zh": (120, 280)}
"""The same of advertisements and dead ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A fact that a page holds: the name of an entity, the relation or attribute, and the value as written."""

    subject: str
    relation: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A document before it has a file name."""

    title: str
    text: str
    """Paragraphs with a blank line between them."""
    kind: DocumentKind
    near: str
    """The entity of the chain that it is about, or is meant to be taken for."""
    statements: tuple[Statement, ...] = ()


class PageWriter:
    """Writes the documents of one question.

    Args:
        chain: What the question asks for.
        index: Number of the question.
        names: Gives names to entities outside the chain.
        mint: Gives values.
        draw: Chooses sentences.
    """

    def __init__(self, chain: Chain, *, index: int, names: NameSource, mint: Mint, draw: Draw) -> None:
        self._chain = chain
        self._index = index
        self._names = names
        self._mint = mint
        self._draw = draw
        self._language = chain.language
        self._prose = PROSE[chain.language]
        self._values = 0

    def evidence(self, position: int) -> Page:
        """The document about the entity at `position`."""
        chain = self._chain
        entity = chain.entities[position]
        last = position == len(chain.relations)
        needed: Relation | Kind = chain.kind if last else chain.relations[position]
        value = chain.answer.text if last else chain.entities[position + 1].name
        arrived = chain.relations[position - 1] if position else None
        # A year elsewhere in a chain could contradict another one: launched before its builder was founded.
        kinds = [kind for kind in KINDS if kind not in ("year", chain.kind)]
        others: list[Relation | Kind] = [
            *self._side_relations(entity, needed, arrived),
            *self._draw.shuffled(kinds)[:2],
        ]
        facts = [self._fact(entity, needed, value), *(self._fact(entity, other) for other in others)]
        return self._article(entity, facts, kind="evidence", near=entity)

    def similar(self, position: int) -> Page:
        """A document about an entity with a similar name, with another value of what is sought."""
        chain = self._chain
        entity = self._names.similar(chain.entities[position])
        last = position == len(chain.relations)
        needed: Relation | Kind = chain.kind if last else chain.relations[position]
        kinds = self._draw.shuffled([kind for kind in KINDS if kind != needed])[:2]
        facts = [self._fact(entity, needed), *(self._fact(entity, kind) for kind in kinds)]
        return self._article(entity, facts, kind="distractor", near=chain.entities[position])

    def mention(self, position: int) -> Page:
        """A document about something else that names the entity at `position` and states nothing about it."""
        near = self._chain.entities[position]
        entity = self._names.entity(self._draw.choice([name for name in ENTITY_TYPES if name != near.type]))
        others: list[Relation | Kind] = [
            self._draw.choice(RELATIONS[entity.type]),
            *self._draw.shuffled(KINDS)[:2],
        ]
        facts = [self._fact(entity, other) for other in others]
        named = [
            self._filled(sentence, near).replace("{D}", entity.form)
            for sentence in self._draw.shuffled(self._prose.mentions)[:2]
        ]
        return self._article(entity, facts, kind="distractor", near=near, extra=named)

    def advertisement(self, position: int) -> Page:
        """A page that repeats what a search for the next step would contain, and sells something."""
        prose = self._prose
        return self._short(position, "advertisement", prose.advertisement_titles, prose.advertisements)

    def dead_end(self, position: int) -> Page:
        """A page that says the record with the next step is lost, moved or closed."""
        prose = self._prose
        told = [*self._draw.shuffled(prose.dead_ends)[:3], *prose.dead_end_fillers]
        return self._short(position, "dead end", prose.dead_end_titles, told)

    def _short(
        self, position: int, kind: DocumentKind, titles: Sequence[str], sentences: Sequence[str]
    ) -> Page:
        near = self._chain.entities[position]
        fact = self._chain.sought(position).noun.format(x=near.form)
        first, *rest = sentences
        told = (self._filled(sentence, near, fact=fact) for sentence in [first, *self._draw.shuffled(rest)])
        return Page(
            title=self._draw.choice(titles).format(T=near.name),
            text=self._paragraphs(self._until(told, have=[], lengths=_SHORT_LENGTHS)),
            kind=kind,
            near=near.name,
        )

    def _article(
        self,
        entity: Entity,
        facts: Sequence[tuple[Statement, str]],
        *,
        kind: DocumentKind,
        near: Entity,
        extra: Sequence[str] = (),
    ) -> Page:
        prose = self._prose
        own = prose.person_fillers if entity.type == "person" else prose.thing_fillers
        if entity.type in _PLACES:
            own += prose.place_fillers
        fillers = (self._filled(text, entity) for text in self._draw.shuffled([*prose.fillers, *own]))
        have = [*(sentence for _, sentence in facts), *extra]
        intro = self._filled(self._draw.choice(prose.intros), entity)
        body = self._draw.shuffled(self._until(fillers, have=have, lengths=_LENGTHS))
        return Page(
            title=entity.name,
            text=self._paragraphs([intro, *body]),
            kind=kind,
            near=near.name,
            statements=tuple(statement for statement, _ in facts),
        )

    def _side_relations(
        self, entity: Entity, needed: Relation | Kind, arrived: Relation | None
    ) -> list[Relation]:
        """At most one true relation that the question does not ask for."""
        found = [
            relation
            for relation in RELATIONS[entity.type]
            if relation != needed and follows(arrived, relation)
        ]
        return self._draw.shuffled(found)[:1]

    def _fact(self, entity: Entity, about: Relation | Kind, value: str = "") -> tuple[Statement, str]:
        """A fact and its sentence; without a `value`, one that is no part of a chain is drawn."""
        if isinstance(about, Relation):
            shown = self._shown(about.object, value)
            phrase, name = about.phrases[self._language], about.name
        else:
            shown = value or self._value(about)
            phrase, name = ATTRIBUTES[entity.type][about][self._language], about
        sentence = self._sentence(phrase, entity, shown)
        return Statement(subject=entity.name, relation=name, value=value or shown), sentence

    def _value(self, kind: Kind) -> str:
        self._values += 1
        other = self._mint.other(
            kind, draw=self._draw, language=self._language, index=self._index, count=self._values
        )
        return other.text

    def _shown(self, name: TypeName, value: str) -> str:
        naming = NAMINGS[self._language][name]
        if not value:
            part = self._draw.choice(naming.parts) if naming.parts else self._common_word()
            value = naming.title.format(word=self._common_word(), part=part)
        return naming.form.format(name=value)

    def _sentence(self, phrase: Phrase, entity: Entity, value: str) -> str:
        if self._draw.below(2):
            return _capital(phrase.sentence.format(x=entity.form, v=value))
        template = self._draw.choice(self._prose.facts)
        return self._filled(template, entity, fact=phrase.noun.format(x=entity.form)).replace("{v}", value)

    def _filled(self, template: str, entity: Entity, *, fact: str = "") -> str:
        naming = entity.naming
        return _capital(
            template.replace("{S}", entity.form)
            .replace("{n}", naming.noun)
            .replace("{m}", naming.measure)
            .replace("{fact}", fact)
            .replace("{w}", self._common_word())
        )

    def _common_word(self) -> str:
        return self._mint.common_word(self._draw, language=self._language)

    def _until(
        self, more: Iterable[str], *, have: Sequence[str], lengths: Mapping[Language, tuple[int, int]]
    ) -> list[str]:
        """`have` and as many sentences of `more` as a document of a drawn length takes."""
        wanted = self._draw.between(*lengths[self._language])
        told = list(have)
        length = sum(map(self._length, told))
        for sentence in more:
            if length >= wanted:
                break
            told.append(sentence)
            length += self._length(sentence)
        return told

    def _length(self, sentence: str) -> int:
        return len(sentence.split()) if self._language == "en" else len(sentence)

    def _paragraphs(self, sentences: Sequence[str]) -> str:
        space = " " if self._language == "en" else ""
        paragraphs, start = [], 0
        while start < len(sentences):
            end = start + self._draw.between(2, 5)
            paragraphs.append(space.join(sentences[start:end]))
            start = end
        return "\n\n".join(paragraphs)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
