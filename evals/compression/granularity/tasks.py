"""Sessions generated from a seed: documents full of exact details, and questions for some of the old ones.

Every third session is Chinese. The task of a session is known while its results are distilled; which details will be
asked for is not, which is what makes notes lose them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from agentinfer_lg.evals.compression.granularity.session import DetailSession, Probe, last_covered
from agentinfer_lg.evals.compression.granularity.vocabulary import VOCABULARY, Vocabulary, draw_detail
from agentinfer_lg.llm.protocol import Action, Step
from agentinfer_lg.llm.transcript import step_message
from agentinfer_lg.prompts import PROMPTS, Language

TUNING = range(10)
"""Seeds to work with while something is changed; figures are reported on others."""
REPORTED = range(100, 200)

_ROUNDS, _RESULTS = 7, 3
_DETAILS = 6
"""Details of each document."""
_FILLERS = 3
_PROBES = 6


@dataclass(frozen=True, slots=True)
class _Detail:
    number: int
    title: str
    kind: str
    label: str
    value: str
    also: tuple[str, ...]


def generated_session(seed: int, *, keep_rounds: int = 2, probes: int = _PROBES) -> DetailSession:
    """Return the session of a seed.

    Args:
        seed: The same one gives the same session, on any machine.
        keep_rounds: Last rounds whose results stay whole; nothing is asked about them.
        probes: Number of questions, each about another result.
    """
    draw = random.Random(f"granularity {seed}")
    language: Language = "zh" if seed % 3 == 2 else "en"
    words = VOCABULARY[language]
    site = draw.choice(words.sites)
    task = words.task.format(site=site)
    messages: list[AnyMessage] = [HumanMessage(PROMPTS[language].task.format(question=task), id="task")]
    details: list[_Detail] = []
    queries: list[str] = []
    titles = _titles(words, draw)
    used: set[str] = set()
    for turn in range(_ROUNDS):
        documents = []
        for _ in range(_RESULTS):
            number = len(titles["used"]) + 1
            title = titles["left"].pop()
            titles["used"].append(title)
            own = _details(number, title, language, draw, used)
            details += own
            documents.append(f"[{number}] {title}: {_text(own, words, site, draw)}")
        query = words.query.format(site=site, thing=words.things[turn % len(words.things)])
        queries.insert(0, query)
        known = draw.choice(titles["used"][:-_RESULTS]) if turn else ""
        messages += _round(turn, query, documents, words, site, known)
    upto = last_covered(messages, keep_rounds=keep_rounds)
    old = [detail for detail in details if detail.number <= _RESULTS * (_ROUNDS - keep_rounds)]
    return DetailSession(
        id=f"generated-{seed}",
        set="generated",
        language=language,
        task=task,
        messages=tuple(messages),
        upto=upto,
        queries=tuple(queries[keep_rounds:]),
        probes=tuple(_probes(old, details, words, draw, count=probes)),
    )


def _titles(words: Vocabulary, draw: random.Random) -> dict[str, list[str]]:
    """Names that share their words with each other: a search for one also matches others."""
    names = [(first, second) for first in words.first for second in words.second]
    chosen = draw.sample(names, _ROUNDS * _RESULTS)
    titles = [
        words.title.format(first=first, second=second, thing=draw.choice(words.things))
        for first, second in chosen
    ]
    return {"left": titles, "used": []}


def _details(
    number: int, title: str, language: Language, draw: random.Random, used: set[str]
) -> list[_Detail]:
    kinds = draw.sample(sorted(VOCABULARY[language].details), _DETAILS)
    found = []
    for kind in kinds:
        value, also = draw_detail(kind, language, draw)
        while value in used:
            value, also = draw_detail(kind, language, draw)
        used.add(value)
        label = draw.choice(VOCABULARY[language].details[kind])
        found.append(_Detail(number, title, kind, label, value, also))
    return found


def _text(details: Sequence[_Detail], words: Vocabulary, site: str, draw: random.Random) -> str:
    said = [
        draw.choice(words.sentences).format(title=each.title, label=each.label, value=each.value)
        for each in details
    ]
    fillers = [
        filler.format(title=details[0].title, site=site) for filler in draw.sample(words.fillers, _FILLERS)
    ]
    sentences = [fillers[0], *_shuffled([*said, *fillers[1:]], draw)]
    return (" " if words is VOCABULARY["en"] else "").join(sentences)


def _shuffled(items: list[str], draw: random.Random) -> list[str]:
    draw.shuffle(items)
    return items


def _round(
    turn: int, query: str, documents: Sequence[str], words: Vocabulary, site: str, known: str
) -> list[AnyMessage]:
    notes = (
        {"known": words.known.format(title=known), "missing": words.missing.format(site=site)}
        if turn
        else {"thought": words.thought}
    )
    raw = json.dumps({**notes, "action": "search", "query": query}, ensure_ascii=False)
    step = Step(
        thought=" ".join(notes.values()),
        actions=(Action(tool="web_search", arguments={"queries": [query]}),),
    )
    message = step_message(step, message_id=f"step-{turn}", raw=raw)
    result = ToolMessage("\n".join(documents), tool_call_id=f"step-{turn}-0", id=f"result-{turn}")
    return [message, result]


def _probes(
    old: Sequence[_Detail], every: Sequence[_Detail], words: Vocabulary, draw: random.Random, *, count: int
) -> list[Probe]:
    numbers = sorted({detail.number for detail in old})
    chosen = sorted(draw.sample(numbers, min(count, len(numbers))))
    probes = []
    for number in chosen:
        detail = draw.choice([each for each in old if each.number == number])
        probes.append(
            Probe(
                kind=detail.kind,
                question=words.question.format(label=detail.label, title=detail.title),
                answer=detail.value,
                also=detail.also,
                number=number,
                rivals=tuple(e.value for e in every if e.kind == detail.kind and e.value != detail.value),
            )
        )
    return probes
