"""Tokens: the citations in a text, looked up in the registry of retrieved sources.

A citation of something that was never retrieved is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentinfer_lg.report.grammar import (
    DEFINITION,
    END,
    FENCE,
    HEADING,
    HOLD,
    KEEP,
    LIST_HEADING,
    LITERAL,
    MARK_LEFT,
    PREFIX,
    TOKEN,
    URL_LEFT,
    cited_numbers,
    close_gap,
    defused,
    ends_outside,
)
from agentinfer_lg.report.sources import same_uri

if TYPE_CHECKING:  # the state module needs LangGraph; this one does not
    from agentinfer_lg.state import Source

_MAX_TAIL = 8
"""Characters at the end of an address that may be punctuation."""


@dataclass(frozen=True, slots=True)
class Token:
    """Something in the text that is not plain: a citation, or a piece that is kept as it is."""

    keys: tuple[str, ...] = ()
    """Sources cited."""
    kept: int = -1
    """Index of the literal text, -1 for none."""
    visible: str = ""
    """What of it counts as words of the sentence."""

    @property
    def place_holder(self) -> str:
        """What stands for it in the text."""
        return HOLD if self.kept < 0 else LITERAL


class Tokenizer:
    """Reads a text, and remembers what was kept of it word for word.

    Args:
        numbers: `numbers[i]` is the key of the source that the model knew as `[i + 1]`.
        sources: All retrieved sources by key.
    """

    def __init__(self, numbers: Sequence[str], sources: Mapping[str, Source]) -> None:
        self._numbers = [key if key in sources else "" for key in numbers]
        self._by_uri = {same_uri(source["uri"]): key for key, source in sources.items()}
        self._names = {
            name.casefold()
            for source in sources.values()
            for name in (source["title"], source["uri"])
            if name
        }
        self.literals: list[str] = []
        """Pieces that are kept as they are; a token knows its own by the index."""
        self.dropped = 0
        """Citations and addresses of what was never retrieved."""

    def tokenize(self, text: str) -> tuple[str, list[Token]]:
        """Replace everything that is not plain text by a place holder; what is invented goes."""
        parts: list[str] = []
        tokens: list[Token] = []
        position = 0
        while match := TOKEN.search(text, position):
            parts.append(text[position : match.start()])
            token, position = self._token(match)
            if token is None:
                position = close_gap(parts, text, position)
            elif isinstance(token, str):
                parts.append(token)
            else:
                tokens.append(token)
                parts.append(token.place_holder)
        parts.append(text[position:])
        return "".join(parts), tokens

    def without_lists(self, lines: Sequence[str]) -> list[str]:
        """Take off lists of sources that the model wrote itself."""
        kept: list[str] = []
        i = 0
        fenced = False
        while i < len(lines):
            fenced ^= bool(FENCE.match(lines[i]))
            end = self._list_end(lines, i + 1) if not fenced and LIST_HEADING.match(lines[i]) else 0
            if not end:
                kept.append(lines[i])
                i += 1
                continue
            for line in lines[i + 1 : end]:
                self.tokenize(PREFIX.sub("", line, count=1))  # only for the count of what is invented
            i = end
        return kept

    def _list_end(self, lines: Sequence[str], start: int) -> int:
        """Line after the list of sources that starts at `start`; 0 when something else stands there."""
        for i in range(start, len(lines)):
            if HEADING.match(lines[i]):
                return i
            entry = PREFIX.sub("", lines[i], count=1).strip()
            known = MARK_LEFT.match(entry) or URL_LEFT.search(entry) or entry.casefold() in self._names
            if entry and not known:
                return 0
        return len(lines)

    def count_definition(self, block: str) -> None:
        """Take note of what the definition of a footnote invents."""
        self.tokenize(DEFINITION.sub("", block))

    def literal(self, text: str) -> str:
        """Keep a text as it is, and return what stands for it."""
        return f"{KEEP}{self._kept(text).kept}{END}"

    def _token(self, match: re.Match[str]) -> tuple[Token | str | None, int]:
        """What stands for a match (None for an invented citation), and where to read on."""
        if match["code"] is not None:
            return self._kept(match["code"]), match.end()
        if match["link"] is not None:
            return self._link(match), match.end()
        if match["url"] is not None:
            return self._address(match)
        if match["mark"] is not None:
            keys = self._cited_keys(match["mark"])
            return (Token(keys=keys) if keys else None), match.end()
        key = self._key_of(match["name"])
        return (Token(keys=(key,)), match.end()) if key else ("[", match.start() + 1)

    def _link(self, match: re.Match[str]) -> Token | str | None:
        label, target = match["label"].strip("[]^ "), match["target"]
        key = self._key_of(target)
        if label.isdecimal():
            self.dropped += not key
            keys = (key,) if key else self._cited_keys(f"[{label}]")
            return Token(keys=keys) if keys else None
        if key or target.startswith("#"):
            image = "!" if match["link"].startswith("!") else ""
            keys = (key,) if key else ()
            return self._kept(f"{image}[{defused(label)}]({target})", keys=keys, visible=label)
        self.dropped += 1
        return defused(label) or None

    def _address(self, match: re.Match[str]) -> tuple[Token | None, int]:
        url, start = match["url"], match.start("url")
        forms = [url]  # punctuation at the end may be part of the address, but seldom is
        while len(forms) <= _MAX_TAIL and ends_outside(forms[-1]):
            forms.append(forms[-1][:-1])
        known = next((form for form in reversed(forms) if self._key_of(form)), "")
        end = start + len(known or forms[-1])
        if end == match.end("url"):
            end = match.end()  # the closing > of <https://…>
        if known:
            return self._kept(known, keys=(self._key_of(known),)), end
        self.dropped += 1
        return None, end

    def _kept(self, text: str, *, keys: tuple[str, ...] = (), visible: str = "") -> Token:
        self.literals.append(text)
        return Token(keys=keys, kept=len(self.literals) - 1, visible=visible)

    def _key_of(self, uri: str) -> str:
        candidates = (uri, f"https://{uri}", f"http://{uri}") if uri.lower().startswith("www.") else (uri,)
        return next((key for each in candidates if (key := self._by_uri.get(same_uri(each)))), "")

    def _cited_keys(self, mark: str) -> tuple[str, ...]:
        keys: dict[str, None] = {}
        for number in cited_numbers(mark):
            if 0 < number <= len(self._numbers) and self._numbers[number - 1]:
                keys[self._numbers[number - 1]] = None
            else:
                self.dropped += 1
        return tuple(keys)
