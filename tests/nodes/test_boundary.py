"""Boundary: each step of the end of a round, without a graph."""

from __future__ import annotations

from typing import Any

import pytest
from support.seekers import SEARCH, call_record, model, resources, rounds, runtime, seeker, source

from agentinfer_lg.collab.controller import CollabState, Transition
from agentinfer_lg.context import Context
from agentinfer_lg.nodes.boundary import (
    advance_controller,
    boundary,
    end_round,
    goes_on,
    hand_over,
    hold_large_budgets,
    objection,
    record_check,
)
from agentinfer_lg.resources import Resources

NO_ANSWER = {"answer": "", "sources": [], "accepted": False}
ACCEPTED = {"answer": "1871", "sources": ["heron"], "accepted": True}
FALSE = {"verdict": "FALSE", "reason": "the same again"}
SPENT = [call_record(tier="large", prompt_tokens=20_000)]
RESULTS = rounds((SEARCH, "Results:\n[1] Heron: Heron Point Light was lit in 1871."))


def _pending(tool: str) -> list[dict[str, Any]]:
    return [{"id": "c", "tool": tool, "arguments": {}}]


def _transition(event: Any, **values: Any) -> Transition:
    return Transition(CollabState(**{"phase": "work", "tier": "small", **values}), event, "because")


class _Places:
    """Two tiers, at these places."""

    def __init__(self, *places: str) -> None:
        self.one_model = len(set(places)) == 1


def _at(*places: str) -> Resources:
    shared = resources()
    shared._models = _Places(*places)  # type: ignore[assignment]  # all that a handover asks of them
    return shared


# Objections


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stall": "repeat: it", "pending": _pending("web_search")}, "repeat: it"),
        ({"pending": _pending("web_search")}, ""),
        ({"pending": _pending("read_answer")}, "the proposed answer was not accepted"),
        ({"pending": _pending("finish")}, "the proposed answer was not accepted"),
        ({"pending": _pending("read_answer"), "proposal": ACCEPTED}, ""),
    ],
)
def test_objections(values: dict[str, Any], said: str) -> None:
    assert objection(seeker(**values)) == said


# The controller


def test_the_controller_hears_verdict_objection_and_answer() -> None:
    assert advance_controller(seeker(), Context()).event == "stay"
    assert advance_controller(seeker(verdict=FALSE), Context()).event == "escalate"
    refused = advance_controller(seeker(stall="repeat: it"), Context())
    assert (refused.event, refused.cause) == ("escalate", "verifier: repeat: it")
    assert advance_controller(seeker(verdict=FALSE, proposal=ACCEPTED), Context()).event == "finish"
    failed = advance_controller(seeker(tool_error=True), Context(policy="escalate-on-tool-error"))
    assert failed.state.tier == "large"


# Budgets of the large model


def test_a_rescue_that_can_be_paid() -> None:
    assert hold_large_budgets(seeker(), Context(), _transition("escalate", tier="large")) == ("large", [])


def test_large_tokens_are_spent() -> None:
    tier, ran_out = hold_large_budgets(seeker(calls=SPENT), Context(), _transition("escalate", tier="large"))
    assert tier == "small"
    assert ran_out == ["seeker-1 used its 10000 tokens of the large model (max_large_tokens)."]


@pytest.mark.parametrize(
    ("values", "total", "policy", "said"),
    [
        ({"verdict": FALSE}, 5, "agentcollab", True),
        ({"stall": "repeat: it"}, 5, "agentcollab", True),
        ({}, 5, "agentcollab", False),
        ({"verdict": FALSE}, 4, "agentcollab", False),
        ({"verdict": FALSE}, 5, "random", False),
    ],
)
def test_large_steps_are_spent(values: dict[str, Any], total: int, policy: Any, said: bool) -> None:
    tier, ran_out = hold_large_budgets(
        seeker(**values), Context(policy=policy), _transition("stay", total_large=total)
    )
    assert tier == "small"
    assert bool(ran_out) is said
    assert all("(max_large_steps)" in sentence for sentence in ran_out)


def test_the_record_of_a_check() -> None:
    record = record_check(seeker(verdict=FALSE, stall="repeat: it", turn=3), "large")
    assert record == {
        "agent": "seeker-1",
        "turn": 3,
        "tier": "small",
        "verdict": "FALSE",
        "reason": "the same again",
        "stall": "repeat: it",
        "next_tier": "large",
    }


# The handover


async def test_a_rescue_begins_with_a_handover() -> None:
    state = seeker(messages=RESULTS, turn=2)
    update = await hand_over(state, Context(), _at("a", "b"), _transition("escalate"), "large")
    assert update["escalations"] == [{"agent": "seeker-1", "turn": 2, "cause": "because"}]
    assert "1871" in update["rescue"]["text"]
    assert update["rescue"]["turn"] == 3, "the turn that sees it"


async def test_one_model_for_both_tiers_needs_none() -> None:
    state = seeker(messages=RESULTS)
    update = await hand_over(state, Context(), _at("a", "a"), _transition("escalate"), "large")
    assert update["rescue"] is None
    assert len(update["escalations"]) == 1


@pytest.mark.parametrize(
    ("event", "tier"),
    [("escalate", "small"), ("deescalate", "small"), ("guardrail", "small"), ("stay", "large")],
)
async def test_nothing_is_handed_over(event: Any, tier: Any) -> None:
    assert await hand_over(seeker(messages=RESULTS), Context(), _at("a", "b"), _transition(event), tier) == {}


# The end of a round


def test_nothing_ran_out() -> None:
    assert end_round(seeker(), []) == {}


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ({"turn": 9}, "max_turns"),
        ({"calls": [call_record(seconds=700.0)]}, "max_seconds"),
        ({"calls": [call_record(prompt_tokens=10_000)]}, "max_small_tokens"),
    ],
)
def test_a_budget_ends_the_seeker(values: dict[str, Any], knob: str) -> None:
    update = end_round(seeker(**values), ["Large steps are spent."])
    assert update["stopped"] is True
    first, second = update["ran_out"]
    assert first == "Large steps are spent."
    assert f"({knob})" in second


def test_an_accepted_answer_needs_no_budget() -> None:
    assert end_round(seeker(turn=9, proposal=ACCEPTED), []) == {}
    assert end_round(seeker(turn=3), ["Large steps are spent."]) == {"ran_out": ["Large steps are spent."]}


def test_goes_on() -> None:
    assert goes_on(seeker())
    assert not goes_on(seeker(proposal=ACCEPTED))
    assert not goes_on(seeker(stopped=True))


# All steps


async def test_a_round_ends() -> None:
    state = seeker(source("heron", "text"), messages=RESULTS, verdict=FALSE, turn=1)
    update = await boundary(state, runtime(), resources=resources(small=model(), large=model()))
    assert (update["turn"], update["tier"], update["collab"]["tier"]) == (2, "large", "large")
    assert [check["next_tier"] for check in update["checks"]] == ["large"]
    assert len(update["escalations"]) == 1
    assert "ran_out" not in update


async def test_an_unpaid_rescue_is_none() -> None:
    state = seeker(messages=RESULTS, verdict=FALSE, calls=SPENT)
    update = await boundary(state, runtime(), resources=resources())
    assert (update["tier"], update["collab"]["tier"]) == ("small", "small")
    assert "escalations" not in update
    assert "(max_large_tokens)" in update["ran_out"][0]
