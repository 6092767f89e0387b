"""What a run came to, as one JSON object: output of `agentinfer research --json`, input of evaluations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from agentinfer_lg.settings import Tier
    from agentinfer_lg.state import (
        CallRecord,
        CheckRecord,
        CompactionRecord,
        EscalationRecord,
        FilterRecord,
        Finding,
        ResearchState,
        RoundRecord,
        Source,
        SubTask,
        ToolRecord,
    )

_LISTED = re.compile(r"^- \[\d+\] (.*?)\s*$", re.MULTILINE)

_PHASES: Mapping[str, str] = {
    "think": "think",
    "plan": "plan",
    "progress": "progress",
    "write": "write",
    "qa": "observe",
    "filter": "observe",
    "distill": "distill",
    "prewarm": "distill",
}
"""Role of a model call to the phase its seconds count for; the phase `act` is the time of tools."""


class ResultSource(TypedDict):
    """A retrieved document."""

    key: str
    title: str
    uri: str
    cited: bool
    """Whether the report lists it; without a report, whether a finding rests on it."""


class CheckSummary(TypedDict):
    """All Progress Checks of a run."""

    true: int
    false: int
    unreadable: int
    skipped: int
    stalls: int
    """Checks to which the verifier objected."""
    checks: list[CheckRecord]
    """One by one, in order of time within each agent."""


class TierUsage(TypedDict):
    """Tokens of one tier, as its server counted them."""

    calls: int
    prompt_tokens: int
    cached_tokens: int
    """Part of the prompt tokens that the server had in its prefix cache."""
    output_tokens: int
    thought_tokens: int
    """Part of the output tokens that went into thinking; the rest is what could be seen."""
    retry_tokens: int
    """Prompt and output tokens of answers that were cut and asked for again; in none of the other counts."""


class PhaseSeconds(TypedDict):
    """Seconds spent; agents run at the same time, so the phases may add up to more than `total`."""

    plan: float
    think: float
    progress: float
    act: float
    observe: float
    distill: float
    """In the background, while the agents went on."""
    write: float
    total: float
    """Wall time."""


class Trace(TypedDict):
    """Everything that was done, one by one."""

    calls: list[CallRecord]
    tools: list[ToolRecord]
    rounds: list[RoundRecord]
    """What each round brought."""


class Result(TypedDict):
    """Outcome of a run; see `docs/cli.md`."""

    question: str
    answer: str
    report: str
    plan: list[SubTask]
    sources: list[ResultSource]
    findings: list[Finding]
    turns: int
    """Think steps of all seekers."""
    tier_per_turn: dict[str, list[Tier]]
    """Tier of each Think step, per agent."""
    one_model: bool
    """Whether one model served both tiers: then nothing is checked or escalated."""
    progress_checks: CheckSummary
    escalations: list[EscalationRecord]
    reprefill_tokens: int
    """Tokens prefilled again because the tier was switched."""
    filters: list[FilterRecord]
    swaps: list[CompactionRecord]
    usage: dict[Tier, TierUsage]
    seconds: PhaseSeconds
    dropped_citations: int
    """Citations of the model that no retrieved document backs."""
    ran_out: list[str]
    complete: bool
    """Whether there is a report and nothing ran out."""
    thread: str
    trace: Trace


def build_result(values: Mapping[str, Any] | ResearchState, *, thread: str, seconds: float) -> Result:
    """Sum up the state of a run, finished or not.

    Args:
        values: Values of the graph's state; missing ones count as empty.
        thread: Name of the run.
        seconds: Wall time so far.
    """
    calls: list[CallRecord] = list(values.get("calls") or ())
    ran_out: list[str] = list(values.get("ran_out") or ())
    findings: list[Finding] = list(values.get("findings") or ())
    report = values.get("report") or ""
    tiers = _tier_per_turn(calls)
    return {
        "question": values.get("question") or "",
        "answer": values.get("answer") or "",
        "report": report,
        "plan": list(values.get("plan") or ()),
        "sources": _sources(values.get("sources") or {}, findings, report),
        "findings": findings,
        "turns": sum(len(turns) for turns in tiers.values()),
        "tier_per_turn": tiers,
        "one_model": bool(values.get("one_model")),
        "progress_checks": _checks(values.get("checks") or ()),
        "escalations": list(values.get("escalations") or ()),
        "reprefill_tokens": sum(call["reprefill_tokens"] for call in calls),
        "filters": list(values.get("filters") or ()),
        "swaps": list(values.get("swaps") or ()),
        "usage": {"small": _usage(calls, "small"), "large": _usage(calls, "large")},
        "seconds": _seconds(calls, values.get("tools") or (), total=seconds),
        "dropped_citations": int(values.get("dropped_citations") or 0),
        "ran_out": ran_out,
        "complete": bool(report) and not ran_out,
        "thread": thread,
        "trace": {
            "calls": calls,
            "tools": list(values.get("tools") or ()),
            "rounds": list(values.get("rounds") or ()),
        },
    }


def _tier_per_turn(calls: Iterable[CallRecord]) -> dict[str, list[Tier]]:
    """Tiers of the Think steps; a step that was called again (a retry) counts once, with its last tier."""
    steps: dict[str, dict[int, Tier]] = {}
    for call in calls:
        if call["role"] == "think":
            steps.setdefault(call["agent"], {})[call["turn"]] = call["tier"]
    return {agent: [turns[turn] for turn in sorted(turns)] for agent, turns in sorted(steps.items())}


def _sources(sources: Mapping[str, Source], findings: Iterable[Finding], report: str) -> list[ResultSource]:
    used = {key for finding in findings for key in finding["sources"]}
    listed = _listed_uris(report)
    return [
        {
            "key": key,
            "title": source["title"],
            "uri": source["uri"],
            "cited": " ".join(source["uri"].split()) in listed if report else key in used,
        }
        for key, source in sources.items()
    ]


def _listed_uris(report: str) -> set[str]:
    """URIs in the report's list of sources, whose lines read `- [1] Title — uri` or `- [1] uri`."""
    listed: set[str] = set()
    for item in _LISTED.findall(report):
        parts = item.split(" — ")
        listed.update(" — ".join(parts[start:]) for start in range(len(parts)))
    return listed


def _checks(checks: Iterable[CheckRecord]) -> CheckSummary:
    listed = list(checks)
    verdicts = [check["verdict"] for check in listed]
    return {
        "true": verdicts.count("TRUE"),
        "false": verdicts.count("FALSE"),
        "unreadable": verdicts.count("UNREADABLE"),
        "skipped": verdicts.count("SKIPPED"),
        "stalls": sum(bool(check["stall"]) for check in listed),
        "checks": listed,
    }


def _usage(calls: Iterable[CallRecord], tier: Tier) -> TierUsage:
    own = [call for call in calls if call["tier"] == tier]
    return {
        "calls": len(own),
        "prompt_tokens": sum(call["prompt_tokens"] for call in own),
        "cached_tokens": sum(call["cached_tokens"] for call in own),
        "output_tokens": sum(call["output_tokens"] for call in own),
        "thought_tokens": sum(call.get("thought_tokens", 0) for call in own),
        "retry_tokens": sum(call.get("retry_tokens", 0) for call in own),
    }


def _seconds(calls: Iterable[CallRecord], tools: Iterable[ToolRecord], *, total: float) -> PhaseSeconds:
    spent = dict.fromkeys(("plan", "think", "progress", "act", "observe", "distill", "write"), 0.0)
    for call in calls:
        phase = _PHASES.get(call["role"])
        if phase:
            spent[phase] += call["seconds"]
    spent["act"] = sum(tool["seconds"] for tool in tools)
    return {
        "plan": round(spent["plan"], 3),
        "think": round(spent["think"], 3),
        "progress": round(spent["progress"], 3),
        "act": round(spent["act"], 3),
        "observe": round(spent["observe"], 3),
        "distill": round(spent["distill"], 3),
        "write": round(spent["write"], 3),
        "total": round(total, 3),
    }
