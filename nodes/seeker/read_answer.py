"""Reading: plain questions about passages, in calls of their own that nothing extends.

A small model that cannot drive a loop can still read: given the right passages and one question in a plain chat turn,
it finds the answer. That is why answering is a call of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from langchain_core.messages import HumanMessage

from agentinfer_lg.compression.steps import queries_made
from agentinfer_lg.context import Context
from agentinfer_lg.llm.calling import Called, Caller
from agentinfer_lg.nodes.seeker.budget import seconds_left, tokens_spent
from agentinfer_lg.nodes.seeker.evidence import Passage, select_passages
from agentinfer_lg.prompts import Prompts, number_passages
from agentinfer_lg.report.support import supporting_sources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import CallRecord, LastReading, SeekerState
from agentinfer_lg.text import sentences

_MAX_KEPT = 2000
"""Characters of an answer that are kept."""
_INTERESTS = 6
"""Latest queries that tell which passages matter."""

_UNKNOWN = re.compile(
    r"\b(?:(?<!the )unknown(?! (?-i:[A-Z][a-z]))|"
    r"cannot (?:be )?(?:determine|find|answer|provide)\w*|can't (?:determine|find|answer)|unable to|"
    r"(?:do|does|did|is|are|was|were) ?n[o']t (?:\w+ ){0,3}?(?:mention|state|specif|provid|contain|say|giv|includ|indicat|found|"
    r"available|know|enough)\w*|no (?:information|mention|answer|evidence)|not (?:explicitly |directly )?"
    r"(?:mentioned|stated|specified|provided|given|found|available|known|enough))\b"
    r"|未知|不知道|无法(?:确定|回答|得知)|没有(?:提到|提及|说明|信息|答案)|未(?:提及|提到|说明|找到)",
    re.IGNORECASE,
)
"""A name such as "Unknown Pleasures" or "the Unknown" is an answer."""
_MARK = re.compile(r"\s?[\[【]\d{1,3}(?:, ?\d{1,3})*[\]】]")
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s|[。！？]")
_CLOSED_QUESTION = re.compile(
    r"^\s*(?:are|is|was|were|do|does|did|has|have|had|can|could|will|would|should)\b(?!.*\bor\b)|吗[？?]?\s*$|是否",
    re.IGNORECASE | re.DOTALL,
)
_BEGINS_CLOSED = re.compile(r"\s*(yes|no|是的|不是|是|否)(?=[,.，。;；:：!！]|\s*$)", re.IGNORECASE)
_YES_OR_NO = re.compile(r"\s*(?:yes|no|是|否|是的|不是)\b[\s.,!。，！]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer and the keys of the sources that support it."""

    answer: str
    sources: tuple[str, ...]
    calls: tuple[CallRecord, ...] = ()
    last: LastReading | None = None
    """What to keep in the state, so that the same is not read again."""


def answer_tier(context: Context, calls: Sequence[CallRecord], *, large_tokens: int) -> Tier:
    """Return which model reads the answer out of what was found, whoever searched.

    A small model names something that stands in the passages even where they do not tell; its answer then ends the search
    too early. So the large one reads, unless the policy or an empty budget says otherwise.

    Args:
        context: Knobs of the run.
        calls: Calls that count against the budget.
        large_tokens: That budget.
    """
    if context.policy in ("always-small", "one-model", "large-planner-only"):
        return "small"
    return "small" if tokens_spent(calls, "large") >= large_tokens else "large"


def is_unknown(answer: str) -> bool:
    """Whether `answer` is empty or says that the passages do not tell."""
    return not answer.strip() or (len(answer) < 400 and _UNKNOWN.search(answer) is not None)


def is_yes_or_no(answer: str) -> bool:
    """Whether `answer` is a bare yes or no, which no passage contains literally."""
    return _YES_OR_NO.match(answer) is not None


def closed_answer(answer: str, question: str) -> str:
    """Return just the yes or no with which `answer` begins, if `question` asks for one; else `answer`."""
    begins = _BEGINS_CLOSED.match(answer)
    return begins[1] if begins and _CLOSED_QUESTION.search(question) else answer


def without_marks(answer: str) -> str:
    """Return `answer` without numbers of passages such as `[2]`: each agent numbers its sources in its own order."""
    return _MARK.sub("", answer).strip()


def has_sentence(text: str) -> bool:
    """Whether a text that was cut has a whole sentence: that is all that is kept of an answer."""
    return _SENTENCE_END.search(text) is not None


def short_answer(text: str) -> str:
    """Return the answer in `text`: its first sentences, without a lead-in and without what a small model adds after it.

    Numbers of passages are left out: which sources support an answer is found by its words.
    """
    text = without_marks(text)
    text = re.sub(
        r"^(?:the )?(?:short )?answer(?: is)?\s*[:：]\s*|^答案\s*[:：]\s*",
        "",
        text.strip(),
        flags=re.IGNORECASE,
    )
    paragraph = text.split("\n\n", 1)[0].strip()
    kept = sentences(paragraph)[:2]
    return " ".join(kept) if kept else paragraph


async def read_answer(
    caller: Caller,
    prompts: Prompts,
    state: SeekerState,
    context: Context,
    *,
    tier: Tier,
    followed: Sequence[str] = (),
) -> Reading:
    """Answer the seeker's task from everything it has seen.

    Nothing is asked if the latest reading was of the very same passages: a refused answer is often followed by searches that
    bring nothing, and by the same answer.

    Raises:
        EndpointError: No endpoint answers.
    """
    numbers, sources = state.get("numbers", []), state.get("sources", {})
    question = state["task"]["question"]
    passages = _passages(state, context, followed)
    if not passages:
        return Reading("", ())
    prompt, digest = _asked(prompts, question, passages, tier)
    last, calls = state.get("reading"), []
    if last is None or last["prompt"] != digest:
        called = await caller.call(
            tier,
            [HumanMessage(prompt)],
            role="qa",
            max_tokens=context.max_answer_tokens,
            timeout=seconds_left(state),
            enough=has_sentence,
        )
        calls = [called.record]
        last = LastReading(prompt=digest, text=called.reply.text[:_MAX_KEPT])
    answer = short_answer(last["text"])
    shown = list(dict.fromkeys(numbers[number - 1] for number, _, _ in passages))
    supported = tuple(supporting_sources(answer, sources, shown))
    if not supported and is_yes_or_no(answer):
        supported = tuple(shown[:2])
    return Reading(closed_answer(answer, question), supported, tuple(calls), last)


def has_unread(prompts: Prompts, state: SeekerState, context: Context, *, tier: Tier) -> bool:
    """Whether there is something to read an answer from that `tier` was not asked about in the latest reading."""
    passages, last = _passages(state, context), state.get("reading")
    _, digest = _asked(prompts, state["task"]["question"], passages, tier)
    return bool(passages) and (last is None or last["prompt"] != digest)


async def read_document(
    caller: Caller,
    prompts: Prompts,
    question: str,
    title: str,
    passages: Sequence[str],
    *,
    tier: Tier,
    max_tokens: int,
    timeout: float,
) -> Called:
    """Answer `question` from passages of one document.

    Raises:
        EndpointError: No endpoint answers.
    """
    text = f"{title}\n" + "\n".join(passages)
    prompt = prompts.document_question.format(passages=text, question=question)
    return await caller.call(
        tier,
        [HumanMessage(prompt)],
        role="qa",
        max_tokens=max_tokens,
        timeout=timeout,
        enough=has_sentence,
    )


def _passages(state: SeekerState, context: Context, followed: Sequence[str] = ()) -> list[Passage]:
    latest = [*queries_made(state["messages"]), *followed][: -_INTERESTS - 1 : -1]
    queries = [state["task"]["question"], *latest]
    return select_passages(
        state.get("sources", {}),
        state.get("numbers", []),
        queries,
        tokens=context.max_observation_tokens,
        each=0 if context.compression == "off" else context.passage_tokens,
    )


def _asked(prompts: Prompts, question: str, passages: Sequence[Passage], tier: Tier) -> tuple[str, str]:
    """Return the prompt of a reading, and the digest by which it is known again."""
    prompt = prompts.read_answer.format(passages=number_passages(passages), question=question)
    return prompt, sha256(f"{tier}:{prompt}".encode("utf-8", "replace")).hexdigest()
