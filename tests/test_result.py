"""The result object: counted from records, whole even for a run that never finished."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.report.render import source_list
from agentinfer_lg.result import build_result

_counts = st.integers(0, 10_000)
_calls = st.lists(
    st.fixed_dictionaries(
        {
            "agent": st.sampled_from(["planner", "seeker-1", "seeker-2", "writer"]),
            "turn": st.integers(0, 5),
            "role": st.sampled_from(
                ["plan", "think", "progress", "qa", "filter", "distill", "write", "prewarm"]
            ),
            "tier": st.sampled_from(["small", "large"]),
            "model": st.just("m"),
            "prompt_tokens": _counts,
            "cached_tokens": _counts,
            "output_tokens": _counts,
            "seconds": st.floats(0, 100),
            "reprefill_tokens": _counts,
        }
    )
)


def _call(agent: str, turn: int, role: str, tier: str, **more: Any) -> dict[str, Any]:
    zero = {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "seconds": 0.0, "reprefill_tokens": 0}
    return {"agent": agent, "turn": turn, "role": role, "tier": tier, "model": "m", **zero, **more}


def test_a_run_that_never_began() -> None:
    result = build_result({}, thread="t", seconds=1.5)
    assert result["complete"] is False
    assert result["turns"] == 0
    assert result["seconds"]["total"] == 1.5
    assert result["usage"]["small"] == {
        "calls": 0,
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "output_tokens": 0,
        "thought_tokens": 0,
        "retry_tokens": 0,
    }
    json.dumps(result)


def test_tiers_phases_and_tokens() -> None:
    calls = [
        _call("planner", 0, "plan", "large", prompt_tokens=10, seconds=1.0),
        _call(
            "seeker-1", 0, "think", "small", prompt_tokens=100, cached_tokens=60, output_tokens=5, seconds=2.0
        ),
        _call("seeker-1", 0, "progress", "small", prompt_tokens=110, cached_tokens=100, seconds=0.5),
        _call("seeker-1", 1, "think", "large", prompt_tokens=120, reprefill_tokens=90, seconds=4.0),
        _call("seeker-2", 0, "think", "small", seconds=1.0),
        _call("seeker-2", 0, "qa", "small", seconds=0.25),
        _call("writer", 0, "write", "large", seconds=3.0),
    ]
    tools = [
        {"agent": "seeker-1", "turn": 0, "tool": "web_search", "seconds": 0.75, "ok": True, "results": 3}
    ]
    result = build_result({"calls": calls, "tools": tools, "report": "r"}, thread="t", seconds=9.0)
    assert result["tier_per_turn"] == {"seeker-1": ["small", "large"], "seeker-2": ["small"]}
    assert result["turns"] == 3
    assert result["reprefill_tokens"] == 90
    assert result["usage"]["small"]["cached_tokens"] == 160
    assert result["usage"]["large"]["calls"] == 3
    spent = {
        "plan": 1.0,
        "think": 7.0,
        "progress": 0.5,
        "act": 0.75,
        "observe": 0.25,
        "distill": 0.0,
        "write": 3.0,
        "total": 9.0,
    }
    assert result["seconds"] == spent
    assert result["complete"] is True


def test_a_retried_step_counts_once() -> None:
    calls = [_call("seeker-1", 0, "think", "small"), _call("seeker-1", 0, "think", "large")]
    result = build_result({"calls": calls}, thread="t", seconds=0)
    assert result["tier_per_turn"] == {"seeker-1": ["large"]}
    assert result["usage"]["small"]["calls"] == 1


def test_what_ran_out_makes_it_incomplete() -> None:
    result = build_result({"report": "r", "ran_out": ["The turns ran out."]}, thread="t", seconds=0)
    assert result["complete"] is False
    assert result["ran_out"] == ["The turns ran out."]


def _source(key: str, uri: str) -> dict[str, Any]:
    return {"key": key, "uri": uri, "title": key.upper(), "passages": ["secret text that is long"]}


def test_cited_means_listed_in_the_report() -> None:
    uris = ["notes/rain.md", "notes/rain.md.old", "my notes/a  b.txt", "b.txt", "https://x.example/a — b"]
    sources = {str(number): _source(str(number), uri) for number, uri in enumerate(uris)}
    finding = {"agent": "seeker-1", "question": "q", "answer": "1", "sources": ["0"], "complete": True}
    text = "It rains [1]. notes/rain.md\n\n## Sources\n\n"
    listed = ["Rain — in short — notes/rain.md.old", "my notes/a b.txt", "T — https://x.example/a — b"]
    report = text + "\n".join(f"- [{number}] {line}" for number, line in enumerate(listed, 1)) + "\n"
    values = {"sources": sources, "findings": [finding], "report": report}
    result = build_result(values, thread="t", seconds=0)
    assert [source["key"] for source in result["sources"] if source["cited"]] == ["1", "2", "4"]
    assert "passages" not in result["sources"][0]


def test_the_list_of_sources_is_read_as_it_is_written() -> None:
    sources: Any = {key: _source(key, f"folder {key}/[{key}].md") for key in ("a", "b", "c")}
    report = f"# q\n\n## Sources\n\n{source_list(['c', 'a'], sources)}\n"
    result = build_result({"sources": sources, "report": report}, thread="t", seconds=0)
    assert [source["key"] for source in result["sources"] if source["cited"]] == ["a", "c"]


def test_without_a_report_cited_means_that_a_finding_rests_on_it() -> None:
    finding = {"agent": "seeker-1", "question": "q", "answer": "1", "sources": ["c"], "complete": True}
    values = {"sources": {"c": _source("c", "x"), "d": _source("d", "y")}, "findings": [finding]}
    result = build_result(values, thread="t", seconds=0)
    assert [source["cited"] for source in result["sources"]] == [True, False]


def test_checks_are_counted() -> None:
    verdicts = ["TRUE", "FALSE", "FALSE", "UNREADABLE", "SKIPPED"]
    checks = [
        {
            "agent": "s",
            "turn": n,
            "tier": "small",
            "verdict": v,
            "reason": "",
            "stall": "",
            "next_tier": "small",
        }
        for n, v in enumerate(verdicts)
    ]
    checks[0]["stall"] = "the same action again"
    summary = build_result({"checks": checks}, thread="t", seconds=0)["progress_checks"]
    assert (summary["true"], summary["false"], summary["unreadable"], summary["skipped"]) == (1, 2, 1, 1)
    assert summary["stalls"] == 1
    assert summary["checks"] == checks


@given(calls=_calls)
def test_no_token_is_lost_or_counted_twice(calls: list[dict[str, Any]]) -> None:
    result = build_result({"calls": calls}, thread="t", seconds=0)
    for key in ("prompt_tokens", "cached_tokens", "output_tokens"):
        assert sum(usage[key] for usage in result["usage"].values()) == sum(call[key] for call in calls)  # type: ignore[literal-required]
    assert sum(usage["calls"] for usage in result["usage"].values()) == len(calls)
    assert result["turns"] == len({(c["agent"], c["turn"]) for c in calls if c["role"] == "think"})
    json.dumps(result)
