"""Which source supports a claim, and when a citation counts as supported.

Words in common are no proof of a claim, but no claim can be right about a source that shares no word, name or number
with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentinfer_lg.text import content_terms, terms

if TYPE_CHECKING:  # the state module needs LangGraph; this one does not
    from agentinfer_lg.state import Source

_NOTHING_FOUND = re.compile(
    r"\b(?:no|not|nothing|none|cannot|could ?n[o']t|unable|unknown|unclear)\b.{0,80}\b"
    r"(?:found|find|sources?|information|evidence|available|known|determined?|answer(?:ed)?)\b"
    r"|(?:未|没有?|没能|无法|不能).{0,20}(?:找到|来源|信息|证据|资料|确定|回答)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[^\W\d_][\w'’-]*+")

_SUPPORT = 0.45
"""Share of a sentence's terms, weighted by rarity, that a passage with all its names and numbers must have."""
_SUPPORT_WITHOUT_NAMES = 0.65
_SUPPORT_NEARBY = 0.3
"""For a source that the same paragraph cites."""
_SUPPORT_BY_TWO = 0.6
_MOST_TERMS = 0.5


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, as its support is looked for."""

    words: str
    terms: frozenset[str]
    numbers: frozenset[str]
    """Those of the terms that begin with a digit."""
    names: frozenset[str]
    """Terms of its capitalised words."""

    @classmethod
    def of(cls, words: str) -> Claim:
        """Return the claim that a sentence makes."""
        found = content_terms(words)
        numbers = frozenset(term for term in found if term[0].isdigit())
        return cls(words, frozenset(found), numbers, frozenset(_names_in(words)))

    @property
    def needs_source(self) -> bool:
        """Whether it says something that needs a source: no question, lead-in, transition or apology."""
        concrete = bool(self.names or self.numbers)
        if not self.terms or not (concrete or len(self.terms) > 1):
            return False
        last = self.words.rstrip().rstrip("*_\"'”’)」』）")[-1:]
        return last not in ("?", "？", ":", "：") and not _NOTHING_FOUND.search(self.words[:2000])


class Support:
    """Which passages of which sources have the words of a sentence."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._keys: list[str] = []
        self._terms: list[set[str]] = []
        self._postings: dict[str, list[int]] = {}
        self._vocabulary: dict[str, set[str]] = {}
        for key, source in sources.items():
            title = content_terms(source["title"])
            for passage in source["passages"]:
                self._add(key, content_terms(passage) | title)
            self._vocabulary.setdefault(key, title)
        self._is_cjk = {key: _mostly_cjk(found) for key, found in self._vocabulary.items()}

    def _add(self, key: str, found: set[str]) -> None:
        for term in found:
            self._postings.setdefault(term, []).append(len(self._keys))
        self._keys.append(key)
        self._terms.append(found)
        self._vocabulary[key] = self._vocabulary.get(key, set()) | found

    def fits(self, key: str, claim: Claim) -> bool:
        """Whether a source may be cited for a claim: they have something in common.

        A source in another script may have, unseen. A claim without a term fits every source.
        """
        if not claim.terms or not claim.terms.isdisjoint(self._vocabulary[key]):
            return True
        in_cjk = self._is_cjk[key]
        return _mostly_cjk(claim.terms) != in_cjk and not any(is_cjk(term) == in_cjk for term in claim.terms)

    def better(self, cited: Collection[str], claim: Claim) -> tuple[str, ...]:
        """Sources that have all numbers and names of a claim, where the cited ones lack one of its numbers."""
        if self._mention(cited, claim.numbers):
            return ()
        found = self.find(claim)
        return found if self._mention(found, claim.numbers | claim.names) else ()

    def find(self, claim: Claim, nearby: Collection[str] = ()) -> tuple[str, ...]:
        """The source, or the two sources, that support a claim best; none without all of its numbers.

        Args:
            claim: What is to be supported.
            nearby: Sources that the same paragraph cites: less is asked of them.
        """
        numbers, names = claim.numbers, claim.names
        weights = {
            term: self._weight(term) for term in sorted(claim.terms)
        }  # sorted: sums must not depend on hashes
        sums = self._sums(weights)
        best: tuple[bool, float, int] | None = None
        for passage, value in sums.items():
            if not numbers <= self._terms[passage]:
                continue
            share = value / self._total(weights, self._is_cjk[self._keys[passage]])
            named = names <= self._terms[passage]
            needed = _SUPPORT if named else _SUPPORT_WITHOUT_NAMES
            if share >= (_SUPPORT_NEARBY if self._keys[passage] in nearby else needed):
                best = max(best or (False, 0.0, 0), (named, share, -passage))
        if best is not None:
            return (self._keys[-best[2]],)
        return self._find_two(weights, sums, numbers | names)

    def _mention(self, keys: Collection[str], wanted: Collection[str]) -> bool:
        """Whether the sources, together, have all of the terms."""
        return all(any(term in self._vocabulary[key] for key in keys) for term in wanted)

    def _find_two(
        self, weights: Mapping[str, float], sums: Mapping[int, float], wanted: frozenset[str]
    ) -> tuple[str, ...]:
        if len(sums) < 2:
            return ()
        first = max(sums, key=lambda passage: (sums[passage], -passage))
        rest = {term: weight for term, weight in weights.items() if term not in self._terms[first]}
        more = {p: v for p, v in self._sums(rest).items() if self._keys[p] != self._keys[first]}
        if not more:
            return ()
        second = max(more, key=lambda passage: (more[passage], -passage))
        share = (sums[first] + more[second]) / sum(weights.values())
        complete = wanted <= self._terms[first] | self._terms[second]
        return (self._keys[first], self._keys[second]) if share >= _SUPPORT_BY_TWO and complete else ()

    def _sums(self, weights: Mapping[str, float]) -> dict[int, float]:
        sums: dict[int, float] = {}
        for term, weight in weights.items():
            for passage in self._postings.get(term, ()):
                sums[passage] = sums.get(passage, 0.0) + weight
        return sums

    def _weight(self, term: str) -> float:
        return math.log(1 + len(self._keys) / max(1, len(self._postings.get(term, ()))))

    def _total(self, weights: Mapping[str, float], in_cjk: bool) -> float:
        """Weight of the terms that can be compared: across scripts, names and numbers, and at least two of them."""
        if _mostly_cjk(weights.keys()) == in_cjk:
            return sum(weights.values())
        comparable = [
            weight for term, weight in weights.items() if is_cjk(term) == in_cjk or term[0].isdigit()
        ]
        return sum(comparable) if len(comparable) > 1 else math.inf


def supporting_sources(answer: str, sources: Mapping[str, Source], candidates: Sequence[str]) -> list[str]:
    """Find the sources whose passages contain an answer, or most of its terms.

    Args:
        answer: A short answer; one without a term is supported by nothing.
        sources: All retrieved sources by key.
        candidates: Keys to look at, likeliest first.

    Returns:
        At most three keys, best first.
    """
    wanted, content = terms(answer), content_terms(answer)
    scores: dict[str, float] = {}
    for key in dict.fromkeys(candidates):
        source = sources.get(key)
        if source is not None and wanted:
            scores[key] = max(
                (_contains(p, source["title"], wanted, content) for p in source["passages"]), default=0
            )
    ranked = sorted((key for key in scores if scores[key] > _MOST_TERMS), key=lambda key: -scores[key])
    return ranked[:3]


def _contains(passage: str, title: str, wanted: list[str], content: set[str]) -> float:
    """2 when a passage has the terms in a row, 1.5 when its title has, else the share of content terms it has."""
    found = terms(passage)
    phrase = f" {' '.join(wanted)} "
    single_cjk = len(wanted) == 1 and len(wanted[0]) == 1 and not wanted[0].isascii() and wanted[0] in passage
    if phrase in f" {' '.join(found)} " or single_cjk:
        return 2.0
    in_title = terms(title)
    if phrase in f" {' '.join(in_title)} ":
        return 1.5
    have = {*found, *in_title}
    numbers = {term for term in content if term[0].isdigit()}
    return len(content & have) / len(content) if content and numbers <= have else 0.0


def is_cjk(term: str) -> bool:
    """Whether a term is written in Chinese, Japanese or Korean."""
    return term[0] >= "\u2e80"


def _mostly_cjk(found: Collection[str]) -> bool:
    return 2 * sum(map(is_cjk, found)) > len(found)


def _names_in(words: str) -> set[str]:
    """Terms of the capitalised words; the first word of a sentence only where it stands almost alone."""
    matches = list(_NAME.finditer(words))
    names = [match[0] for match in matches if match[0][0].isupper()]
    if len(matches) > 2 and names and names[0] == matches[0][0] and not names[0].isupper():
        names = names[1:]
    return content_terms(" ".join(names))
