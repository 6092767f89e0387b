"""Splits what a model wrote into what a reader may see and what the model thought.

Models mark thoughts in their text in many ways: tags, special tokens, channels, set phrases. Servers that know the model
move thoughts to a field of their own; the others pass them on, whole, cut, or with one marker missing. Every family of
markers is known here, whatever the model's name is, because a name says little about a model behind a proxy.

In doubt a text counts as thought, with one exception: an opening marker that stands within a line of prose, in quotes or
in a fence of code, and is never closed, is a mention if the text ended by itself. Only the marker is removed then.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

_Kind = Literal["open", "close", "soft", "noise"]
"""`close` also ends a thought that was never opened; `soft` ends only what its family opened."""

_NAMES = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reasoning",
    "reflection",
    "scratchpad",
    "reasoning_scratchpad",
)
_PREFIXED = ("seed:think", "mm:think", "ifm|think", "longcat_think", "antml:thinking")
_WRAPPERS = ("answer", "final_answer")
_WRAPPERS_AFTER_THOUGHT = ("output", "response", "solution", "conclusion")
"""Common words elsewhere, in HTML for example: wrappers of an answer only where there was a thought."""

_LITERALS: dict[str, tuple[_Kind, str]] = {
    "[think]": ("open", "bracket"),
    "[/think]": ("close", "bracket"),
    "◁think▷": ("open", "triangle"),
    "◁/think▷": ("close", "triangle"),
    "<|begin_of_thought|>": ("open", "begin"),
    "<|end_of_thought|>": ("close", "begin"),
    "<|begin_of_solution|>": ("soft", "begin"),
    "<|end_of_solution|>": ("noise", ""),
    "<unused94>": ("open", "unused"),
    "<unused95>": ("close", "unused"),
    "<|start_thinking|>": ("open", "cohere"),
    "<|end_thinking|>": ("close", "cohere"),
    "<|start_response|>": ("soft", "cohere"),
    "<|end_response|>": ("noise", ""),
    "<|start_text|>": ("soft", "cohere"),
    "<|end_text|>": ("noise", ""),
    "<|channel>": ("open", "gemma"),
    "<channel|>": ("close", "gemma"),
    "<|turn>thinking": ("open", "turn"),
    "<turn|>": ("soft", "turn"),
    "<|open|>think<|sep|>": ("open", "element"),
    "<|close|>think<|sep|>": ("close", "element"),
    "<|open|>response<|sep|>": ("soft", "element"),
    "<|close|>response<|sep|>": ("noise", ""),
    "<|close|>message<|sep|>": ("noise", ""),
    "<|plamo:begin_think:plamo|>": ("open", "plamo"),
    "<|plamo:end_think:plamo|>": ("close", "plamo"),
    "<|message_model|>": ("noise", ""),
    "<|content_thinking|>": ("open", "content"),
    "<|content_text|>": ("soft", "content"),
    "<|end_message|>": ("soft", "content"),
    "<|content_model_end_sampling|>": ("soft", "content"),
    "<|think|>": ("open", "pipe"),
    "<|/think|>": ("close", "pipe"),
    "<|thinking|>": ("open", "pipe"),
    "<|/thinking|>": ("close", "pipe"),
    "[begin final response]": ("close", "steps"),
    "[end final response]": ("noise", ""),
    "<|begin_of_box|>": ("noise", ""),
    "<|end_of_box|>": ("noise", ""),
    "<|message|>": ("noise", ""),
    "<|end|>": ("soft", "harmony"),
    "<|return|>": ("soft", "harmony"),
    "<|call|>": ("soft", "harmony"),
}
_CHANNELS: dict[str, _Kind] = {"analysis": "open", "commentary": "open", "final": "close"}
"""Channels of the harmony format. Comments come with tool calls and are working text, so they count as thoughts."""
_LABELS = {
    "<|channel>": re.compile(r"\s{0,3}(?:thought|thinking|analysis)\b"),
    "<channel|>": re.compile(r"\s{0,3}thought[ \t]*\n"),
    "<unused94>": re.compile(r"\s{0,3}thought\b"),
}
"""What stands behind a marker as a part of it."""

_TAG_NAME = (
    r"(?:[a-z][a-z0-9]{0,15}[:|_])?"
    r"(?:thinking|think|thoughts|thought|reasoning_scratchpad|reasoning|reflection|scratchpad)"
    r"(?:[:_][a-z0-9_]{1,64})?"
)
_MARKERS = (
    rf"<[ \t]{{0,3}}(?P<slash>/?)[ \t]{{0,3}}(?P<tag>{_TAG_NAME})(?:\s[^<>]{{0,200}}?)?(?P<empty>/?)>"
    rf"|<(?P<broken_slash>/?)(?P<broken>{_TAG_NAME})(?![a-z0-9_:|.>-])"
    r"|<(?P<glued_slash>/?)(?-i:(?P<glued>think|thought)(?=[A-Z]))"
    rf"|<[ \t]{{0,3}}/?[ \t]{{0,3}}(?P<wrapper>{'|'.join((*_WRAPPERS, *_WRAPPERS_AFTER_THOUGHT))})[ \t]{{0,3}}>"
    rf"|(?P<literal>{'|'.join(map(re.escape, sorted(_LITERALS, key=len, reverse=True)))})"
    r"|<\|channel\|>\s{0,3}(?P<channel>analysis|commentary|final)?"
    r"(?:[^<\n]{0,200}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>)?"
    r"|<\|start\|>\s{0,3}(?P<start>(?:assistant)?(?:[ ]to=[^\s<]{0,100})?)"
    r"|<\|constrain\|>\s{0,3}\w{0,20}"
)
_BARE = "assistant(?-i:(?P<bare>analysis|commentary|final))"
"""A header of harmony whose special tokens the server removed."""
_RESPONSE = r"(?P<response>Here(?:'s|’s| is) my response:)"
_LEADING = re.compile(
    r"\s*(?:Here(?:'s|’s| is) my (?P<phrase>thought process|response):"
    r"|(?P<steps>Here are my reasoning steps:)"
    r"|(?P<working>analysis|commentary)(?=[^\W_]|[\"'`(\[{*“‘]|[ ]to=|<\|message\|>)"
    r"|(?P<final>final)(?=[A-Z0-9\"'`(\[{*“‘]|[^\W\x00-\x7f]|<\|message\|>))"
)
"""Markers without a mark of their own: they are read only where the visible text begins."""

_CLOSERS = frozenset(
    [
        *(f"</{name}>" for name in (*_NAMES, *_PREFIXED)),
        *(literal for literal, (kind, _) in _LITERALS.items() if kind == "close"),
        "<|channel|>final",
    ]
)
_OTHERS = frozenset(
    [
        *(f"<{name}>" for name in (*_NAMES, *_PREFIXED)),
        *(literal for literal, (kind, _) in _LITERALS.items() if kind != "close"),
        *(f"<{slash}{name}>" for name in _WRAPPERS for slash in ("", "/")),
        *("<|channel|>analysis", "<|channel|>commentary", "<|start|>assistant", "<|constrain|>json"),
    ]
)
_LATER_WRAPPERS = frozenset(f"<{slash}{name}>" for name in _WRAPPERS_AFTER_THOUGHT for slash in ("", "/"))
_BARE_HEADERS = tuple(f"assistant{channel}" for channel in _CHANNELS)
_BARE_STARTS = ("analysis", "commentary")
_FIRST_WORDS = (
    *_BARE_STARTS,
    "here is my thought process:",
    "here's my thought process:",
    "here are my reasoning steps:",
)
_TAG_CUT = re.compile(
    rf"<[ \t]{{0,3}}(?P<slash>/?)[ \t]{{0,3}}{_TAG_NAME}(?:[:_]|\s[^<>]{{0,200}})?$", re.IGNORECASE
)
_RESULTS = ("answer", "tool_call")
"""An element of these at the end of a text ends a thought as well, which some models forget to close."""
_BLANKS_IN_TAG = re.compile(r"(?<=<)[ \t]+|(?<=</)[ \t]+")
_ANY = "any"
"""Family of a thought that the chat template opened, with a marker that is not known."""
_TAIL = 260
_SHORTEST_PART = 4
"""Characters that are taken for a part of a marker if the text ended by itself; one less if it was cut."""
_UNMISTAKABLE = 6
"""Characters of a closing tag that no tag of HTML shares."""
_MARKER_ENDS = ">]▷"
_PASSES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitText:
    """A text without its thoughts."""

    visible: str
    """What the user may see, stripped."""
    thoughts: str
    """All thoughts, joined by newlines."""
    cut: bool
    """Whether the text ended inside a thought or inside a marker, so that nothing visible may follow."""
    unopened: bool
    """Whether a closing marker came without an opening one: the chat template opens the thought."""


def split_reasoning(text: str, *, inside: bool = False, ended: bool = True) -> SplitText:
    """Split `text` into what may be seen and what was thought; never raises.

    Args:
        text: What the model wrote.
        inside: The chat template has opened a thought, so the text begins in it.
        ended: The model ended the text by itself. A text that was cut is read more strictly: every opening marker counts,
            and every thought within a thought must be closed.

    Returns:
        The parts. A closing marker without an opening one makes everything before it a thought. No marker and no part of
        a marker at either end is in the visible text; splitting the visible text again changes nothing.
    """
    split = _split(text, inside=inside, ended=ended)
    if split.visible == text.strip():
        return split
    thoughts = [split.thoughts]
    cut = split.cut
    for _ in range(_PASSES):
        # What stood around a removed marker can form a new one.
        again = _split(split.visible, inside=False, ended=ended)
        if again.visible == split.visible:
            break
        thoughts.append(again.thoughts)
        cut = cut or again.cut
        split = replace(again, unopened=split.unopened)
    else:
        split = replace(split, visible=_pattern(bare=True, response=False).sub("\n", split.visible).strip())
    return replace(split, thoughts="\n".join(filter(None, thoughts)), cut=cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """One marker in a text."""

    start: int
    end: int
    kind: _Kind
    family: str = ""
    name: str = ""
    weak: bool = False
    """Whether it may be a mention: it opens a thought only if something closes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thoughts:
    """Where the thoughts of a text are, as ranges of characters in order."""

    ranges: list[tuple[int, int]]
    cut: bool
    unopened: bool


def _split(text: str, *, inside: bool, ended: bool) -> SplitText:
    whole = _with_first_marker(text)
    marks = _marks(whole)
    if whole is not text and marks:
        marks[0] = replace(marks[0], weak=True)
    thinks = inside or any(mark.kind in ("open", "close") for mark in marks)
    part = _part_at_end(whole, thinks=thinks, ended=ended)
    if part is not None:
        marks = [mark for mark in marks if mark.end <= part.start] + [part]
    if not thinks:
        marks = [mark for mark in marks if mark.name not in _WRAPPERS_AFTER_THOUGHT]
    if not marks and not inside:
        return SplitText(visible=text.strip(), thoughts="", cut=False, unopened=False)
    found = _thoughts(whole, marks, inside=inside, ended=ended)
    gaps = [(mark.start, mark.end) for mark in marks]
    thoughts = [_outside(whole, start, end, gaps) for start, end in found.ranges]
    return SplitText(
        visible=_outside(whole, 0, len(whole), sorted([*gaps, *found.ranges])),
        thoughts="\n".join(filter(None, thoughts)),
        cut=found.cut or part is not None,
        unopened=found.unopened,
    )


def _outside(text: str, start: int, end: int, gaps: Sequence[tuple[int, int]]) -> str:
    """Return what is between `start` and `end` and in none of the sorted `gaps`, stripped."""
    pieces = []
    for index in range(bisect_left(gaps, (start, 0)), len(gaps)):
        first, last = gaps[index]
        if first >= end:
            break
        pieces.append(text[start:first])
        start = max(start, last)
    pieces.append(text[start:end])
    return "".join(pieces).strip()


@cache
def _pattern(*, bare: bool, response: bool) -> re.Pattern[str]:
    """Compile the markers; the set phrases are left out where the text has none, which makes reading it faster."""
    firsts = r"<[a-z|/ \t]|[\[◁" + ("a" if bare else "") + ("h" if response else "") + "]"
    options = [_MARKERS, *([_BARE] if bare else ()), *([_RESPONSE] if response else ())]
    return re.compile(rf"(?={firsts})(?:{'|'.join(options)})", re.IGNORECASE)


def _marks(text: str) -> list[_Mark]:
    """Return the markers of `text` in order, without the cut one at the end."""
    pattern = _pattern(
        bare=any(map(text.__contains__, _BARE_HEADERS)), response="my thought process:" in text
    )
    marks: list[_Mark] = []
    position, fenced, first = 0, False, True
    while True:
        if first and (match := _LEADING.match(text, position)):
            mark = _leading_mark(match)
        elif match := pattern.search(text, position):
            mark = _mark(match)
        else:
            return marks
        fenced ^= text.count("```", position, mark.start) % 2 == 1
        line = text.rfind("\n", position, mark.start) + 1
        mentioned = fenced or bool(text[max(position, line) : mark.start].strip())
        quoted = (
            mark.start > 0
            and text[mark.start - 1] in "`\"'"
            and text.startswith(text[mark.start - 1], mark.end)
        )
        if quoted and mark.kind == "close":
            mark = replace(mark, kind="noise")
        elif mark.kind == "open" and (mentioned or quoted):
            mark = replace(mark, weak=True)
        marks.append(mark)
        position, first = mark.end, mark.kind != "open"


def _leading_mark(match: re.Match[str]) -> _Mark:
    start, end = match.span(match.lastgroup or 0)
    if match["phrase"]:
        start, end = match.end() - len(match[0].lstrip()), match.end()
    if match["phrase"] == "thought process":
        return _Mark(start=start, end=end, kind="open", family="phrase")
    if match["steps"]:
        return _Mark(start=start, end=end, kind="open", family="steps")
    if match["working"]:
        return _Mark(start=start, end=end, kind="open", family="harmony", name="bare")
    return _Mark(start=start, end=end, kind="noise")


def _mark(match: re.Match[str]) -> _Mark:
    start, end = match.span()
    if match["tag"]:
        kind: _Kind = "noise" if match["empty"] else "close" if match["slash"] else "open"
        return _Mark(start=start, end=end, kind=kind, family="tag")
    if match["broken"] or match["glued"]:
        closes = match["broken_slash"] or match["glued_slash"]
        return _Mark(start=start, end=end, kind="close" if closes else "open", family="tag", weak=True)
    if match["wrapper"]:
        return _Mark(start=start, end=end, kind="noise", name=match["wrapper"].lower())
    if match["literal"]:
        literal = match["literal"].lower()
        if (label := _LABELS.get(literal)) and (more := label.match(match.string, end)):
            end = more.end()
        kind, family = _LITERALS[literal]
        return _Mark(start=start, end=end, kind=kind, family=family)
    groups = match.groupdict()
    if channel := groups["channel"] or groups.get("bare"):
        name = channel.lower()
        return _Mark(start=start, end=end, kind=_CHANNELS[name], family="harmony", name=name)
    if groups.get("response"):
        return _Mark(start=start, end=end, kind="soft", family="phrase")
    return _Mark(start=start, end=end, kind="noise" if groups["start"] is None else "soft", family="harmony")


@dataclass(slots=True, kw_only=True)
class _Open:
    """The openings that nothing has closed yet, the outermost first."""

    marks: list[_Mark] = field(default_factory=list)
    families: Counter[str] = field(default_factory=Counter)
    strong: int = 0

    def add(self, mark: _Mark) -> None:
        """Open `mark`."""
        self.marks.append(mark)
        self.families[mark.family] += 1
        self.strong += not mark.weak

    def drop(self, level: int) -> None:
        """Close all from `level` inwards."""
        for mark in self.marks[level:]:
            self.families[mark.family] -= 1
            self.strong -= not mark.weak
        del self.marks[level:]

    def level(self, family: str) -> int | None:
        """Return the place of the innermost opening that a marker of `family` closes."""
        if self.families[family]:
            return next(n for n in reversed(range(len(self.marks))) if self.marks[n].family == family)
        return 0 if self.families[_ANY] else None


def _thoughts(text: str, marks: Sequence[_Mark], *, inside: bool, ended: bool) -> _Thoughts:
    """Pair the markers; those of one family may stand within those of another."""
    first = len(text) - len(text.lstrip())
    now = _Open()
    if inside:
        now.add(_Mark(start=0, end=0, kind="open", family=_ANY))
    ranges: list[tuple[int, int]] = []
    unopened = final = False
    last: _Mark | None = None  # the latest marker that closed something within the thought that is open
    for mark in marks:
        level = now.level(mark.family)
        if mark.kind == "open":
            if inside and mark.start <= first:
                now.drop(0)  # the model repeats what the template opened
            if not now.marks:
                last = None
            if mark.family == "harmony" and now.families["harmony"] and level is not None:
                now.drop(level + 1)  # channels follow each other
            else:
                now.add(mark)
            final = False
        elif mark.kind in ("close", "soft") and level is not None:
            opening, last = now.marks[0], mark
            unopened = unopened or now.marks[level].family == _ANY
            now.drop(level)
            if not now.marks:
                ranges.append((opening.end, mark.start))
                final = mark.name == "final"
        elif mark.kind == "close" and (not now.marks or (ended and not now.strong)):
            if mark.name != "final" or not (final or mark.start <= first):
                unopened = unopened or not ranges
                ranges = [(0, mark.start)]
            now.drop(0)
            final = mark.name == "final"
    if not now.marks:
        return _Thoughts(ranges=ranges, cut=False, unopened=unopened)
    rest = [now.marks[0], *(mark for mark in marks if mark.start >= now.marks[0].end)]
    if ended and last is not None:
        # One of the openings within the thought was a mention, so the last closing marker ends it.
        ranges.append((now.marks[0].end, last.start))
        rest = [mark for mark in rest if mark.start >= last.end]
    real = next((mark for mark in rest if mark.kind == "open" and not (ended and mark.weak)), None)
    if real is None:
        return _Thoughts(ranges=ranges, cut=False, unopened=unopened)
    end = max((_result_at_end(text, name) for name in _RESULTS), default=-1) if ended else -1
    closed = end >= real.end
    ranges.append((real.end, end if closed else len(text)))
    return _Thoughts(ranges=ranges, cut=not closed, unopened=unopened)


def _result_at_end(text: str, name: str) -> int:
    """Return where the element `name` begins with which the text ends, or -1."""
    return text.rfind(f"<{name}>") if text.rstrip().endswith(f"</{name}>") else -1


@cache
def _rests() -> dict[str, str]:
    """Return the ends of markers, each with what stands before it in the marker; openings come before closings."""
    rests: dict[str, str] = {}
    for marker in sorted((*_CLOSERS, *_OTHERS), key=lambda marker: ("/" in marker, marker)):
        if marker.startswith("["):
            missing = [1, 2] if marker == "[/think]" else [1]
        else:
            missing = list(range(1, len(marker) - _SHORTEST_PART + 1))
        for count in missing:
            if marker[-1] in _MARKER_ENDS:
                rests.setdefault(marker[count:], marker[:count])
    rests["channel|>"] = "<"
    return rests


def _with_first_marker(text: str) -> str:
    """Give a marker back whose first characters are missing where the text begins."""
    begin = text.lstrip()
    head = begin[:40].lower()
    if head.startswith(("channel|>analysis", "channel|>commentary", "channel|>final")):
        return "<|" + begin
    if head.startswith("|channel|>"):
        return "<" + begin
    ends = (n + 1 for n, character in enumerate(head) if character in _MARKER_ENDS)
    rests = _rests()
    return next((rests[head[:end]] + begin for end in ends if head[:end] in rests), text)


def _part_at_end(text: str, *, thinks: bool, ended: bool) -> _Mark | None:
    """Return the part of a marker with which the text ends, as a mark that closes if only closing ones begin so."""
    stripped = text.rstrip()
    end, offset = len(text), max(0, len(stripped) - _TAIL)
    tail = stripped[offset:]
    shortest = _SHORTEST_PART if ended else _SHORTEST_PART - 1
    others = _OTHERS | _LATER_WRAPPERS if thinks else _OTHERS
    for match in re.finditer(r"[<\[◁]", tail):
        part = _BLANKS_IN_TAG.sub("", tail[match.start() :].lower())
        if not shortest <= len(part) <= 40:
            continue
        begins = [marker for marker in _CLOSERS if marker.startswith(part) and marker != part]
        mistakable = part.startswith("</") and len(part) < _UNMISTAKABLE and part != "</thi"
        start = offset + match.start()
        while text[max(0, start - len(part)) : start].lower() == part:
            start -= len(part)
        if any(marker.startswith(part) and marker != part for marker in others):
            return _Mark(start=start, end=end, kind="noise")
        if begins:
            kind: _Kind = "noise" if mistakable else "close"
            return _Mark(start=start, end=end, kind=kind, family=_family(begins[0]))
    if attributes := _TAG_CUT.search(tail):
        kind = "close" if attributes["slash"] else "noise"
        return _Mark(start=offset + attributes.start(), end=end, kind=kind, family="tag")
    return _bare_part_at_end(text, tail, offset, ended=ended)


def _family(marker: str) -> str:
    if marker in _LITERALS:
        return _LITERALS[marker][1]
    return "harmony" if marker.startswith("<|channel|>") else "tag"


def _bare_part_at_end(text: str, tail: str, offset: int, *, ended: bool) -> _Mark | None:
    """The same for markers that read like words: only a text that was cut can end with a part of them."""
    words = text.strip().lower()
    if (
        not ended
        and len(words) >= _SHORTEST_PART - 1
        and any(first.startswith(words) for first in _FIRST_WORDS)
    ):
        return _Mark(start=0, end=len(text), kind="noise")
    start = tail.rfind("assi")
    part = tail[start:] if start >= 0 else ""
    headers = [header for header in _BARE_HEADERS if part and header.startswith(part) and header != part]
    certain = len(part) > len("assistant")
    if not headers or not (certain or (not ended and text.lstrip().startswith(_BARE_STARTS))):
        return None
    closes = certain and headers == ["assistantfinal"]
    kind: _Kind = "close" if closes else "noise"
    return _Mark(
        start=offset + start, end=len(text), kind=kind, family="harmony", name="final" if closes else ""
    )
