"""Sentences of the documents of a closed world that hold no fact about the entities asked for, in two languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentinfer_lg.evals.common.data_file import read_data
from agentinfer_lg.text import Language


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """One language. `{S}`: the entity with its article; `{n}`: its kind; `{fact}`: what is looked for; `{w}`: some place."""

    intros: tuple[str, ...]
    fillers: tuple[str, ...]
    """About anybody or anything."""
    thing_fillers: tuple[str, ...]
    place_fillers: tuple[str, ...]
    """About what has walls, or a deck."""
    person_fillers: tuple[str, ...]
    facts: tuple[str, ...]
    """`{fact}` and its `{v}`, in other words than the plain sentence."""
    mentions: tuple[str, ...]
    """Sentences of a document on something else (`{D}`) that name the entity."""
    advertisement_titles: tuple[str, ...]
    advertisements: tuple[str, ...]
    dead_end_titles: tuple[str, ...]
    dead_ends: tuple[str, ...]
    dead_end_fillers: tuple[str, ...]


PROSE: Final[dict[Language, Prose]] = {
    language: Prose(**{kind: tuple(sentences) for kind, sentences in kinds.items()})
    for language, kinds in read_data(__file__, "prose.json").items()
}
"""The sentences by language."""
