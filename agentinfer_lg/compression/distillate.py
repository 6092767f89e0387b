"""The distillate: what an agent keeps of tool results that it no longer sees.

Facts with the numbers of their results, open leads, dead ends, and the exact strings that could be recalled. A newer
distillate takes over the facts of the one before word for word: nothing is summarised twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentinfer_lg.compression.extract import exact_strings, key_sentences
from agentinfer_lg.compression.fidelity import Reference
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.llm.grammar import prose
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.prompts import Prompts
from agentinfer_lg.text import clip, content_terms, sentences, well_formed

_MAX_LINE = 300
_FACT_WORDS = 40
"""Most words of a fact that the grammar lets a model write."""
_LEAD_WORDS = 20
_ENDS = ".!?。！？…)）」』”\"'"
"""Marks at which a sentence, or something quoted, ends."""
_MAX_LEAD = 160
_FEWEST_WORDS = 2
"""Words with a content, numbers apart, without which a line says nothing."""
_FACT = re.compile(r"^[-*•\s]*\[(\d{1,4})\]\s*(.{2,})$")
_LEAD = re.compile(r"^[-*•\s]*(?:open|lead|线索)\s*[:：]\s*(.{2,})$", re.IGNORECASE)
_DEAD_END = re.compile(r"^[-*•\s]*(?:dead end|死胡同)\s*[:：]\s*(.{2,})$", re.IGNORECASE)
_MAX_NOTES = 6
"""Open leads and dead ends kept, each."""
_MAX_RANGES = 12
_DETAIL_SHARE = 0.25
"""Share of the budget that titles and exact strings may take."""
_TITLE_TOKENS = 12
_DETAIL_TOKENS = 60
_LINE_TOKENS = 4
"""What a line takes beside its text: the number, the end."""
_BETWEEN = "; "


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence and the number of the result that it comes from."""

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillate:
    """What is kept of the results with `numbers`."""

    facts: tuple[Fact, ...] = ()
    details: tuple[Fact, ...] = ()
    """The title of a result, and exact strings of it: they are not explained, but could be recalled."""
    leads: tuple[str, ...] = ()
    """What was seen and not followed up."""
    dead_ends: tuple[str, ...] = ()
    """What was tried in vain."""
    numbers: tuple[int, ...] = ()
    """Results that it stands for, and that can be recalled."""

    def text(self, prompts: Prompts, *, recall: bool) -> str:
        """Write it as the model reads it."""
        lines = [f"[{fact.number}] {fact.text}" for fact in _named(self.facts, self.details)]
        lines += [f"{prompts.open_lead}: {lead}" for lead in self.leads]
        lines += [f"{prompts.dead_end}: {end}" for end in self.dead_ends]
        if recall and self.details:
            lines.append(prompts.recallable)
            lines += [f"[{detail.number}] {detail.text}" for detail in self.details]
        heading = prompts.notes_heading.format(numbers=_ranges(self.numbers))
        if recall and self.numbers:
            heading += " " + prompts.recall_hint
        nothing = [] if self.numbers else [prompts.no_results]
        return "\n".join([heading, *(lines or nothing)])

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return {
            "facts": [[fact.number, fact.text] for fact in self.facts],
            "details": [[fact.number, fact.text] for fact in self.details],
            "leads": list(self.leads),
            "dead_ends": list(self.dead_ends),
            "numbers": list(self.numbers),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Distillate:
        """Read what `to_json` wrote; what cannot be read is left out."""

        def facts(value: object) -> tuple[Fact, ...]:
            items = value if isinstance(value, list) else []
            return tuple(
                Fact(item[0], item[1])
                for item in items
                if isinstance(item, list)
                and len(item) == 2
                and _is_number(item[0])
                and isinstance(item[1], str)
            )

        def strings(value: object) -> tuple[str, ...]:
            return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()

        numbers = data.get("numbers")
        return cls(
            facts=facts(data.get("facts")),
            details=facts(data.get("details")),
            leads=strings(data.get("leads")),
            dead_ends=strings(data.get("dead_ends")),
            numbers=tuple(filter(_is_number, numbers)) if isinstance(numbers, list) else (),
        )

    @classmethod
    def joined(cls, parts: Sequence[Distillate]) -> Distillate:
        """Return the lines of notes on different results, in order."""
        return cls(
            facts=tuple(fact for notes in parts for fact in notes.facts),
            leads=tuple(lead for notes in parts for lead in notes.leads),
            dead_ends=tuple(end for notes in parts for end in notes.dead_ends),
        )

    def after(self, earlier: Distillate, *, queries: Sequence[str], tokens: int) -> Distillate:
        """Return this distillate joined to the one before it, within a budget.

        Args:
            earlier: Its facts come first.
            queries: The question, then what was searched lately: facts that match them least are dropped first.
            tokens: Most tokens (estimated) of facts and details together.
        """
        facts = tuple(dict.fromkeys([*earlier.facts, *self.facts]))
        kept = _within(facts, queries, tokens)
        newer = {detail.number for detail in self.details}
        details = (*self.details, *(detail for detail in earlier.details if detail.number not in newer))
        left = min(int(_DETAIL_SHARE * tokens), tokens - _cost(kept))
        return replace(
            self,
            facts=kept,
            details=_first(details, left),
            leads=_last([*earlier.leads, *self.leads]),
            dead_ends=_last([*earlier.dead_ends, *self.dead_ends]),
            numbers=tuple(sorted({*earlier.numbers, *self.numbers})),
        )


def distillate_regex(numbers: Sequence[int], *, lines: int) -> str:
    """Return the form of a model's notes: one fact per line, then open leads and dead ends."""
    allowed = "|".join(map(str, sorted(set(numbers))))
    fact, lead = prose(r"\n\[\]", words=_FACT_WORDS), prose(r"\n", words=_LEAD_WORDS)
    return rf"(\[({allowed})\] {fact}\n){{1,{lines}}}(open: {lead}\n){{0,2}}(dead end: {lead}\n){{0,2}}"


def read_notes(text: str, numbers: Iterable[int], *, cut: bool = False) -> Distillate:
    """Read a model's notes; lines of another form, and numbers that do not exist, are left out.

    Args:
        text: What the model wrote.
        numbers: Of the results.
        cut: The model had no tokens left for the end of its last line.
    """
    allowed = set(numbers)
    facts: list[Fact] = []
    leads: list[str] = []
    dead_ends: list[str] = []
    lines = well_formed(text).splitlines()
    for position, raw in enumerate(lines):
        line = " ".join(raw.split())
        if match := _FACT.match(line):
            unfinished = len(match[2].split()) >= _FACT_WORDS or (cut and position == len(lines) - 1)
            fact = _finished(match[2][:_MAX_LINE].strip()) if unfinished else match[2][:_MAX_LINE].strip()
            if int(match[1]) in allowed and fact:
                facts.append(Fact(int(match[1]), fact))
        elif match := _LEAD.match(line):
            leads.append(match[1][:_MAX_LEAD].strip())
        elif match := _DEAD_END.match(line):
            dead_ends.append(match[1][:_MAX_LEAD].strip())
    return Distillate(facts=tuple(dict.fromkeys(facts)), leads=_last(leads), dead_ends=_last(dead_ends))


def verified(notes: Distillate, originals: Sequence[Original]) -> tuple[Distillate, int]:
    """Check notes against the originals.

    A fact under the wrong number gets the right one; a fact that no original contains is removed, and so is a lead or a
    dead end that names something of which nothing was said.

    Returns:
        What is left, and how many lines were removed.
    """
    texts: dict[int, list[str]] = {}
    for original in originals:  # one result may come in several pieces
        texts.setdefault(original.number, []).append(f"{original.title}\n{original.text}")
    references = {number: Reference("\n".join(parts)) for number, parts in texts.items()}
    facts: list[Fact] = []
    for fact in _without_titles(notes.facts, originals):
        holders = [fact.number, *(number for number in references if number != fact.number)]
        number = next((n for n in holders if n in references and references[n].supports(fact.text)), None)
        if number is not None:
            facts.append(Fact(number, fact.text))
    everything = Reference("\n".join(part for parts in texts.values() for part in parts))
    leads = tuple(lead for lead in notes.leads if everything.supports(lead, denies=True))
    dead_ends = tuple(end for end in notes.dead_ends if everything.supports(end, denies=True))
    before = len(notes.facts) + len(notes.leads) + len(notes.dead_ends)
    kept = replace(notes, facts=_without_copies(facts), leads=leads, dead_ends=dead_ends)
    return kept, before - len(facts) - len(leads) - len(dead_ends)


def _finished(text: str) -> str:
    """Cut a line that the model did not end: back to its last sentence, or by the word that may be half."""
    if text[-1:] in _ENDS:
        return text
    whole = sentences(text)[:-1]
    return " ".join(whole) if whole else text.rpartition(" ")[0].rstrip(" ,;:(")


def _without_titles(facts: Iterable[Fact], originals: Sequence[Original]) -> list[Fact]:
    """Take the title of a result off the beginning of a fact: a small model copies it along."""
    titles = [f"{original.title}: " for original in originals if original.title]
    found = []
    for fact in facts:
        title = next((title for title in titles if fact.text.startswith(title)), "")
        found.append(Fact(fact.number, fact.text.removeprefix(title)))
    return found


def _without_copies(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Leave out facts that say nothing, or nothing that one before did not say."""
    kept: list[Fact] = []
    for fact in facts:
        words = [term for term in content_terms(fact.text) if not term.isdigit()]
        if len(words) >= _FEWEST_WORDS and not any(fact.text in before.text for before in kept):
            kept.append(fact)
    return tuple(kept)


def extracted(originals: Sequence[Original], queries: Sequence[str], *, tokens: int) -> Distillate:
    """Make notes without a model: the sentences that match the question best, word for word."""
    chosen = key_sentences(originals, queries, tokens=tokens)
    return Distillate(facts=tuple(Fact(number, text) for number, text in chosen))


def with_details(notes: Distillate, originals: Sequence[Original], *, tokens: int) -> Distillate:
    """Add what could be recalled: the title of each original, then exact strings of it that its facts do not mention.

    The title comes first and is never left out: strings alone do not tell which result to recall for a question.
    """
    details = []
    share = tokens // max(1, len(originals)) - _LINE_TOKENS
    for original in originals:
        known = " ".join(fact.text for fact in notes.facts if fact.number == original.number)
        title = clip(original.title, tokens=_TITLE_TOKENS)
        left = share - estimate_tokens(title)
        strings = exact_strings(original.text, known=f"{original.title} {known}", tokens=left)
        text = f"{title}: {_BETWEEN.join(strings)}" if strings else title
        if text:
            details.append(Fact(original.number, text))
    numbers = tuple(sorted({original.number for original in originals}))
    return replace(notes, details=tuple(details), numbers=numbers)


def _named(facts: Iterable[Fact], details: Iterable[Fact]) -> list[Fact]:
    """Put the title of its result after each fact that does not name its subject, as in "Its price is $5"."""
    titles = {detail.number: detail.text.partition(": ")[0] for detail in details}
    named = []
    for fact in facts:
        words = content_terms(titles.get(fact.number, ""))
        knows = 2 * len(words & content_terms(fact.text)) >= len(words)
        named.append(fact if knows else Fact(fact.number, f"{fact.text} ({titles[fact.number]})"))
    return named


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _within(facts: Sequence[Fact], queries: Sequence[str], tokens: int) -> tuple[Fact, ...]:
    """Drop the facts that match least, and of equal ones the oldest, until the rest fits."""
    if _cost(facts) <= tokens:
        return tuple(facts)
    wanted = [content_terms(query) for query in queries]
    match: Callable[[Fact], float] = lambda fact: sum(  # noqa: E731
        len(terms & content_terms(fact.text)) / position for position, terms in enumerate(wanted, start=1)
    )
    order = sorted(range(len(facts)), key=lambda i: (-match(facts[i]), -i))
    chosen: set[int] = set()
    for index in order:
        cost = _cost([facts[index]])
        if cost <= tokens:
            chosen.add(index)
            tokens -= cost
    return tuple(fact for index, fact in enumerate(facts) if index in chosen)


def _first(facts: Sequence[Fact], tokens: int) -> tuple[Fact, ...]:
    """Shorten all alike until they fit, so that the list stays complete as long as it can; then the last ones go."""
    kept = []
    share = max(_TITLE_TOKENS, tokens // max(1, len(facts)) - _LINE_TOKENS)
    most = min(_DETAIL_TOKENS, _DETAIL_TOKENS if _cost(facts) <= tokens else share)
    for fact in facts:
        text = _shortened(fact.text, min(tokens - _LINE_TOKENS, most))
        if not text:
            break
        kept.append(Fact(fact.number, text))
        tokens -= _cost([kept[-1]])
    return tuple(kept)


def _shortened(detail: str, tokens: int) -> str:
    """Leave out whole strings from the end: a part of one would be a wrong one. The title goes last."""
    title, separator, strings = detail.rpartition(": ")
    kept = strings.split(_BETWEEN) if separator else []
    while kept and estimate_tokens(f"{title}: {_BETWEEN.join(kept)}") > tokens:
        kept.pop()
    return f"{title}: {_BETWEEN.join(kept)}" if kept else clip(title if separator else strings, tokens=tokens)


def _cost(facts: Iterable[Fact]) -> int:
    return sum(estimate_tokens(fact.text) + _LINE_TOKENS for fact in facts)


def _last(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))[-_MAX_NOTES:]


def _ranges(numbers: Sequence[int]) -> str:
    """Write `1, 2, 3, 7` as `[1]-[3], [7]`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    if len(parts) > _MAX_RANGES:  # each result that the filter left out makes a gap
        parts = [[parts[0][0], parts[-1][1]]]
    return ", ".join(f"[{first}]" if first == last else f"[{first}]-[{last}]" for first, last in parts)
