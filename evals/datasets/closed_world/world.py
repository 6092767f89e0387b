"""A closed world: invented documents and multi-hop questions about them, all from one seed.

Nothing in it can be known beforehand, every answer stands in one document only, and that document is found only by way of the
others that the question needs. Around these stand documents with similar names, documents that only mention a name,
advertisements, and pages that promise a record and do not have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.closed_world.attributes import KINDS
from agentinfer_lg.evals.datasets.closed_world.chain import Chain, NameSource, draw_chain
from agentinfer_lg.evals.datasets.closed_world.names import CAPACITY, Draw, Mint, Permutation
from agentinfer_lg.evals.datasets.closed_world.pages import DocumentKind, Page, PageWriter
from agentinfer_lg.evals.datasets.closed_world.vocabulary import ENTITY_TYPES
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.text import Language

_HOPS: Final = range(2, 7)
_MOST_USELESS = 24
_PAGES_PER_QUESTION = _MOST_USELESS + 6


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldDocument:
    """A document of a world."""

    name: str
    """Of its file, without the ending; says nothing about the kind."""
    title: str
    """Of evidence: the name of the entity that it is about."""
    text: str
    """Paragraphs with a blank line between them, without the title."""
    kind: DocumentKind
    near: str
    """The title of the evidence that it is or is meant to be taken for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldFact:
    """What a document states: one value of a relation of an entity, or of an attribute such as `year`."""

    document: str
    """Name of the document."""
    subject: str
    relation: str
    value: str
    """As it stands in the document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Documents, and questions that they answer."""

    seed: int
    documents: tuple[WorldDocument, ...]
    questions: tuple[Question, ...]
    """`evidence` names the entities of the chain, which are the titles of its documents, in order."""
    facts: tuple[WorldFact, ...]
    """Everything that the documents state; no subject has two values of a relation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Useless:
    similar: int
    mentions: int
    advertisements: int
    dead_ends: int


def generate_world(
    *,
    seed: int,
    questions: int,
    languages: Sequence[Language] = ("en", "zh"),
    hops: Sequence[int] = tuple(_HOPS),
    similar: int = 3,
    mentions: int = 1,
    advertisements: int = 2,
    dead_ends: int = 2,
) -> World:
    """Generate a world.

    The same arguments give the same world in every version of Python. With fewer questions, a world is the beginning of the
    one with more. Languages, hops and kinds of answers take turns, so that the first questions of a world are balanced.

    Args:
        seed: 0 or more.
        questions: How many, from 1 to 500.
        languages: Languages of questions, each with its own documents.
        hops: Numbers of documents, from 2 to 6, that have to be found one after the other.
        similar: Documents per question about an entity with a similar name.
        mentions: Documents per question about something else, in which an entity of the chain is named.
        advertisements: Per question.
        dead_ends: Per question.

    Raises:
        UserInputError: An argument is out of its range.
    """
    useless = _Useless(similar=similar, mentions=mentions, advertisements=advertisements, dead_ends=dead_ends)
    _check(seed, questions, languages, hops, useless)
    mint = Mint(seed)
    types = Draw(seed, "types").shuffled(ENTITY_TYPES)
    file_numbers = Permutation(CAPACITY * _PAGES_PER_QUESTION, draw=Draw(seed, "files"))
    asked: list[Question] = []
    pages: list[tuple[str, Page]] = []
    for index in range(questions):
        # Languages change fastest; hops, types and kinds of answers are to meet in all combinations.
        turn, language_number = divmod(index, len(languages))
        slot, kind_number = divmod(turn, len(KINDS))
        draw = Draw(seed, "question", index)
        language = languages[language_number]
        names = NameSource(mint.words(index, language=language), language=language, draw=draw)
        chain = draw_chain(
            start=types[turn % len(types)],
            hops=hops[turn % len(hops)],
            kind=KINDS[(kind_number + slot) % len(KINDS)],
            slot=slot * len(languages) + language_number,
            index=index,
            language=language,
            names=names,
            mint=mint,
            draw=draw,
        )
        asked.append(_question(chain, seed=seed, index=index))
        writer = PageWriter(chain, index=index, names=names, mint=mint, draw=draw)
        written = draw.shuffled(list(_pages(writer, chain, useless, draw)))
        for number, page in enumerate(written, start=index * _PAGES_PER_QUESTION):
            pages.append((f"w{seed}-{file_numbers[number]:05d}", page))
    return World(
        seed=seed,
        documents=tuple(_document(name, page) for name, page in pages),
        questions=tuple(asked),
        facts=tuple(fact for name, page in pages for fact in _facts(name, page)),
    )


def write_world(world: World, folder: Path) -> int:
    """Write each document as a Markdown file into `folder`; returns how many there are.

    Files that hold what they should stay untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for document in world.documents:
        file = folder / f"{document.name}.md"
        content = f"# {document.title}\n\n{document.text}\n".encode()
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
    return len(world.documents)


def _check(
    seed: int, questions: int, languages: Sequence[Language], hops: Sequence[int], useless: _Useless
) -> None:
    known = get_args(Language)
    counts = (useless.similar, useless.mentions, useless.advertisements, useless.dead_ends)
    if seed < 0:
        msg = f"The seed of a closed world is {seed}. Give 0 or more."
        raise UserInputError(msg)
    if not 1 <= questions <= CAPACITY:
        msg = f"A closed world cannot have {questions} questions. Ask for 1 to {CAPACITY}."
        raise UserInputError(msg)
    if not _some_of(languages, known):
        msg = f"The languages of a closed world are {_listed(languages)}. Name {_listed(known)}, each once at most."
        raise UserInputError(msg)
    if not _some_of(hops, _HOPS):
        msg = f"The hops of a closed world are {_listed(hops)}. Give numbers from {_HOPS[0]} to {_HOPS[-1]}, each once at most."
        raise UserInputError(msg)
    if min(counts) < 0 or sum(counts) > _MOST_USELESS:
        msg = (
            f"A question of a closed world cannot have {_listed(counts)} documents that lead nowhere. "
            f"Give numbers from 0, {_MOST_USELESS} at most together."
        )
        raise UserInputError(msg)


def _some_of(given: Sequence[object], known: Sequence[object]) -> bool:
    return 0 < len(given) == len(set(given)) and set(given) <= set(known)


def _listed(given: Sequence[object]) -> str:
    return ", ".join(map(str, given)) or "missing"


def _document(name: str, page: Page) -> WorldDocument:
    return WorldDocument(name=name, title=page.title, text=page.text, kind=page.kind, near=page.near)


def _facts(name: str, page: Page) -> Iterator[WorldFact]:
    for stated in page.statements:
        yield WorldFact(document=name, subject=stated.subject, relation=stated.relation, value=stated.value)


def _question(chain: Chain, *, seed: int, index: int) -> Question:
    return Question(
        id=f"cw-{seed}-{index:04d}",
        question=chain.question(),
        answer=chain.answer.text,
        also_right=chain.answer.variants,
        topic=f"{chain.language} {chain.entities[0].type}",
        hops=len(chain.entities),
        evidence=tuple(entity.name for entity in chain.entities),
    )


def _pages(writer: PageWriter, chain: Chain, useless: _Useless, draw: Draw) -> Iterator[Page]:
    """All documents of a question; the useless ones go round the chain, so that each entity gets some."""
    count = len(chain.entities)
    yield from map(writer.evidence, range(count))
    makers = [
        *[writer.similar] * useless.similar,
        *[writer.dead_end] * useless.dead_ends,
        *[writer.advertisement] * useless.advertisements,
        *[writer.mention] * useless.mentions,
    ]
    first = draw.below(count)
    for number, write in enumerate(makers):
        yield write((first + number) % count)
