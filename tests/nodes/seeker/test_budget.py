"""Budgets: parts never exceed the whole, and what ran out is said in a sentence."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.context import Context
from agentinfer_lg.nodes.seeker.budget import exhausted, seconds_spent, share, tokens_spent
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.state import Budget, CallRecord, ToolRecord


def _call(
    tier: str = "small", prompt: int = 0, output: int = 0, seconds: float = 0.0, role: str = "think"
) -> CallRecord:
    record: Any = {
        "agent": "seeker-1",
        "turn": 0,
        "role": role,
        "tier": tier,
        "model": "m",
        "prompt_tokens": prompt,
        "cached_tokens": prompt,
        "output_tokens": output,
        "seconds": seconds,
        "reprefill_tokens": 0,
    }
    return record  # type: ignore[no-any-return]


def _tool(turn: int, seconds: float) -> ToolRecord:
    return ToolRecord(agent="seeker-1", turn=turn, tool="crawl", seconds=seconds, ok=True, results=1)


_counts = st.integers(0, 10_000)
_calls = st.lists(
    st.builds(_call, st.sampled_from(["small", "large"]), _counts, _counts, st.floats(0, 100)), max_size=5
)


@given(
    calls=_calls,
    seekers=st.integers(1, 8),
    planner_steps=st.integers(0, 3),
    small=st.integers(0, 100_000),
    large=st.integers(0, 100_000),
    steps=st.integers(0, 50),
    seconds=st.floats(0.1, 1000),
)
def test_shares_never_exceed_what_is_left(
    calls: list[CallRecord],
    seekers: int,
    planner_steps: int,
    small: int,
    large: int,
    steps: int,
    seconds: float,
) -> None:
    context = Context(
        max_small_tokens=small, max_large_tokens=large, max_large_steps=steps, max_seconds=seconds
    )
    part = share(context, calls, planner_steps=planner_steps, seekers=seekers)
    assert all(value >= 0 for value in part.values())  # type: ignore[operator]
    assert part["small_tokens"] * seekers + tokens_spent(calls, "small") <= max(
        small, tokens_spent(calls, "small")
    )
    assert part["large_tokens"] * seekers + tokens_spent(calls, "large") <= max(
        large, tokens_spent(calls, "large")
    )
    assert part["large_steps"] * seekers + planner_steps <= max(steps, planner_steps)
    assert part["seconds"] <= seconds
    assert part["turns"] == context.max_turns


def test_little_is_lost_by_splitting() -> None:
    part = share(Context(max_small_tokens=1000, max_large_steps=24), [], planner_steps=1, seekers=3)
    assert part["small_tokens"] == 333
    assert part["large_steps"] == 7
    assert part["seconds"] == 3600.0, "time passes for all at once"


def test_tokens_are_counted_per_tier() -> None:
    calls = [_call("small", 10, 1), _call("large", 100, 5), _call("small", 20, 2)]
    assert tokens_spent(calls, "small") == 33
    assert tokens_spent(calls, "large") == 105
    assert tokens_spent([], "small") == 0


def test_seconds_of_parallel_tools_count_once_per_round() -> None:
    calls = [_call(seconds=1.0), _call(seconds=2.0, role="progress"), _call(seconds=9.0, role="qa")]
    tools = [_tool(0, 3.0), _tool(0, 5.0), _tool(1, 1.0)]
    # A reading call runs inside a tool: its seconds are in the tool's already.
    assert seconds_spent(calls, tools) == pytest.approx(1.0 + 2.0 + 5.0 + 1.0)


def _exhausted(
    language: Any = "en", *, turn: int = 1, calls: Any = (), tools: Any = (), **limits: Any
) -> str:
    budget: Any = {
        "turns": 5,
        "small_tokens": 100,
        "large_tokens": 100,
        "large_steps": 2,
        "seconds": 10.0,
        **limits,
    }
    assert set(budget) == set(Budget.__annotations__)
    return exhausted(budget, turn=turn, calls=calls, tools=tools, agent="seeker-2", prompts=PROMPTS[language])


def test_nothing_ran_out() -> None:
    assert _exhausted(turn=4, calls=[_call("small", 90, 9, seconds=9.0)]) == ""


def test_an_empty_large_tier_does_not_end_a_seeker() -> None:
    assert _exhausted(calls=[_call("large", 10_000)], large_steps=0) == ""


@pytest.mark.parametrize(
    ("state", "english", "chinese"),
    [
        ({"turn": 5}, "seeker-2 used its 5 turns (max_turns).", "seeker-2用完了5个回合（max_turns）。"),
        (
            {"calls": [_call(seconds=4.0)], "tools": [_tool(0, 6.0)]},
            "seeker-2 used its 10 seconds (max_seconds).",
            "seeker-2用完了10秒（max_seconds）。",
        ),
        (
            {"calls": [_call("small", 60, 40)]},
            "seeker-2 used its 100 tokens of the small model (max_small_tokens).",
            "seeker-2用完了小模型的100个词元（max_small_tokens）。",
        ),
    ],
)
def test_what_ran_out_is_said(state: dict[str, Any], english: str, chinese: str) -> None:
    assert _exhausted("en", **state) == english
    assert _exhausted("zh", **state) == chinese
