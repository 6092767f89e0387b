"""A recorded session whose old tool results hold exact details, and the questions that ask for them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from langchain_core.messages import AnyMessage, ToolMessage

from agentinfer_lg.compression.originals import Original, join_originals, split_results
from agentinfer_lg.compression.view import split_rounds
from agentinfer_lg.prompts import Language

TaskSet = Literal["generated", "airline"]

_DASHES = re.compile("[\u2010-\u2015\u2212]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A question whose answer is one exact detail."""

    kind: str
    """What kind of detail it is, such as `price`."""
    question: str
    answer: str
    number: int
    """The result that holds it."""
    also: tuple[str, ...] = ()
    """Other spellings that are right."""
    rivals: tuple[str, ...] = ()
    """Details of the same kind that are wrong; an answer that names one of them is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailSession:
    """A transcript, and what is asked once its old results were distilled."""

    id: str
    set: TaskSet
    language: Language
    task: str
    """The task as it was known when the results were distilled; no probe follows from it."""
    messages: tuple[AnyMessage, ...]
    upto: str
    """Id of the last message that the notes stand for."""
    queries: tuple[str, ...] = ()
    """What was searched, latest first."""
    probes: tuple[Probe, ...] = field(default=())

    @property
    def originals(self) -> list[Original]:
        """The results that are distilled."""
        contents: list[str] = []
        for message in self.messages:
            if isinstance(message, ToolMessage):
                contents.append(str(message.content))
            if message.id == self.upto:
                break
        return join_originals(item for content in contents for item in split_results(content))


def last_covered(messages: Sequence[AnyMessage], *, keep_rounds: int) -> str:
    """Return the id of the last message to distill, if the last rounds stay whole; empty if nothing is left."""
    rounds = split_rounds(messages)
    old = [round_ for round_ in rounds[: max(0, len(rounds) - keep_rounds)] if round_.results]
    return old[-1].last_id if old else ""


def contains(text: str, detail: str) -> bool:
    """Whether `text` names `detail` exactly: not as a part of a longer number or identifier."""
    wanted = re.escape(_normal(detail))
    return re.search(rf"(?<![a-z0-9]){wanted}(?![a-z0-9]|[.\-/]\d)", _normal(text)) is not None


def is_right(answer: str, probe: Probe) -> bool:
    """Whether an answer names the detail, and no other of its kind."""
    named = any(contains(answer, spelling) for spelling in (probe.answer, *probe.also))
    return named and not any(contains(answer, rival) for rival in probe.rivals)


def _normal(text: str) -> str:
    """Letters in lower case, one kind of dash, single spaces, no commas of thousands."""
    text = _DASHES.sub("-", unicodedata.normalize("NFKC", text).lower())
    return _THOUSANDS.sub("", re.sub(r"\s+", " ", text)).strip()
