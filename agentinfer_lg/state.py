"""State of the graph and its reducers.

Values are plain JSON (dicts, lists, strings, numbers) and LangChain messages, so that every checkpointer, Studio and
the SDK can carry them. Lists only grow: a prompt of a session always extends the one before, which is what makes the
prefix cache work.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from agentinfer_lg.settings import Tier


class SubTask(TypedDict):
    """One part of the plan."""

    id: str
    """`seeker-1`, `seeker-2`, ...: also the name of the agent in events."""
    question: str


class Source(TypedDict):
    """A document that was really retrieved; only these can be cited."""

    key: str
    """Content-independent identity: the first 12 hex digits of sha256(uri)."""
    uri: str
    """URL, or path inside the document folder."""
    title: str
    passages: list[str]
    """Texts of the document that a model has seen, in order, without duplicates."""
    read: bool
    """Whether it was read, or there is nothing in it beyond its passages."""


class Finding(TypedDict):
    """What one seeker found."""

    agent: str
    question: str
    answer: str
    """Empty when nothing was found."""
    sources: list[str]
    """Keys into `sources`."""
    complete: bool
    """False when a budget or a failure ended the seeker before it was done."""


class CallRecord(TypedDict):
    """One model call, as reported by the server."""

    agent: str
    turn: int
    role: str
    tier: Tier
    model: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    started: NotRequired[float]
    """Unix time in seconds at which it was sent; missing in runs saved by earlier versions, here and in `ToolRecord`."""
    seconds: float
    reprefill_tokens: int
    """Tokens prefilled again because the tier was switched: the two models share no KV cache."""
    thought_tokens: NotRequired[int]
    """Part of the output tokens that is thoughts; missing where there are none."""
    retries: NotRequired[int]
    """Answers before this one that were cut; missing where there are none, as the next two."""
    retry_tokens: NotRequired[int]
    """Tokens of prompts and outputs of those answers."""
    cut: NotRequired[bool]
    """Whether the answer was used although it was cut."""


class ToolRecord(TypedDict):
    """One tool call."""

    agent: str
    turn: int
    tool: str
    started: NotRequired[float]
    seconds: float
    ok: bool
    results: int


class RoundRecord(TypedDict):
    """What one round brought."""

    agent: str
    turn: int
    shown: dict[str, int]
    """Sources of which the model was shown something unseen: key to estimated tokens."""
    new_evidence: bool
    """Whether the tools brought a text that was mostly unseen, shown or not."""
    accepted: bool
    """Whether an answer was accepted."""


class CheckRecord(TypedDict):
    """One Progress Check and what became of it."""

    agent: str
    turn: int
    tier: Tier
    verdict: Literal["TRUE", "FALSE", "UNREADABLE", "SKIPPED"]
    reason: str
    stall: str
    """What the verifier objects to, empty when nothing."""
    next_tier: Tier


class EscalationRecord(TypedDict):
    """One switch from small to large."""

    agent: str
    turn: int
    cause: str


class FilterRecord(TypedDict):
    """One round whose search results were pruned."""

    agent: str
    turn: int
    method: Literal["model", "lexical"]
    results: int
    pruned: int
    tokens_saved: int
    """Estimated tokens of what was pruned."""


class CompactionRecord(TypedDict):
    """One compaction: notes took the place of distilled results."""

    agent: str
    turn: int
    """First turn that saw the notes."""
    ticket: str
    lag: int
    """Turns since the distillation was started."""
    tokens_before: int
    """Estimated length of the context without the compaction."""
    tokens_after: int
    removed: int
    """Lines of the model that the originals did not bear out."""
    failure: str
    """Why notes were made without a model; empty: they were not."""


class PendingCall(TypedDict):
    """A tool call of the current round."""

    id: str
    tool: str
    arguments: dict[str, Any]  # Any: JSON values as the model gave them, validated by the tool


class Observation(TypedDict):
    """Result of one tool call of the current round, before it becomes a message."""

    call: PendingCall
    text: str
    sources: list[Source]
    ok: bool
    seconds: float


class LastReading(TypedDict):
    """The latest reading of an answer."""

    prompt: str
    """Digest of what was read, and by which tier."""
    text: str
    """What the model said."""


class Proposal(TypedDict):
    """An answer that the model proposed."""

    answer: str
    sources: list[str]
    accepted: bool


class Budget(TypedDict):
    """What is left for a seeker (or for the whole run)."""

    turns: int
    small_tokens: int
    large_tokens: int
    large_steps: int
    seconds: float


def merge_sources(left: dict[str, Source], right: dict[str, Source]) -> dict[str, Source]:
    """Merge registries of sources; passages of the same document are joined, in order."""
    merged = dict(left)
    for key, source in right.items():
        known = merged.get(key)
        if known is None:
            merged[key] = source
            continue
        passages = known["passages"] + [p for p in source["passages"] if p not in known["passages"]]
        merged[key] = {**known, "passages": passages, "read": known["read"] or source["read"]}
    return merged


def merge_unique(left: list[str], right: list[str]) -> list[str]:
    """Append what is not there yet."""
    return left + [item for item in dict.fromkeys(right) if item not in left]


def merge_round(left: list[Observation], right: list[Observation] | None) -> list[Observation]:
    """Collect the observations of a round; None starts the next round."""
    return [] if right is None else left + right


class ResearchInput(TypedDict, total=False):
    """What the graph is given: a question, or a conversation whose last human message is the question."""

    question: str
    messages: Annotated[list[AnyMessage], add_messages]


class _Shared(TypedDict, total=False):
    sources: Annotated[dict[str, Source], merge_sources]
    findings: Annotated[list[Finding], operator.add]
    calls: Annotated[list[CallRecord], operator.add]
    tools: Annotated[list[ToolRecord], operator.add]
    checks: Annotated[list[CheckRecord], operator.add]
    escalations: Annotated[list[EscalationRecord], operator.add]
    filters: Annotated[list[FilterRecord], operator.add]
    swaps: Annotated[list[CompactionRecord], operator.add]
    rounds: Annotated[list[RoundRecord], operator.add]
    ran_out: Annotated[list[str], merge_unique]
    """Sentences: which budget ran out, which endpoint failed."""
    dropped_citations: Annotated[int, operator.add]


class ResearchState(_Shared, total=False):
    """State of the deep-research graph."""

    question: str
    asked: str
    """The question that was last taken up, to tell a new message of a conversation from an old question."""
    messages: Annotated[list[AnyMessage], add_messages]
    language: Literal["en", "zh"]
    plan_notes: Annotated[list[str], operator.add]
    """What the large model wrote in the planning steps before the decomposition (intent, strategy)."""
    plan: list[SubTask]
    run_id: str
    """Random, made when the run starts: the engine sees sessions under it, never the caller's thread id."""
    one_model: bool
    """Whether one model served both tiers, so that nothing was checked or escalated."""
    plan_step: int
    answer: str
    report: str


class ResearchOutput(_Shared, total=False):
    """What the graph returns."""

    question: str
    messages: Annotated[list[AnyMessage], add_messages]
    plan: list[SubTask]
    one_model: bool
    answer: str
    report: str


class SeekerState(_Shared, total=False):
    """State of one Information Seeker."""

    task: SubTask
    question: str
    """The whole question, of which `task` is a part."""
    language: Literal["en", "zh"]
    messages: Annotated[list[AnyMessage], add_messages]
    turn: int
    tier: Tier
    """Tier of the next Think step."""
    collab: dict[str, Any]  # Any: `collab.controller.CollabState` as JSON
    numbers: Annotated[list[str], merge_unique]
    """Keys of sources in the order in which this seeker's model saw them: number = position + 1."""
    run_id: str
    plan_notes: list[str]
    call: PendingCall
    """The one call that an `act` task runs."""
    modes: dict[str, str]
    """Tier to the form in which it calls tools; it may change once, from native to json."""
    unreadable: int
    """Steps in a row, up to now, whose answers could not be read."""
    proposal: Proposal
    reading: NotRequired[LastReading]
    pending: list[PendingCall]
    observations: Annotated[list[Observation], merge_round]
    verdict: NotRequired[dict[str, str]]
    stall: str
    """Objection of the verifier to the current round."""
    tool_error: bool
    stopped: bool
    """A budget ended the seeker."""
    verifier: dict[str, Any]  # Any: `collab.verifier.VerifierState` as JSON
    budget: Budget
    rescue: Any  # Any: `compression.view.Compaction` or None
    """What stands for the results so far while the large model is at work."""
    compression: dict[str, Any]
    """JSON, see `compression.cycle.Memory`: `ticket` (`compression.policy.Job`) while a distillation is asked for, `swap`
    (`compression.view.Compaction`) and `notes` (`compression.distillate.Distillate`) once there was one, `refused` and
    `not_before` where notes would not have paid."""


class SeekerOutput(_Shared, total=False):
    """What a seeker hands to the writer."""
