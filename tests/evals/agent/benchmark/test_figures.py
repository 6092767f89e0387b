"""Where time and tokens of a run went: known sums, and what holds for any trace."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.evals.agent.benchmark.figures import (
    Breakdown,
    Ineffective,
    Phases,
    TurnTimes,
    break_down,
    combined,
)
from agentinfer_lg.evals.agent.benchmark.profile import Profile, turn_groups
from agentinfer_lg.evals.common.metrics_page import ServerFigures

AGENT = "seeker-1"


def call(
    role: str,
    turn: int,
    *,
    prompt: int,
    cached: int = 0,
    output: int = 0,
    start: float | None = 0.0,
    seconds: float = 1.0,
    agent: str = AGENT,
    tier: str = "small",
) -> dict[str, Any]:
    record = {
        "agent": agent,
        "turn": turn,
        "role": role,
        "tier": tier,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "output_tokens": output,
        "seconds": seconds,
    }
    return record if start is None else record | {"started": start}


def tool(turn: int, *, start: float, seconds: float, agent: str = AGENT) -> dict[str, Any]:
    return {"agent": agent, "turn": turn, "tool": "web_search", "started": start, "seconds": seconds}


def round_(
    turn: int, *, accepted: bool = False, new: bool = True, agent: str = AGENT, **shown: int
) -> dict[str, Any]:
    return {"agent": agent, "turn": turn, "shown": shown, "new_evidence": new, "accepted": accepted}


def result(
    calls: Sequence[Any], tools: Sequence[Any] = (), rounds: Sequence[Any] = (), **more: Any
) -> dict[str, Any]:
    return {
        "seconds": {"total": 100.0},
        "sources": [{"key": key, "title": key.upper()} for key in ("a", "b", "c")],
        "findings": [{"agent": AGENT, "sources": ["a"]}],
        "filters": [],
        "swaps": [],
        "trace": {"calls": list(calls), "tools": list(tools), "rounds": list(rounds)},
        **more,
    }


# Known sums


def test_seconds_by_phase() -> None:
    calls = [
        call("plan", 0, prompt=10, start=0.0, seconds=2.0, agent="planner", tier="large"),
        call("think", 0, prompt=10, start=10.0, seconds=2.0),
        call("progress", 0, prompt=10, start=11.5, seconds=1.0),
        call("filter", 0, prompt=10, start=14.0, seconds=0.5),
        call("distill", 0, prompt=10, start=14.0, seconds=7.0),
        call("think", 1, prompt=10, start=16.0, seconds=1.0, tier="large"),
        call("qa", 1, prompt=10, start=18.0, seconds=2.0),
        call("write", 0, prompt=10, start=30.0, seconds=4.0, agent="writer", tier="large"),
    ]
    tools = [
        tool(0, start=12.5, seconds=1.0),
        tool(0, start=13.0, seconds=0.8),
        tool(1, start=17.0, seconds=3.5),
    ]
    found = break_down(result(calls, tools, [round_(0, a=5), round_(1, accepted=True)]))
    first, second = found.turns
    assert first == TurnTimes(
        agent=AGENT,
        turn=0,
        tier="small",
        useful=True,
        phases=Phases(
            think=2.0,
            progress=0.5,  # half of it while the Think step still went on
            observe=0.5,
            act=pytest.approx(1.3),  # two at the same time
            wait=pytest.approx(1.7),
            distill=7.0,
        ),
    )
    assert second.phases == Phases(think=1.0, observe=2.0, act=1.5)  # the tool waited for the reading
    assert second.tier == "large"
    assert found.phases.plan == 2.0
    assert found.phases.write == 4.0
    assert found.phases.distill == 7.0
    assert found.phases.foreground == pytest.approx(2.0 + 4.0 + 6.0 + 4.5)
    assert found.seconds == 100.0


def test_tokens_by_cause() -> None:
    calls = [
        call("think", 0, prompt=1000, output=100, start=0.0),
        call("progress", 0, prompt=1200, cached=1100, output=20, start=1.0),
        call("filter", 0, prompt=400, output=0, start=2.0),
        # Shown before: 300 of B for nothing. 200 of what was sent before was lost by the cache.
        call("think", 1, prompt=1600, cached=900, output=100, start=3.0),
        call("think", 2, prompt=1900, cached=1700, output=50, start=4.0),
        call("think", 3, prompt=2100, cached=1900, output=50, start=5.0),
    ]
    rounds = [
        round_(0, a=200, b=300),
        round_(1, a=150, c=50),
        round_(2, c=80),  # new, and no evidence
        round_(3, accepted=True),
    ]
    filters = [{"agent": AGENT, "turn": 0, "results": 8, "pruned": 6}]
    found = break_down(result(calls, (), rounds, filters=filters))
    assert found.ineffective == Ineffective(
        rounds=200 + 50,  # turn 2, with the 50 tokens of C that it read
        results=300 + 300 + 80,  # 6/8 of the filter; B; what turn 2 showed
        recomputed=200,
    )
    assert found.prompt_tokens == 8200
    assert found.computed_tokens == 8200 - 5600 + 320
    assert found.useful_tokens == found.computed_tokens - found.ineffective.total
    assert found.components["filter small"]["ineffective_tokens"] == 300
    assert found.components["think small"]["ineffective_tokens"] == 250 + 380 + 200
    assert found.components["progress small"]["ineffective_tokens"] == 0
    assert found.components["think small"]["calls"] == 4
    assert found.to_json()["cache_hit_rate"] == pytest.approx(5600 / 8200)


def test_evidence_is_what_the_benchmark_names() -> None:
    record = result([call("think", 0, prompt=10)], (), [round_(0, b=9)])
    assert break_down(record).ineffective.rounds == 10, "the finding rests on A"
    assert break_down(record, evidence=["B"]).ineffective.rounds == 0
    assert break_down(record, evidence=["not found"]).ineffective.rounds == 10
    stale = result([call("think", 0, prompt=10)], (), [round_(0, new=False, a=9)])
    assert break_down(stale).ineffective.rounds == 10


def test_the_last_reading_of_a_stopped_agent() -> None:
    calls = [call("think", 0, prompt=10, start=0.0), call("qa", 1, prompt=500, start=5.0)]
    found = break_down(result(calls, (), [round_(0, a=5)]))
    assert found.ineffective == Ineffective()
    assert found.turns[0].phases == Phases(think=1.0, observe=1.0, wait=4.0)
    without = result(calls, (), [round_(0, a=5)], findings=[{"agent": AGENT, "sources": []}])
    assert break_down(without, evidence=["A"]).ineffective == Ineffective(rounds=500)


def test_a_swap_makes_another_context() -> None:
    calls = [
        call("think", 0, prompt=4000, output=100, start=0.0),
        call("think", 1, prompt=2000, cached=500, start=1.0),
        call("think", 2, prompt=2000, cached=500, start=2.0, tier="large"),
    ]
    rounds = [round_(turn, a=1) for turn in range(3)]
    swaps = [{"agent": AGENT, "turn": 1}]
    assert break_down(result(calls, (), rounds, swaps=swaps)).ineffective.recomputed == 1500
    assert break_down(result(calls, (), rounds)).ineffective.recomputed == 3000


def test_traces_of_earlier_versions() -> None:
    calls = [
        call("plan", 0, prompt=100, start=None, agent="planner"),
        call("think", 0, prompt=100, start=None),
        call("think", 1, prompt=300, start=5.0),
    ]
    old = result(calls, [{"agent": AGENT, "turn": 0, "tool": "web_search", "seconds": 1.0}])
    del old["filters"], old["swaps"]
    found = break_down(old)
    assert [turn.turn for turn in found.turns] == [1]
    assert found.phases.plan == 1.0
    assert found.ineffective.rounds == 400, "no round says that it brought anything"
    assert break_down(result([])).to_json()["cache_hit_rate"] == 0.0
    assert combined([]) == Breakdown(questions=0)


# Any trace


@st.composite
def traces(draw: st.DrawFn) -> dict[str, Any]:
    """A run of some agents; starts differ, so that there is one order of the calls."""
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    calls, tools, rounds, filters, swaps, findings = [], [], [], [], [], []
    clock = iter(rng.sample(range(10_000), 400))
    for agent in (f"seeker-{number}" for number in range(draw(st.integers(1, 3)))):
        for turn in range(draw(st.integers(1, 5))):
            for role in ("think", "progress", "filter", "qa", "distill", "prewarm"):
                for _ in range(1 if role == "think" else rng.randint(0, 2)):
                    prompt = rng.randint(1, 3000)
                    calls.append(
                        call(
                            role,
                            turn,
                            prompt=prompt,
                            cached=rng.choice([0, prompt, rng.randint(0, prompt)]),
                            output=rng.randint(0, 300),
                            start=next(clock) / 10,
                            seconds=rng.choice([0.0, rng.uniform(0, 90)]),
                            agent=agent,
                            tier=rng.choice(["small", "large"]),
                        )
                    )
            tools += [
                tool(turn, start=next(clock) / 10, seconds=rng.uniform(0, 90), agent=agent)
                for _ in range(rng.randint(0, 3))
            ]
            shown = {key: rng.randint(0, 4000) for key in rng.sample("abc", rng.randint(0, 3))}
            rounds.append(
                round_(turn, accepted=rng.random() < 0.2, new=rng.random() < 0.8, agent=agent, **shown)
            )
            if rng.random() < 0.4:
                results = rng.randint(1, 9)
                pruned = rng.randint(0, results)
                filters.append({"agent": agent, "turn": turn, "results": results, "pruned": pruned})
            if rng.random() < 0.2:
                swaps.append({"agent": agent, "turn": turn})
        findings.append({"agent": agent, "sources": rng.sample("abc", rng.randint(0, 2))})
    return result(calls, tools, rounds, filters=filters, swaps=swaps, findings=findings)


@given(traces())
def test_the_phases_of_an_agent_add_up_to_its_span(trace: dict[str, Any]) -> None:
    found = break_down(trace)
    for agent in {turn.agent for turn in found.turns}:
        own = [
            each
            for each in (*trace["trace"]["calls"], *trace["trace"]["tools"])
            if each["agent"] == agent and each.get("role") not in ("distill", "prewarm")
        ]
        begin = min(each["started"] for each in own if each.get("role") == "think")
        span = max(each["started"] + each["seconds"] for each in own) - begin
        spent = sum(turn.phases.foreground for turn in found.turns if turn.agent == agent)
        assert spent == pytest.approx(span)
    assert all(getattr(turn.phases, name) >= 0 for turn in found.turns for name in Phases.__slots__)
    distilled = [c["seconds"] for c in trace["trace"]["calls"] if c["role"] in ("distill", "prewarm")]
    assert found.phases.distill == pytest.approx(sum(distilled))


@given(traces())
def test_no_token_is_ineffective_twice(trace: dict[str, Any]) -> None:
    found = break_down(trace)
    assert 0 <= found.useful_tokens <= found.computed_tokens
    assert min(found.ineffective.rounds, found.ineffective.results, found.ineffective.recomputed) >= 0
    for name, figures in found.components.items():
        computed = figures["prompt_tokens"] - figures["cached_tokens"] + figures["output_tokens"]
        assert 0 <= figures["ineffective_tokens"] <= computed, name
    assert sum(f["ineffective_tokens"] for f in found.components.values()) == found.ineffective.total
    assert sum(f["prompt_tokens"] for f in found.components.values()) == found.prompt_tokens


@given(traces(), st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(trace: dict[str, Any], rng: random.Random) -> None:
    def shuffled(records: Sequence[Any]) -> list[Any]:
        return rng.sample(list(records), len(records))

    other = {
        **trace,
        "trace": {name: shuffled(records) for name, records in trace["trace"].items()},
        "filters": shuffled(trace["filters"]),
        "swaps": shuffled(trace["swaps"]),
    }
    assert break_down(other) == break_down(trace)


@given(st.lists(traces(), min_size=1, max_size=4))
def test_combined_is_the_sum(several: list[dict[str, Any]]) -> None:
    parts = [break_down(trace) for trace in several]
    whole = combined(parts)
    assert whole.questions == len(parts)
    assert whole.seconds == 100.0 * len(parts)
    assert whole.turns == tuple(turn for part in parts for turn in part.turns)
    for figure in ("tokens", "computed_tokens", "useful_tokens", "prompt_tokens"):
        assert getattr(whole, figure) == sum(getattr(part, figure) for part in parts)
    assert whole.ineffective.total == sum(part.ineffective.total for part in parts)
    assert whole.phases.foreground == pytest.approx(sum(part.phases.foreground for part in parts))
    calls = sum(figures["calls"] for figures in whole.components.values())
    assert calls == sum(len(trace["trace"]["calls"]) for trace in several)
    assert list(whole.components) == sorted(whole.components)


# The profile


def test_late_turns_stand_together() -> None:
    turns = [
        TurnTimes(
            agent=AGENT,
            turn=turn,
            tier="small",
            useful=turn % 2 == 0,
            phases=Phases(think=float(turn), wait=1.0),
        )
        for turn in [0, 0, 1, *range(11, 16)]
    ]
    groups = turn_groups(turns)
    assert [(group.name, group.turns, group.useful) for group in groups] == [
        ("1", 2, 2),
        ("2", 1, 0),
        ("12", 1, 0),
        ("13+", 4, 2),
    ]
    assert groups[-1].seconds == Phases(think=13.5, wait=1.0)
    servers = {"small": ServerFigures(generated_tokens=30, accepted_tokens=10, drafted_tokens=40)}
    found = Profile(breakdown=Breakdown(turns=tuple(turns)), servers=servers).to_json()
    assert (found["turns"], found["useful_turns"]) == (8, 4)
    assert (found["servers"]["small"]["ote"], found["servers"]["small"]["shr"]) == (1.5, 0.25)
