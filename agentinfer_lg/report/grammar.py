"""What a citation looks like in markdown that a model wrote: its blocks, its markers, its sentences (pure).

Between reading and rendering, everything that is not plain text is held by characters that Unicode reserves for such
use (U+FDD0 to U+FDD4), so that what is left of the model's text can never pass for a citation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from agentinfer_lg.text import sentence_spans

HOLD, CITE, END, KEEP, LITERAL = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
"""`HOLD` stands for a citation and `LITERAL` for a piece that is kept; `CITE` key `END` and `KEEP` index `END` render them."""
HOLDS = re.compile(f"[{HOLD}{LITERAL}]")
_LEADING_MARKS = re.compile(rf"(?:\s*+{HOLD})++\s*+")
_RESERVED = dict.fromkeys(range(0xFDD0, 0xFDD5))
NO_SOURCE = {"en": " (no source found)", "zh": "（未找到来源）"}

_WORD = r"(?:sources?|src|refs?|references?|citations?|docs?|documents?|passages?|来源|资料|文献|文档)"
_ITEM = rf"\s*+(?:(?:{_WORD}|[s^#])[\s:：.#]*+)?\d++(?:†[^\[\]【】,，\n]{{0,80}}+)?"
_MORE = rf"(?:\s*+(?:[,，、;；&–—-]|and\b|和|及){_ITEM})*+\s*+[,，]?\s*+"
_MARK = rf"[\[［【]{_ITEM}{_MORE}[\]］】]|[(（]\s*+{_WORD}[\s:：.#]*+\d++{_MORE}[)）]"
_URL = r"(?:(?:https?|ftp|file)://|\bwww\.)[^\s<>\"`\[\]【】（）「」《》，。；：、！？“”]++"
TOKEN = re.compile(
    r"(?P<code>`[^`\n]*+`)"
    r"|(?P<link>!?\[(?P<label>\[?[^\[\]\n]*+\]?)\]"
    r"\((?P<target>[^()\s]*+(?:\([^()\s]*+\)[^()\s]*+)*+)(?:[ \t]++\"[^\"\n]*+\")?\))"
    rf"|<?(?P<url>{_URL})>?"
    rf"|(?P<mark>{_MARK})"
    r"|\[(?P<name>[^\[\]\n]{1,300}+)\](?!\()",
    re.IGNORECASE,
)
MARK_LEFT = re.compile(_MARK, re.IGNORECASE)
URL_LEFT = re.compile(r"(?P<scheme>https?|ftp|file)://|\bwww\.", re.IGNORECASE)
_NUMBERS = re.compile(r"\d++|[-–—]")
_NO_SOURCE_LEFT = re.compile(r" ?\(no source found\)|（未找到来源）", re.IGNORECASE)
CITED = re.compile(f"{CITE}([^{END}]*+){END}")
KEPT = re.compile(f"{KEEP}(\\d++){END}")
FENCE = re.compile(r" {0,3}(`{3,}+|~{3,}+)")
HEADING = re.compile(r" {0,3}#{1,6}(?:\s|$)|\s*+(?:\*\*|__)[^*_]++(?:\*\*|__)\s*+[:：]?\s*+$")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)\s*+$")
PREFIX = re.compile(r"\s*+(?:(?:>|[-*+•]\s|\d{1,3}[.)、]\s)\s*+)*+")
DEFINITION = re.compile(r" {0,3}\[\^?[\w-]{1,40}\]:\s")
LIST_HEADING = re.compile(
    r"\s*+(?:#{1,6}\s*+)?[*_]{0,2}(?:sources?|references?|bibliography|works cited|citations?|list of sources"
    r"|参考文献|参考资料|资料来源|引用来源|来源|引用)(?: cited| used)?[*_]{0,2}\s*+[:：]?[*_]{0,2}\s*+$",
    re.IGNORECASE,
)
_MAX_RANGE = 50

BlockKind = Literal["code", "table", "heading", "prose", "definition"]


def blocks(lines: Sequence[str]) -> Iterator[tuple[BlockKind, str]]:
    """Cut markdown into lines, or runs of lines, that are treated alike."""
    fence = ""
    wrapped: list[str] = []
    for i, line in enumerate(lines):
        mark = FENCE.match(line)
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
    if HEADING.match(line) or (line.strip() and _UNDERLINE.match(following)):
        return "heading"
    return "definition" if DEFINITION.match(line) else "prose"


def _continues(line: str, following: str) -> bool:
    """Whether a line break lies inside a sentence."""
    before = line.rstrip()
    return bool(before) and following[:1].islower() and before[-1] not in ".!?。！？:：;；"


def without_marks_of_ours(text: str) -> str:
    """Leave out reserved characters, and what was said of a claim without a source when the text was last read."""
    return _NO_SOURCE_LEFT.sub("", text.translate(_RESERVED))


def claim_spans(plain: str) -> list[tuple[int, int]]:
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


def close_gap(parts: list[str], text: str, position: int) -> int:
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


def ends_outside(url: str) -> bool:
    """Whether the last character is punctuation of the sentence rather than part of the address."""
    return url[-1] in ".,;:!?'*_" or (url[-1] == ")" and url.count(")") > url.count("("))


def defused(text: str) -> str:
    """Text in which nothing reads as a citation or an address."""
    text = MARK_LEFT.sub(
        lambda match: ("({})" if match[0][0] in "[［【" else "{{{}}}").format(match[0][1:-1]), text
    )
    return URL_LEFT.sub(lambda match: match["scheme"] + ": //" if match["scheme"] else "www .", text)


def cited_numbers(mark: str) -> Iterator[int]:
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
