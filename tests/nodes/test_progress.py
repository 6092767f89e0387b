"""The Progress Check: who is asked, on which prefix, and when nobody is."""

from __future__ import annotations

from typing import Any

import pytest
from support.seekers import SEARCH, call_record, model, resources, rounds, runtime, seeker

from agentinfer_lg.collab.progress_check import PROGRESS_PROMPT
from agentinfer_lg.context import Context
from agentinfer_lg.nodes.progress import decides, progress
from agentinfer_lg.state import SeekerState

BLOCK = "===PROGRESS===\n<reason>a new name came</reason> <value>{}</value>\n===END_PROGRESS==="


def _state(tool: str = "web_search", **values: Any) -> SeekerState:
    pending = [{"id": "c", "tool": tool, "arguments": {"queries": ["heron"]}}]
    more = {"turn": 1, "calls": [call_record()], "pending": pending, "messages": rounds((SEARCH, ""))}
    return seeker(**{**more, **values})


@pytest.mark.parametrize("value", ["TRUE", "FALSE"])
async def test_the_model_of_the_step_judges_it(value: str) -> None:
    small, large = model(BLOCK.format(value)), model(BLOCK.format(value))
    for tier, asked in (("small", small), ("large", large)):
        state = _state(calls=[call_record(tier=tier)])
        update = await progress(state, runtime(), resources=resources(small=small, large=large))
        assert update["verdict"] == {"verdict": value, "reason": "a new name came"}
        assert [(record["role"], record["tier"]) for record in update["calls"]] == [("progress", tier)]
        (prompt,) = asked.asked
        assert "Thought number 0" in prompt
        assert prompt.endswith(PROGRESS_PROMPT["en"])


async def test_a_failed_call_is_an_unreadable_verdict() -> None:
    shared = resources(large=model(BLOCK.format("TRUE")))
    update = await progress(_state(), runtime(), resources=shared)
    assert update["verdict"]["verdict"] == "UNREADABLE", "the other model does not step in"
    assert "calls" not in update


async def test_skipped() -> None:
    update = await progress(_state("read_answer"), runtime(), resources=resources())
    assert update == {"verdict": {"verdict": "SKIPPED", "reason": ""}}


@pytest.mark.parametrize(
    ("values", "knobs", "asked"),
    [
        ({}, {}, True),
        ({"tool": "finish"}, {}, False),
        ({"tool": "read_answer"}, {}, False),
        ({}, {"policy": "always-small"}, False),
        ({"budget": {"large_steps": 0}}, {}, False),
        ({"turn": 0}, {}, False),
        ({"turn": 0}, {"progress_checks": "all"}, True),
        ({"collab": {"phase": "warmup", "tier": "large"}}, {"progress_checks": "all"}, False),
        ({"collab": {"cooldown_left": 1}}, {}, False),
        ({"collab": {"cooldown_left": 1}}, {"progress_checks": "all"}, True),
    ],
)
def test_when_a_verdict_decides(values: dict[str, Any], knobs: dict[str, Any], asked: bool) -> None:
    state = _state(**{key: value for key, value in values.items() if key not in ("collab", "budget")})
    state["collab"] |= values.get("collab", {})
    state["budget"] |= values.get("budget", {})  # type: ignore[typeddict-item]
    assert decides(state, Context(**knobs)) is asked


def test_not_where_the_verifier_objects_anyway() -> None:
    verifier = {"actions": {"web_search(queries=heron)": 2}, "stalled_rounds": 0, "seen": [], "thoughts": []}
    state = _state(verifier=verifier)
    assert not decides(state, Context(repeat_limit=2))
    assert decides(state, Context(repeat_limit=3))
    assert decides(state, Context(repeat_limit=2, verifier=False))
