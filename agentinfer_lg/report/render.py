"""The text that a reader sees: whatever a model wrote, only documents that were really retrieved are cited.

The model's text is a draft. Its citations are looked up in the registry of sources; an invented one is removed and
counted. A claim without a citation gets the source whose passages support it, found by words in common, and is marked
where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from agentinfer_lg.report.grammar import (
    CITE,
    CITED,
    END,
    HOLDS,
    KEEP,
    KEPT,
    NO_SOURCE,
    PREFIX,
    BlockKind,
    blocks,
    claim_spans,
    close_gap,
    defused,
    without_marks_of_ours,
)
from agentinfer_lg.report.support import Claim, Support, is_cjk
from agentinfer_lg.report.tokens import Token, Tokenizer
from agentinfer_lg.text import detect_language

if TYPE_CHECKING:  # the state module needs LangGraph; this one does not
    from agentinfer_lg.state import Source


@dataclass(frozen=True)
class CitedText:
    """A text whose citations all lead to retrieved sources."""

    text: str
    """Citations are `[1]` to `[n]`, numbered in the order in which they first appear."""
    cited: tuple[str, ...]
    """Keys of the sources: `cited[0]` is `[1]`."""
    dropped: int
    """Citations and addresses removed, because no such source was retrieved or it has nothing in common with the
    sentence."""
    unsupported: int
    """Claims that no source supports; marked in the text."""


def resolve_citations(
    text: str, *, numbers: Sequence[str], sources: Mapping[str, Source], attribute: bool = True
) -> CitedText:
    """Make every citation of a text one of a retrieved source; never raises, takes linear time.

    Understood are `[1]`, `[1, 2]`, `[1-3]`, `[1][3]`, `【1】`, `[^1]`, `[S1]`, `(Source 2)`, links, plain addresses,
    and a list of sources at the end, which is taken off (see `source_list`). Code blocks stay as they are; in tables
    and headings citations are resolved and nothing is added.

    Args:
        text: Markdown as a model wrote it.
        numbers: `numbers[i]` is the key of the source that the model knew as `[i + 1]`.
        sources: All retrieved sources by key.
        attribute: Also check each cited sentence against its source, give claims without a citation the source that
            supports them, and mark those that have none.
    """
    return _Resolver(text, numbers, sources, attribute).resolve()


def source_list(cited: Sequence[str], sources: Mapping[str, Source]) -> str:
    """Render the list of sources as markdown, one `[1] Title — uri` per item.

    Args:
        cited: Keys in the order of their numbers, as in `CitedText.cited`.
        sources: All retrieved sources by key.
    """
    lines = []
    for number, key in enumerate(cited, start=1):
        source = sources.get(key)
        uri = _one_line(source["uri"]) if source else key
        title = _one_line(source["title"])[:200] if source else ""
        title = re.sub(r"([\\\[\]`*_<>])", r"\\\1", title)
        lines.append(f"- [{number}] {title} — {uri}" if title else f"- [{number}] {uri}")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class _Resolver:
    """Resolves the citations of one text."""

    def __init__(
        self, text: str, numbers: Sequence[str], sources: Mapping[str, Source], attribute: bool
    ) -> None:
        self._text = without_marks_of_ours(text)
        self._numbers = numbers
        self._sources = sources
        self._attribute = attribute
        self._language = detect_language(text)
        self._tokenizer = Tokenizer(numbers, sources)
        self._misplaced = 0
        self._unsupported = 0

    @cached_property
    def _support(self) -> Support:
        order = {key: rank for rank, key in enumerate(self._numbers)}
        keys = sorted(self._sources, key=lambda key: order.get(key, len(order)))
        return Support({key: self._sources[key] for key in keys})

    def resolve(self) -> CitedText:
        rendered = []
        for kind, block in blocks(self._tokenizer.without_lists(self._text.split("\n"))):
            if kind == "code":
                rendered.append(self._tokenizer.literal(block))
            elif kind == "definition":
                self._tokenizer.count_definition(block)
            else:
                rendered.append(self._block(kind, block))
        return self._numbered(defused("\n".join(rendered)))

    def _numbered(self, text: str) -> CitedText:
        cited: dict[str, int] = {}
        text = CITED.sub(lambda match: f"[{cited.setdefault(match[1], len(cited) + 1)}]", text)
        text = KEPT.sub(lambda match: self._tokenizer.literals[int(match[1])], text)
        dropped = self._tokenizer.dropped + self._misplaced
        return CitedText(text.strip("\n"), tuple(cited), dropped, self._unsupported)

    def _block(self, kind: BlockKind, block: str) -> str:
        prefix = "" if kind == "table" else (PREFIX.match(block) or [""])[0]
        plain, tokens = self._tokenizer.tokenize(block[len(prefix) :])
        if kind != "prose" or not self._attribute:
            return prefix + _rendered(plain, tokens, [token.keys for token in tokens])
        nearby = {key for token in tokens for key in token.keys}
        parts = []
        first = 0
        for start, end in claim_spans(plain):
            count = len(HOLDS.findall(plain, start, end))
            parts.append(self._sentence(plain[start:end], tokens[first : first + count], nearby))
            first += count
        return prefix + "".join(parts)

    def _sentence(self, sentence: str, tokens: Sequence[Token], nearby: set[str]) -> str:
        """Check the citations of one sentence, or find it one."""
        visible = iter([token.visible for token in tokens])
        claim = Claim.of(HOLDS.sub(lambda _: f" {next(visible)} ", sentence))
        cited = [self._fitting(token, claim) for token in tokens]
        if any(cited):
            better = self._support.better({key for keys in cited for key in keys}, claim)
            if better:
                # An address that is kept stays, whatever it is good for.
                self._misplaced += sum(
                    len(keys) for token, keys in zip(tokens, cited, strict=True) if token.kept < 0
                )
                cited = [()] * len(tokens)
                sentence = _insert(sentence, _markers(better))
        elif claim.needs_source:
            keys = self._support.find(claim, nearby)
            self._unsupported += not keys
            sentence = _insert(sentence, _markers(keys) if keys else NO_SOURCE[self._language])
        return _rendered(sentence, tokens, cited)

    def _fitting(self, token: Token, claim: Claim) -> tuple[str, ...]:
        """Sources of a citation that have anything in common with its sentence."""
        keys = tuple(key for key in token.keys if self._support.fits(key, claim))
        self._misplaced += len(token.keys) - len(keys) if token.kept < 0 else 0
        return keys


def _rendered(plain: str, tokens: Sequence[Token], cited: Sequence[tuple[str, ...]]) -> str:
    """Put citations and literals where their place holders are."""
    pieces = HOLDS.split(plain)
    parts = [pieces[0]]
    shown: set[str] = set()  # by the markers just before
    for token, keys, piece in zip(tokens, cited, pieces[1:], strict=True):
        new = [key for key in keys if key not in shown]
        if token.kept >= 0:
            parts.append(f"{KEEP}{token.kept}{END}{' ' if new else ''}")
        parts.extend(f"{CITE}{key}{END}" for key in new)
        start = close_gap(parts, piece, 0) if token.kept < 0 and not new else 0
        shown = set() if piece.strip() else shown | set(new)
        parts.append(piece[start:])
    return "".join(parts)


def _markers(keys: Sequence[str]) -> str:
    return " " + "".join(f"{CITE}{key}{END}" for key in keys)


def _insert(sentence: str, addition: str) -> str:
    """Put a marker before the full stop."""
    if not addition:
        return sentence
    body = sentence.rstrip().rstrip(".。!！…;；,，")
    if not body:
        return sentence
    if is_cjk(body[-1]):
        addition = addition.lstrip(" ")
    return body + addition + sentence[len(body) :]
