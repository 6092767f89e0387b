"""Progress Check: the question put to the model, and the reading of its answer.

The check is a second, short call on exactly the prefix of the Think step, so that its KV cache is used again.
The answer is the block of AgentInfer (arXiv 2512.18337): the reason first, so that the value follows from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from agentinfer_lg.collab.controller import Verdict
from agentinfer_lg.llm.grammar import prose
from agentinfer_lg.llm.reasoning import split_reasoning

PROGRESS_PROMPT: dict[Literal["en", "zh"], str] = {
    "en": (
        "Judge your last step. Does it bring new and relevant progress toward answering the question, "
        "or does it only repeat earlier work or drift away? "
        "Give the reason in 10 to 20 words, then TRUE for progress or FALSE for none, in this block and nothing else:\n"
        "===PROGRESS===\n<reason>...</reason> <value>...</value>\n===END_PROGRESS==="
    ),
    "zh": (
        "请评判你的上一步：它为回答问题带来了新的、相关的进展，还是只在重复或偏离？"
        "先用10到20个中文词写理由，有进展再写 TRUE，没有写 FALSE。只写下面这个区块：\n"
        "===PROGRESS===\n<reason>...</reason> <value>...</value>\n===END_PROGRESS==="
    ),
}
"""Instruction of the check, by language. The template holds no value, so copying it decides nothing."""

_REASON = prose(r"<\n", words=24)
PROGRESS_REGEX = (
    rf"===PROGRESS===\n<reason>{_REASON}</reason> <value>(TRUE|FALSE)</value>\n===END_PROGRESS==="
)
"""The block as a regular expression for constrained decoding."""

_MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class ParsedVerdict:
    """What a Progress Check said."""

    verdict: Verdict
    """TRUE, FALSE, or UNREADABLE when there is no value or values that contradict each other."""
    reason: str
    """At most 300 characters on one line; empty when none was given."""


def parse_verdict(text: str) -> ParsedVerdict:
    """Read the answer to a Progress Check; never raises, and takes time linear in the length of `text`.

    Besides the exact block it reads blocks without markers, lower case, full-width characters, Chinese
    values, `value: …` lines, JSON, and a bare word. Thoughts of reasoning models (`<think>`) are left out.
    Of several blocks the last one with a value counts.

    Args:
        text: Output of the model, as it came.
    """
    plain = split_reasoning(text.translate(_NARROW)).visible
    for segment in reversed(_BLOCK_START.split(plain)):
        value = _segment_value(segment)
        if value is not None:
            return ParsedVerdict(value, _reason(plain))
    return ParsedVerdict("UNREADABLE", _reason(plain))


# Each quantifier is bounded, or cannot run over a place where another match could start: so time is linear.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_BLOCK_START = re.compile(r"(?<![A-Za-z_])PROGRESS\s{0,2}==|(?=<reason>)", re.IGNORECASE)
_BLOCK_END = re.compile(r"END[_ ]?PROGRESS", re.IGNORECASE)
_VALUE_TAG = re.compile(r"<value>([^<]{0,60})", re.IGNORECASE)
_VALUE_KEY = re.compile(
    r"(?:\b(?:value|verdict|progress)|结论|判断|取值|值)[\"'”’]?\s{0,3}[:=]\s{0,3}([^\n<,}]{1,60})",
    re.IGNORECASE,
)
_REASON_TAG = re.compile(r"<reason>([^<]{0,2000})", re.IGNORECASE)
_REASON_KEY = re.compile(
    r"(?:\breason|原因|理由)[\"'”’]?\s{0,3}[:=]\s{0,3}(?:\"([^\"]{0,2000})\"|([^\n<]{0,2000}))", re.IGNORECASE
)
_REASON_SPAN = re.compile(
    r"<reason>[^<]*(?:</reason>)?|(?:\breason|原因|理由)\"\s{0,3}:\s{0,3}\"[^\"]{0,2000}\"", re.IGNORECASE
)
_SHOUTED = re.compile(r"\b(?:TRUE|FALSE)\b")
_NEGATIVE = re.compile(
    r"\b(?:false|no)\b|(?:毫无|没有?|无|未有?)(?:取得|带来)?(?:任何|新的?|相关的?|实质性?|明显的?){0,3}进展|不是|没有|否|假"
)
_POSITIVE = re.compile(
    r"\b(?:true|yes)\b|有(?:了|新的?|相关的?|明显的?){0,3}进展|(?:取得|带来)了?新?的?进展|是|真"
)
_DOUBTFUL = re.compile(r"\b(?:not|neither|nor|maybe|unsure|unclear|none)\b|n't\b|不确定")


def _segment_value(segment: str) -> Verdict | None:
    """Value of one block; None when it holds none."""
    end = _BLOCK_END.search(segment)
    body = segment[: end.start()] if end else segment
    answers = [match.group(1) for match in _VALUE_TAG.finditer(body)]
    if not answers:
        body = _REASON_SPAN.sub(" ", body)
        answers = [match.group(1) for match in _VALUE_KEY.finditer(body)] or _bare_answers(body)
    verdicts = {_word_value(answer) for answer in answers} - {None}
    if not answers:
        return None
    return verdicts.pop() if len(verdicts) == 1 and verdicts else "UNREADABLE"


def _bare_answers(body: str) -> list[str]:
    """Values written without tag or key: a last line that is nothing else, or TRUE and FALSE in capitals."""
    body = body.strip()
    line = body[body.rfind("\n") + 1 :].strip("=*#`-> \t")
    if 0 < len(line) <= 24 and _word_value(line) in ("TRUE", "FALSE"):
        return [line]
    return sorted(set(_SHOUTED.findall(body)))


def _word_value(words: str) -> Verdict | None:
    """Read an answer of a few words; None for nothing at all, UNREADABLE for both or neither."""
    words = words.strip().lower()
    if not words.strip("\"'`.:;*!()[]{}。，"):
        return None
    rest, negatives = _NEGATIVE.subn(" ", words)
    positives = len(_POSITIVE.findall(rest))
    if _DOUBTFUL.search(rest) or bool(negatives) == bool(positives):
        return "UNREADABLE"
    return "FALSE" if negatives else "TRUE"


def _reason(text: str) -> str:
    reason = ""
    for pattern in (_REASON_TAG, _REASON_KEY):
        for match in pattern.finditer(text):
            reason = next((group for group in match.groups() if group), reason)
        if reason:
            break
    return " ".join(reason.split())[:_MAX_REASON]
