"""Citations by code: whatever a model wrote, only documents that were really retrieved are cited.

The model's text is a draft. Its citations are looked up in the registry of sources; an invented one is removed and
counted. A claim without a citation gets the source whose passages support it, found by words in common, and is marked
where there is none. Words in common are no proof of a claim, but no claim can be right about a source that shares no
word, name or number with it.

Between reading and rendering, everything that is not plain text is held by characters that Unicode reserves for such
use (U+FDD0 to U+FDD4), so that what is left of the model's text can never pass for a citation.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

from agentinfer_lg.text import content_terms, detect_language, sentence_spans, terms

if TYPE_CHECKING:  # the state module needs LangGraph; this one does not
    from agentinfer_lg.state import Source

_HOLD, _CITE, _END, _KEEP, _LITERAL = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
_HOLDS = re.compile(f"[{_HOLD}{_LITERAL}]")
_LEADING_MARKS = re.compile(rf"(?:\s*+{_HOLD})++\s*+")
_RESERVED = dict.fromkeys(range(0xFDD0, 0xFDD5))
_NO_SOURCE = {"en": " (no source found)", "zh": "（未找到来源）"}

_WORD = r"(?:sources?|src|refs?|references?|citations?|docs?|documents?|passages?|来源|资料|文献|文档)"
_ITEM = rf"\s*+(?:(?:{_WORD}|[s^#])[\s:：.#]*+)?\d++(?:†[^\[\]【】,，\n]{{0,80}}+)?"
_MORE = rf"(?:\s*+(?:[,，、;；&–—-]|and\b|和|及){_ITEM})*+\s*+[,，]?\s*+"
_MARK = rf"[\[［【]{_ITEM}{_MORE}[\]］】]|[(（]\s*+{_WORD}[\s:：.#]*+\d++{_MORE}[)）]"
_URL = r"(?:(?:https?|ftp|file)://|\bwww\.)[^\s<>\"`\[\]【】（）「」《》，。；：、！？“”]++"
_TOKEN = re.compile(
    r"(?P<code>`[^`\n]*+`)"
    r"|(?P<link>!?\[(?P<label>\[?[^\[\]\n]*+\]?)\]"
    r"\((?P<target>[^()\s]*+(?:\([^()\s]*+\)[^()\s]*+)*+)(?:[ \t]++\"[^\"\n]*+\")?\))"
    rf"|<?(?P<url>{_URL})>?"
    rf"|(?P<mark>{_MARK})"
    r"|\[(?P<name>[^\[\]\n]{1,300}+)\](?!\()",
    re.IGNORECASE,
)
_MARK_LEFT = re.compile(_MARK, re.IGNORECASE)
_URL_LEFT = re.compile(r"(?P<scheme>https?|ftp|file)://|\bwww\.", re.IGNORECASE)
_NUMBERS = re.compile(r"\d++|[-–—]")
_NO_SOURCE_LEFT = re.compile(r" ?\(no source found\)|（未找到来源）", re.IGNORECASE)
_CITED = re.compile(f"{_CITE}([^{_END}]*+){_END}")
_KEPT = re.compile(f"{_KEEP}(\\d++){_END}")
_FENCE = re.compile(r" {0,3}(`{3,}+|~{3,}+)")
_HEADING = re.compile(r" {0,3}#{1,6}(?:\s|$)|\s*+(?:\*\*|__)[^*_]++(?:\*\*|__)\s*+[:：]?\s*+$")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)\s*+$")
_PREFIX = re.compile(r"\s*+(?:(?:>|[-*+•]\s|\d{1,3}[.)、]\s)\s*+)*+")
_DEFINITION = re.compile(r" {0,3}\[\^?[\w-]{1,40}\]:\s")
_LIST_HEADING = re.compile(
    r"\s*+(?:#{1,6}\s*+)?[*_]{0,2}(?:sources?|references?|bibliography|works cited|citations?|list of sources"
    r"|参考文献|参考资料|资料来源|引用来源|来源|引用)(?: cited| used)?[*_]{0,2}\s*+[:：]?[*_]{0,2}\s*+$",
    re.IGNORECASE,
)
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
_MAX_RANGE = 50
_MAX_TAIL = 8


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


def source_key(uri: str) -> str:
    """Identity of a source: the first 12 hex digits of the SHA-256 of its URI."""
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:12]


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


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


BlockKind = Literal["code", "table", "heading", "prose", "definition"]


def _blocks(lines: Sequence[str]) -> Iterator[tuple[BlockKind, str]]:
    """Cut markdown into lines, or runs of lines, that are treated alike."""
    fence = ""
    wrapped: list[str] = []
    for i, line in enumerate(lines):
        mark = _FENCE.match(line)
        kind: BlockKind
        if fence:
            kind = "code"
            if mark and mark[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
        elif mark:
            kind, fence = "code", mark[1]
        else:
            kind = _line_kind(line, lines[i + 1] if i + 1 < len(lines) else "")
        if kind == "prose" and wrapped and _continues(wrapped[-1], line):
            wrapped.append(line)
            continue
        if wrapped:
            yield "prose", "\n".join(wrapped)
            wrapped = []
        if kind == "prose":
            wrapped = [line]
        else:
            yield kind, line
    if wrapped:
        yield "prose", "\n".join(wrapped)


def _line_kind(line: str, following: str) -> BlockKind:
    if line.lstrip().startswith("|") or line.count("|") > 1:
        return "table"
    if _HEADING.match(line) or (line.strip() and _UNDERLINE.match(following)):
        return "heading"
    return "definition" if _DEFINITION.match(line) else "prose"


def _continues(line: str, following: str) -> bool:
    """Whether a line break lies inside a sentence."""
    before = line.rstrip()
    return bool(before) and following[:1].islower() and before[-1] not in ".!?。！？:：;；"


@dataclass(slots=True)
class _Token:
    """Something in the text that is not plain: a citation, or a piece that is kept as it is."""

    keys: tuple[str, ...] = ()
    """Sources cited."""
    kept: int = -1
    """Index of the literal text, -1 for none."""
    visible: str = ""
    """What of it counts as words of the sentence."""

    @property
    def place_holder(self) -> str:
        return _HOLD if self.kept < 0 else _LITERAL


class _Resolver:
    def __init__(
        self, text: str, numbers: Sequence[str], sources: Mapping[str, Source], attribute: bool
    ) -> None:
        self._text = _NO_SOURCE_LEFT.sub("", text.translate(_RESERVED))
        self._numbers = [key if key in sources else "" for key in numbers]
        self._sources = sources
        self._attribute = attribute
        self._by_uri = {_same_uri(source["uri"]): key for key, source in sources.items()}
        self._names = {
            name.casefold()
            for source in sources.values()
            for name in (source["title"], source["uri"])
            if name
        }
        self._language = detect_language(text)
        self._literals: list[str] = []
        self._dropped = 0
        self._unsupported = 0

    @cached_property
    def _support(self) -> _Support:
        order = {key: rank for rank, key in enumerate(self._numbers)}
        keys = sorted(self._sources, key=lambda key: order.get(key, len(order)))
        return _Support({key: self._sources[key] for key in keys})

    def resolve(self) -> CitedText:
        rendered = []
        for kind, block in _blocks(self._without_list(self._text.split("\n"))):
            if kind == "code":
                rendered.append(self._literal(block))
            elif kind == "definition":
                self._tokenize(_DEFINITION.sub("", block))  # only for the count of invented addresses
            else:
                rendered.append(self._block(kind, block))
        return self._numbered(_defused("\n".join(rendered)))

    def _numbered(self, text: str) -> CitedText:
        cited: dict[str, int] = {}
        text = _CITED.sub(lambda match: f"[{cited.setdefault(match[1], len(cited) + 1)}]", text)
        text = _KEPT.sub(lambda match: self._literals[int(match[1])], text)
        return CitedText(text.strip("\n"), tuple(cited), self._dropped, self._unsupported)

    def _without_list(self, lines: list[str]) -> list[str]:
        """Take off lists of sources that the model wrote itself."""
        kept: list[str] = []
        i = 0
        fenced = False
        while i < len(lines):
            fenced ^= bool(_FENCE.match(lines[i]))
            end = self._list_end(lines, i + 1) if not fenced and _LIST_HEADING.match(lines[i]) else 0
            if not end:
                kept.append(lines[i])
                i += 1
                continue
            for line in lines[i + 1 : end]:
                self._tokenize(_PREFIX.sub("", line, count=1))  # only for the count of what is invented
            i = end
        return kept

    def _list_end(self, lines: list[str], start: int) -> int:
        """Line after the list of sources that starts at `start`; 0 when something else stands there."""
        for i in range(start, len(lines)):
            if _HEADING.match(lines[i]):
                return i
            entry = _PREFIX.sub("", lines[i], count=1).strip()
            known = _MARK_LEFT.match(entry) or _URL_LEFT.search(entry) or entry.casefold() in self._names
            if entry and not known:
                return 0
        return len(lines)

    def _block(self, kind: BlockKind, block: str) -> str:
        prefix = "" if kind == "table" else (_PREFIX.match(block) or [""])[0]
        plain, tokens = self._tokenize(block[len(prefix) :])
        if kind != "prose" or not self._attribute:
            return prefix + self._render(plain, tokens, [token.keys for token in tokens])
        nearby = {key for token in tokens for key in token.keys}
        parts = []
        first = 0
        for start, end in _claim_spans(plain):
            count = len(_HOLDS.findall(plain, start, end))
            parts.append(self._sentence(plain[start:end], tokens[first : first + count], nearby))
            first += count
        return prefix + "".join(parts)

    def _sentence(self, sentence: str, tokens: list[_Token], nearby: set[str]) -> str:
        """Check the citations of one sentence, or find it one."""
        visible = iter([token.visible for token in tokens])
        words = _HOLDS.sub(lambda _: f" {next(visible)} ", sentence)
        found = content_terms(words)
        names = _names_in(words)
        numbers = {term for term in found if term[0].isdigit()}
        cited = [self._fitting(token, found) for token in tokens]
        if any(cited):
            better = self._better(cited, found, numbers, names)
            if better:
                self._dropped += sum(
                    len(keys) for token, keys in zip(tokens, cited, strict=True) if token.kept < 0
                )
                cited = [()] * len(tokens)
                sentence = _insert(sentence, _markers(better))
        elif _is_claim(words, found, concrete=bool(names or numbers)):
            keys = self._support.find(found, numbers, names, nearby)
            self._unsupported += not keys
            sentence = _insert(sentence, _markers(keys) if keys else _NO_SOURCE[self._language])
        return self._render(sentence, tokens, cited)

    def _fitting(self, token: _Token, found: set[str]) -> tuple[str, ...]:
        keys = tuple(key for key in token.keys if not found or self._support.shares(key, found))
        self._dropped += len(token.keys) - len(keys) if token.kept < 0 else 0
        return keys

    def _better(
        self, cited: Sequence[tuple[str, ...]], found: set[str], numbers: set[str], names: set[str]
    ) -> tuple[str, ...]:
        """Sources that have all numbers and names of a sentence, where the cited ones lack one of the numbers."""
        keys = {key for each in cited for key in each}
        if self._support.mention(keys, numbers):
            return ()
        better = self._support.find(found, numbers, names, set())
        return better if self._support.mention(better, numbers | names) else ()

    def _tokenize(self, text: str) -> tuple[str, list[_Token]]:
        """Replace everything that is not plain text by a place holder; what is invented goes."""
        parts: list[str] = []
        tokens: list[_Token] = []
        position = 0
        while match := _TOKEN.search(text, position):
            parts.append(text[position : match.start()])
            token, position = self._token(match)
            if token is None:
                position = _close_gap(parts, text, position)
            elif isinstance(token, str):
                parts.append(token)
            else:
                tokens.append(token)
                parts.append(token.place_holder)
        parts.append(text[position:])
        return "".join(parts), tokens

    def _token(self, match: re.Match[str]) -> tuple[_Token | str | None, int]:
        """What stands for a match (None for an invented citation), and where to read on."""
        if match["code"] is not None:
            return self._kept(match["code"]), match.end()
        if match["link"] is not None:
            return self._link(match), match.end()
        if match["url"] is not None:
            return self._address(match)
        if match["mark"] is not None:
            keys = self._cited_keys(match["mark"])
            return (_Token(keys=keys) if keys else None), match.end()
        key = self._key_of(match["name"])
        return (_Token(keys=(key,)), match.end()) if key else ("[", match.start() + 1)

    def _link(self, match: re.Match[str]) -> _Token | str | None:
        label, target = match["label"].strip("[]^ "), match["target"]
        key = self._key_of(target)
        if label.isdecimal():
            self._dropped += not key
            keys = (key,) if key else self._cited_keys(f"[{label}]")
            return _Token(keys=keys) if keys else None
        if key or target.startswith("#"):
            image = "!" if match["link"].startswith("!") else ""
            keys = (key,) if key else ()
            return self._kept(f"{image}[{_defused(label)}]({target})", keys=keys, visible=label)
        self._dropped += 1
        return _defused(label) or None

    def _address(self, match: re.Match[str]) -> tuple[_Token | None, int]:
        url, start = match["url"], match.start("url")
        forms = [url]  # punctuation at the end may be part of the address, but seldom is
        while len(forms) <= _MAX_TAIL and _ends_outside(forms[-1]):
            forms.append(forms[-1][:-1])
        known = next((form for form in reversed(forms) if self._key_of(form)), "")
        end = start + len(known or forms[-1])
        if end == match.end("url"):
            end = match.end()  # the closing > of <https://…>
        if known:
            return self._kept(known, keys=(self._key_of(known),)), end
        self._dropped += 1
        return None, end

    def _kept(self, text: str, *, keys: tuple[str, ...] = (), visible: str = "") -> _Token:
        self._literals.append(text)
        return _Token(keys=keys, kept=len(self._literals) - 1, visible=visible)

    def _literal(self, text: str) -> str:
        return f"{_KEEP}{self._kept(text).kept}{_END}"

    def _key_of(self, uri: str) -> str:
        candidates = (uri, f"https://{uri}", f"http://{uri}") if uri.lower().startswith("www.") else (uri,)
        return next((key for each in candidates if (key := self._by_uri.get(_same_uri(each)))), "")

    def _cited_keys(self, mark: str) -> tuple[str, ...]:
        keys: dict[str, None] = {}
        for number in _cited_numbers(mark):
            if 0 < number <= len(self._numbers) and self._numbers[number - 1]:
                keys[self._numbers[number - 1]] = None
            else:
                self._dropped += 1
        return tuple(keys)

    def _render(self, plain: str, tokens: Sequence[_Token], cited: Sequence[tuple[str, ...]]) -> str:
        """Put citations and literals where their place holders are."""
        pieces = _HOLDS.split(plain)
        parts = [pieces[0]]
        shown: set[str] = set()  # by the markers just before
        for token, keys, piece in zip(tokens, cited, pieces[1:], strict=True):
            new = [key for key in keys if key not in shown]
            if token.kept >= 0:
                parts.append(f"{_KEEP}{token.kept}{_END}{' ' if new else ''}")
            parts.extend(f"{_CITE}{key}{_END}" for key in new)
            start = _close_gap(parts, piece, 0) if token.kept < 0 and not new else 0
            shown = set() if piece.strip() else shown | set(new)
            parts.append(piece[start:])
        return "".join(parts)


class _Support:
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

    def shares(self, key: str, found: set[str]) -> bool:
        """Whether a source has anything in common with a sentence; one in another script may, unseen."""
        if not found.isdisjoint(self._vocabulary[key]):
            return True
        is_cjk = self._is_cjk[key]
        return _mostly_cjk(found) != is_cjk and not any(_cjk(term) == is_cjk for term in found)

    def mention(self, keys: Collection[str], wanted: set[str]) -> bool:
        """Whether the sources, together, have all of the terms."""
        return all(any(term in self._vocabulary[key] for key in keys) for term in wanted)

    def find(self, found: set[str], numbers: set[str], names: set[str], nearby: set[str]) -> tuple[str, ...]:
        """The source, or the two sources, that support a sentence best; none without all of its numbers."""
        weights = {
            term: self._weight(term) for term in sorted(found)
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

    def _find_two(
        self, weights: dict[str, float], sums: dict[int, float], wanted: set[str]
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

    def _total(self, weights: Mapping[str, float], is_cjk: bool) -> float:
        """Weight of the terms that can be compared: across scripts, names and numbers, and at least two of them."""
        if _mostly_cjk(weights.keys()) == is_cjk:
            return sum(weights.values())
        comparable = [weight for term, weight in weights.items() if _cjk(term) == is_cjk or term[0].isdigit()]
        return sum(comparable) if len(comparable) > 1 else math.inf


def _cjk(term: str) -> bool:
    return term[0] >= "\u2e80"


def _mostly_cjk(found: Collection[str]) -> bool:
    return 2 * sum(map(_cjk, found)) > len(found)


def _claim_spans(plain: str) -> list[tuple[int, int]]:
    """Sentences; a citation after the full stop belongs to the sentence before."""
    spans: list[tuple[int, int]] = []
    for start, end in sentence_spans(plain):
        match = _LEADING_MARKS.match(plain, start, end)
        if match and spans:
            spans[-1] = (spans[-1][0], match.end())
            start = match.end()
        if end > start:
            spans.append((start, end))
    return spans


def _is_claim(words: str, found: set[str], *, concrete: bool) -> bool:
    """Whether a sentence says something that needs a source: no question, lead-in, transition or apology."""
    if not found or not (concrete or len(found) > 1):
        return False
    last = words.rstrip().rstrip("*_\"'”’)」』）")[-1:]
    return last not in ("?", "？", ":", "：") and not _NOTHING_FOUND.search(words[:2000])


def _names_in(words: str) -> set[str]:
    """Terms of the capitalised words; the first word of a sentence only where it stands almost alone."""
    matches = list(_NAME.finditer(words))
    names = [match[0] for match in matches if match[0][0].isupper()]
    if len(matches) > 2 and names and names[0] == matches[0][0] and not names[0].isupper():
        names = names[1:]
    return content_terms(" ".join(names))


def _markers(keys: Sequence[str]) -> str:
    return " " + "".join(f"{_CITE}{key}{_END}" for key in keys)


def _insert(sentence: str, addition: str) -> str:
    """Put a marker before the full stop."""
    if not addition:
        return sentence
    body = sentence.rstrip().rstrip(".。!！…;；,，")
    if not body:
        return sentence
    if _cjk(body[-1]):
        addition = addition.lstrip(" ")
    return body + addition + sentence[len(body) :]


def _close_gap(parts: list[str], text: str, position: int) -> int:
    """Tidy up where something was removed between `parts` and `text[position:]`; return where to read on."""
    before = parts[-1] if parts else ""
    after = text[position : position + 1]
    if before[-1:] + after in ("()", "（）"):
        parts[-1] = before[:-1].rstrip(" ")
        return position + 1
    if not after or after.isspace() or after in ".,;:!?)。，；：！？）":
        if parts:
            parts[-1] = before.rstrip(" \t")
    elif before[-1:].isascii() and before[-1:].isalnum() and after.isascii() and after.isalnum():
        parts.append(" ")
    return position


def _ends_outside(url: str) -> bool:
    """Whether the last character is punctuation of the sentence rather than part of the address."""
    return url[-1] in ".,;:!?'*_" or (url[-1] == ")" and url.count(")") > url.count("("))


def _defused(text: str) -> str:
    """Text in which nothing reads as a citation or an address."""
    text = _MARK_LEFT.sub(
        lambda match: ("({})" if match[0][0] in "[［【" else "{{{}}}").format(match[0][1:-1]), text
    )
    return _URL_LEFT.sub(lambda match: match["scheme"] + ": //" if match["scheme"] else "www .", text)


def _cited_numbers(mark: str) -> Iterator[int]:
    """The numbers of a marker, ranges spelt out; 0 for one that is out of all bounds."""
    previous, is_range = 0, False
    for token in _NUMBERS.findall(re.sub(r"†[^\[\]【】,，]{0,80}+", "", mark)):
        if not token[0].isdecimal():
            is_range = previous > 0
            continue
        number = int(token) if len(token) <= 6 else 0
        if is_range and previous < number <= previous + _MAX_RANGE:
            yield from range(previous + 1, number)
        yield number
        previous, is_range = number, False


def _same_uri(uri: str) -> str:
    """A form that is equal for addresses that differ only in their spelling."""
    scheme, separator, rest = unquote(uri.split("#", 1)[0]).rstrip("/").partition("://")
    if not separator:
        return scheme.removeprefix("./")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}"
