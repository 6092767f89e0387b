"""What controller and verifier are given of a seeker."""

from __future__ import annotations

from typing import Any

import pytest
from support.seekers import SEARCH, rounds, seeker, source

from agentinfer_lg.context import Context
from agentinfer_lg.nodes.seeker.collab import controller_settings, no_progress_already, verify_round
from agentinfer_lg.state import Observation, SeekerState

HERON = source("heron", "Heron Point Light was lit in 1871 by Ada Winter.")


def _call(tool: str, **arguments: Any) -> Any:
    return {"id": "c", "tool": tool, "arguments": arguments}


def _state(*pending: Any, **more: Any) -> SeekerState:
    return seeker(messages=rounds((SEARCH, "")), pending=list(pending), **more)


def _found(*sources: Any, ok: bool = True) -> Observation:
    return Observation(call=_call("web_search"), text="", sources=list(sources), ok=ok, seconds=0.0)


def test_the_controller_gets_the_seekers_share() -> None:
    settings = controller_settings(seeker(), Context(max_large_steps=20, seeker_warmup_steps=2, cooldown=3))
    assert (settings.max_large_steps, settings.warmup_steps, settings.cooldown) == (5, 2, 3)
    assert settings.agent == "seeker-1"


def test_a_round_with_news() -> None:
    state = _state(_call("web_search", queries=["heron"]))
    after, objection = verify_round(state, Context(), [_found(HERON)])
    assert (after.stalled_rounds, objection) == (0, "")
    assert after.actions == {"web_search(queries=heron)": 1}


def test_rounds_without_news() -> None:
    state = _state(_call("web_search", queries=["heron"]))
    after, objection = verify_round(state, Context(stall_limit=1), [_found(ok=False)])
    assert after.stalled_rounds == 1
    assert objection == "no new evidence for 1 round, 1 failed tool calls in the last"


@pytest.mark.parametrize("tool", ["finish", "read_answer"])
def test_answers_are_no_actions_that_repeat(tool: str) -> None:
    after, _ = verify_round(_state(_call(tool, sources=[])), Context(), [_found(HERON)])
    assert after.actions == {}


def test_what_is_seen_before_the_tools_have_run() -> None:
    state = _state(_call("web_search", queries=["heron"]))
    before, _ = verify_round(state, Context(), [_found(HERON)])
    again = _state(_call("web_search", queries=["Heron!"]), verifier={**before.to_json(), "thoughts": []})
    assert no_progress_already(again, Context(repeat_limit=1))
    assert not no_progress_already(again, Context(repeat_limit=2))
    assert not no_progress_already(again, Context(repeat_limit=1, verifier=False))
    assert not no_progress_already(state, Context(stall_limit=1)), "what comes back is not known yet"
