"""The answer of a round, and whether it is accepted."""

from __future__ import annotations

from typing import Any

import pytest
from support.seekers import SEARCH, rounds, seeker, source

from agentinfer_lg.llm.protocol import READ_ANSWER, Action
from agentinfer_lg.nodes.seeker.proposal import FollowedUp, cited_sources, propose, proposed
from agentinfer_lg.nodes.seeker.read_answer import Reading
from agentinfer_lg.prompts import PROMPTS

HERON = source("heron", "Heron Point Light was lit in 1871.")
GULL = source("gull", "Gull Rock Light was lit in 1902.")
CALL: Any = {"id": "c", "tool": "finish", "arguments": {"answer": "", "sources": []}}
FINISH = Action(tool="finish", arguments={"answer": "x", "sources": []})


def test_an_answer_with_a_source_is_accepted() -> None:
    observation = propose(CALL, Reading("1871", ("heron",)), seeker(HERON))
    assert (observation["ok"], observation["text"]) == (True, "1871")
    assert proposed([observation]) == {"answer": "1871", "sources": ["heron"], "accepted": True}
    assert CALL["arguments"]["answer"] == "", "the call is not changed"


@pytest.mark.parametrize(
    ("reading", "reason"),
    [(Reading("unknown", ("heron",)), "not_found_in_passages"), (Reading("1950", ()), "not_supported")],
)
def test_an_answer_is_refused(reading: Reading, reason: str) -> None:
    observation = propose(CALL, reading, seeker(HERON))
    assert not observation["ok"]
    assert observation["text"] == PROMPTS["en"].not_accepted.format(reason=getattr(PROMPTS["en"], reason))
    assert proposed([observation])["accepted"] is False


@pytest.mark.parametrize(("before", "accepted"), [([FINISH], False), ([FINISH, READ_ANSWER], True)])
def test_patience_ends(before: list[Action], accepted: bool) -> None:
    steps = [(action, "no") for action in before]
    state = seeker(HERON, messages=rounds((SEARCH, "Results:"), *steps, (FINISH, "")))
    assert propose(CALL, Reading("unknown", ()), state)["ok"] is accepted


def test_what_was_looked_up_is_told_if_the_answer_is_refused() -> None:
    followed_up = FollowedUp(["Ada Winter"], [GULL, HERON])
    accepted = propose(CALL, Reading("1871", ("heron",)), seeker(), followed_up)
    assert accepted["text"] == "1871"
    assert [each["key"] for each in accepted["sources"]] == ["heron", "gull"], "what it rests on first"
    assert accepted["call"]["arguments"]["leads"] == ["Ada Winter"]
    assert "(Looked up for it: Ada Winter)" in propose(CALL, Reading("x", ()), seeker(), followed_up)["text"]


def test_sources_that_a_model_named() -> None:
    state = seeker(HERON, GULL)
    assert cited_sources("Lit in 1871.", [2, 7, "1"], state) == ("gull",)
    assert cited_sources("Lit in 1871.", [7], state) == ("heron",), "else those that support the answer"
    assert cited_sources("1950", [], state) == ()


def test_no_proposal() -> None:
    search: Any = {"id": "c", "tool": "web_search", "arguments": {"queries": ["x"]}}
    found: Any = {"call": search, "text": "", "sources": [], "ok": True, "seconds": 0.0}
    assert proposed([found]) == {"answer": "", "sources": [], "accepted": False}
