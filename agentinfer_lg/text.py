"""Words and sentences of English and Chinese text, for retrieval and for citations."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal

from agentinfer_lg.llm.tokens import estimate_tokens

Language = Literal["en", "zh"]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_CJK = _HAN + "\u3040-\u30ff\u31f0-\u31ff\uac00-\ud7af"
_HAN_CHARACTER = re.compile(f"[{_HAN}]")
_LETTERS = re.compile(f"[^\\W\\d_{_CJK}]+")
_TERM = re.compile(
    f"(?P<cjk>[{_CJK}]+)"
    r"|(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)+)"
    f"|(?P<word>[^\\W_{_CJK}]+)(?:['’]s\\b)?"
)
_HAN_PER_WORD = 1.5
"""Chinese characters that carry as much as one word of an alphabet."""

_ENGLISH = """
a about above after again all also although always am among an and any are as at be became because become been
before being below between both but by came can cannot could did do does doing done down during each either even
ever every few for from further had has have having he her here hers herself him himself his how however i if in
into is it its itself just least less like made many may me might more most much must my myself neither no nor
not now of off often on once one only or other others our ours out over own per rather s said same she should
since so some such than that the their theirs them themselves then there these they this those though through
thus to too under until up upon us very was we well were what when where whether which while who whom whose why
will with within without would yes yet you your yours t ll ve don didn doesn isn wasn aren weren hasn hadn
couldn wouldn shouldn
"""
_CHINESE = """
的 了 和 是 在 有 与 及 或 也 都 就 而 但 被 把 这 那 它 他 她 我 你 其 之 于 以 为 从 到 对 等 吗 呢 吧
一个 一种 这个 那个 这些 那些 我们 你们 他们 它们 她们 自己 什么 怎么 怎样 哪个 哪些 哪里 谁的 多少 如何 为何
是否 以及 或者 并且 而且 但是 因为 所以 如果 虽然 由于 关于 对于 根据 其中 此外 因此 可以 能够 已经 还是 不是
就是 没有 不同 这是 那是 是谁 是在 是一 了一 的是 是什 么是 一位 一家 请问 有哪 位于 属于
"""
_STOP_WORDS = frozenset(_ENGLISH.split())
_ALL_STOP_WORDS = _STOP_WORDS | frozenset(_CHINESE.split())

_ABBREVIATED = """
adm al approx apr assn aug ave bros ca capt cf co col corp cpl dec dept dist dr ed eds e.g eg esp est etc
feb fr fri gen gov hon i.e ie inc jan jr jul jun lt ltd maj mar messrs mon mr mrs ms mt nov oct op p.m a.m
ph.d phd pp prof pub rev sen sep sept sgt sr st ste thu tue u.k u.n u.s u.s.a viz vs wed
"""
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_BEFORE_NUMBERS = frozenset(("no", "nos", "fig", "figs", "vol", "vols"))
"""Abbreviations before a number, else words."""
_CLOSERS = "\"'”’)\\]}」』》〉）】］*_\ufdd0"
"""What may follow the mark of a sentence; U+FDD0 is the place holder of `agentinfer_lg.report.grammar`."""
_SENTENCE_END = re.compile(
    f"(?P<cjk>[。！？｡…]++[{_CLOSERS}]*+)"
    f"|(?P<latin>[.!?]++[{_CLOSERS}]*+)(?=\\s|$|[{_CJK}])"
    r"|(?P<blank>\n[ \t]*+\n\s*+)"
)
_LAST_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*$")


def well_formed(text: str) -> str:
    """Replace halves of surrogate pairs by `?`: JSON can spell them, but no server and no checkpoint takes them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def detect_language(text: str) -> Language:
    """Tell Chinese from everything else, by the share of Chinese characters among the words."""
    han = len(_HAN_CHARACTER.findall(text))
    return "zh" if han and han / _HAN_PER_WORD >= len(_LETTERS.findall(text)) else "en"


def terms(text: str) -> list[str]:
    """Split `text` into lower-cased terms, in order.

    Words lose a plural s; `1,234` becomes `1234`; a run of Chinese, Japanese or Korean characters becomes its
    overlapping pairs (`北京大学` gives `北京 京大 大学`), a single character itself.
    """
    return list(_iterate_terms(text))


def content_terms(text: str) -> set[str]:
    """The terms of `text` without the words that carry no content, English or Chinese."""
    return {term for term in _iterate_terms(text) if term not in _ALL_STOP_WORDS}


def idf_scores(texts: Sequence[set[str]], queries: Sequence[set[str]]) -> list[float]:
    """Score texts by the inverse document frequencies of the terms that they share with queries.

    Args:
        texts: `content_terms` of each text.
        queries: `content_terms` of each query, the most important first: each next one counts less.
    """
    frequency: dict[str, int] = {}
    for text in texts:
        for term in text:
            frequency[term] = frequency.get(term, 0) + 1
    weight = {term: math.log(1 + len(texts) / count) for term, count in frequency.items()}
    return [
        sum(
            sum(weight[term] for term in query & text) / position
            for position, query in enumerate(queries, start=1)
        )
        for text in texts
    ]


def spelled_out(title: str, queries: Sequence[set[str]]) -> float:
    """Return the largest share of a title's terms that one of the queries holds, 0 to 1.

    A document on what is asked for says so in its title; an advertisement just mentions all of it.

    Args:
        title: Of a document.
        queries: `content_terms` of each query.
    """
    own = content_terms(title)
    return max((len(own & query) / len(own) for query in queries), default=0.0) if own else 0.0


def word_runs(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words and numbers of normalised text, unstemmed, and its CJK runs, each with whether it is one."""
    for match in _TERM.finditer(text):
        match match.lastgroup:
            case "cjk":
                yield match["cjk"], True
            case "number":
                yield match["number"].replace(",", ""), False
            case _:
                yield match["word"], False


def _iterate_terms(text: str) -> Iterator[str]:
    for run, is_cjk in word_runs(unicodedata.normalize("NFKC", text).lower()):
        if is_cjk:
            yield from (run[i : i + 2] for i in range(max(1, len(run) - 1)))
        else:
            yield _stem(run)


def _stem(word: str) -> str:
    """Take off the English plural (Harman's S stemmer); other endings are left alone."""
    if len(word) < 4 or not word.endswith("s") or word in _STOP_WORDS:
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    return word if word.endswith(("us", "ss", "is")) else word[:-1]


def sentences(text: str) -> list[str]:
    """Split `text` into sentences, without the white space around them."""
    return [part for start, end in sentence_spans(text) if (part := text[start:end].strip())]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Split `text` into sentences as `(start, end)`; the spans cover the text without gaps.

    A sentence ends at `.`, `!`, `?` before white space (not after an abbreviation or an initial, nor before a small
    letter), at `。`, `！`, `？`, and at a blank line. A single line break ends nothing: text may be wrapped.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if match.lastgroup == "latin" and not _ends_sentence(text, match):
            continue
        end = _skip_space(text, match.end())
        if end > start:
            spans.append((start, end))
            start = end
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    after = _skip_space(text, match.end())
    if after < len(text) and text[after].islower():
        return False
    if not match[0].startswith(".") or match[0].startswith(".."):
        return True
    word = _LAST_WORD.search(text, max(0, match.start() - 24), match.start())
    if word is None:
        return True
    is_initial = len(word[0]) == 1 and word[0].isalpha() and word[0].isupper()
    if word[0].lower() in _BEFORE_NUMBERS:
        return not text[after : after + 1].isdigit()
    return not is_initial and word[0].lower() not in _ABBREVIATIONS


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def clip(text: str, *, tokens: int) -> str:
    """Shorten `text` to about `tokens` tokens, at the end of a sentence or else of a word, and append ` …`.

    Args:
        text: Returned as it is when it fits.
        tokens: Most tokens of the result by `estimate_tokens`, the mark included; 0 or less gives "".
    """
    if tokens <= 0:
        return ""
    if estimate_tokens(text) <= tokens:
        return text
    limit = _longest_prefix(text, tokens - estimate_tokens(" …"))
    if limit <= 0:
        return "…" if estimate_tokens("…") <= tokens else ""
    return text[: _border(text, limit)].rstrip() + " …"


def _longest_prefix(text: str, tokens: int) -> int:
    low, high = 0, min(len(text), 4 * max(0, tokens))
    while low < high:
        middle = (low + high + 1) // 2
        if estimate_tokens(text[:middle]) <= tokens:
            low = middle
        else:
            high = middle - 1
    return low


def _border(text: str, limit: int) -> int:
    """The last end of a sentence, else of a word, in `text[:limit]`, unless that would lose too much."""
    ends = [end for _, end in sentence_spans(text[: limit + 1]) if end <= limit]
    if ends and ends[-1] >= limit // 2:
        return ends[-1]
    if limit < len(text) and not (text[limit].isspace() or _HAN_CHARACTER.match(text[limit])):
        space = max(text.rfind(" ", 0, limit), text.rfind("\n", 0, limit))
        if space >= limit // 2:
            return space
    return limit
