"""The course of one step, without models and without an event loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra `middleware`")

from langchain.agents.middleware.types import ExtendedModelResponse, ModelResponse
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.errors import GraphBubbleUp

from agentinfer_lg.collab.controller import CollabSettings, start
from agentinfer_lg.middleware.escalation_step import Call, EscalationStep, Judgement

FALSE = "===PROGRESS===\n<reason>it repeats</reason> <value>FALSE</value>\n===END_PROGRESS==="
ANSWER = ModelResponse(result=[AIMessage("Ada Winter.")])


def step(*, role: Any = "think", verifier: bool = False, **knobs: Any) -> tuple[EscalationStep, list[Any]]:
    """A step after one look-up, and the events that it emits."""
    settings = CollabSettings(**{"warmup_steps": 0, **knobs})
    call = {"name": "look_up", "args": {"topic": "t1"}, "id": "1", "type": "tool_call"}
    messages = [
        HumanMessage("Who lit it?"),
        AIMessage("I look it up.", tool_calls=[call]),
        ToolMessage("The keeper Ada Winter lit it in 1871.", tool_call_id="1"),
    ]
    memory = {"collab": start(settings).to_json(), "verifier": {}, "made": 1}
    events: list[Any] = []
    request: Any = SimpleNamespace(
        state={"messages": messages, "agentinfer_escalation": memory, "agentinfer_session": "s"},
        runtime=SimpleNamespace(stream_writer=events.append),
    )
    judgement = Judgement(collab=settings, verifier=verifier, repeat_limit=2, stall_limit=2)
    return EscalationStep(request, judgement, role=role), events


def says(text: str) -> ModelResponse[Any]:
    return ModelResponse(result=[AIMessage(text)])


def memory_of(made: EscalationStep) -> dict[str, Any]:
    assert isinstance(made.outcome, ExtendedModelResponse)
    update: dict[str, Any] = made.outcome.command.update["agentinfer_escalation"]  # type: ignore[index,union-attr]
    return update


def test_a_failed_check_gives_the_step_to_the_large_model() -> None:
    made, events = step()
    assert made.call == Call("small", "progress")
    made.answered(says(FALSE))
    assert made.call == Call("large", "think")
    made.answered(ANSWER)
    assert made.call is None
    assert memory_of(made)["collab"]["tier"] == "large"
    assert [event["event"] for event in events] == ["progress", "escalation"]


def test_a_check_that_fails_is_unreadable_and_the_step_goes_on() -> None:
    made, events = step()
    made.failed(TimeoutError())
    assert made.call == Call("small", "think")
    assert events[0]["verdict"] == "UNREADABLE"
    assert events[0]["text"] == "the check failed: TimeoutError"


def test_the_small_model_makes_the_step_that_the_large_one_cannot() -> None:
    made, events = step(policy="always-large")
    assert made.call == Call("large", "think")
    made.failed(ConnectionError())
    assert made.call == Call("small", "think")
    assert events[-1]["event"] == "warning"
    made.answered(ANSWER)
    assert memory_of(made)["collab"]["tier"] == "large"


@pytest.mark.parametrize("policy", ["always-small", "always-large"])
def test_the_last_failure_is_the_agents(policy: Any) -> None:
    made, _ = step(policy=policy)
    if policy == "always-large":
        made.failed(ConnectionError("large"))
    with pytest.raises(ConnectionError, match="small"):
        made.failed(ConnectionError("small"))


@pytest.mark.parametrize("policy", ["agentcollab", "always-large"])
def test_an_interrupt_of_the_graph_is_no_failure(policy: Any) -> None:
    made, events = step(policy=policy)
    with pytest.raises(GraphBubbleUp):
        made.failed(GraphBubbleUp())
    assert not [event for event in events if event["event"] == "warning"]


@pytest.mark.parametrize("role", ["prewarm", "progress"])
def test_a_call_that_is_no_step_is_passed_on_unjudged(role: Any) -> None:
    made, events = step(role=role)
    assert made.call == Call("small", role)
    made.answered(ANSWER)
    assert made.call is None
    assert made.outcome is ANSWER
    assert not events
    made, _ = step(role=role)
    with pytest.raises(ConnectionError):
        made.failed(ConnectionError())
