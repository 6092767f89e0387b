"""What follows a refusal, without a server: remedies, retries, and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agentinfer_lg.llm import negotiation
from agentinfer_lg.llm.capabilities import Capabilities, Known
from agentinfer_lg.llm.failure import ServerFailureError, describe_failure
from agentinfer_lg.llm.negotiation import negotiate
from agentinfer_lg.llm.request import Guide, ModelRequest, write_body

MESSAGES: list[BaseMessage] = [SystemMessage("be brief"), HumanMessage("hi")]
GUIDED = ModelRequest(
    messages=MESSAGES, max_tokens=50, temperature=0.0, guide=Guide(schema={"type": "object"})
)
PLAIN = replace(GUIDED, guide=None)

Answer = Callable[[dict[str, Any]], tuple[int, str] | None]
"""What a server says to a body: status and sentence, or None where it takes it."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiation, "_FIRST_PAUSE", 0.0)


async def _ask(server: Answer, known: Known, request: ModelRequest = PLAIN, *, retries: int = 2) -> AIMessage:
    async def send(capabilities: Capabilities) -> AIMessage:
        body = write_body(request, capabilities, model="m")
        said = server(body)
        await asyncio.sleep(0)  # others send before this one hears
        if said is not None:
            raise ServerFailureError(describe_failure(*said), body=body)
        return AIMessage("ok", response_metadata={"finish_reason": "stop"})

    return await negotiate(send, known, retries=retries, start_seconds=1.0)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
async def test_a_server_that_stumbles_once_teaches_nothing(status: int) -> None:
    sayings = iter([(status, "Internal system error, please contact support: the message was lost"), None])
    known = Known()
    assert (await _ask(lambda body: next(sayings), known, GUIDED)).text == "ok"
    assert known.capabilities == Capabilities()
    assert not known.lessons


async def test_a_server_that_breaks_at_each_guided_request_is_asked_without() -> None:
    known = Known()
    await _ask(lambda body: (500, "oops") if "response_format" in body else None, known, GUIDED)
    assert known.capabilities.guide == "none"


@pytest.mark.parametrize("at_once", [2, 3, 8])
async def test_calls_that_are_refused_together_learn_one_thing(at_once: int) -> None:
    known = Known()
    said = (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    await asyncio.gather(
        *(_ask(lambda body: said if "max_tokens" in body else None, known) for _ in range(at_once))
    )
    assert known.capabilities == Capabilities(
        limit_name="max_completion_tokens", refused=frozenset({"max_tokens"})
    )


async def test_a_refusal_that_comes_after_another_call_has_learned_costs_no_lesson() -> None:
    known, gate = Known(), asyncio.Event()
    waiting = iter([True])

    async def send(capabilities: Capabilities) -> AIMessage:
        body = write_body(PLAIN, capabilities, model="m")
        if next(waiting, False):
            await gate.wait()
        if "max_tokens" in body:
            said = describe_failure(400, "Unsupported parameter: 'max_tokens'")
            raise ServerFailureError(said, body=body)
        return AIMessage("ok", response_metadata={"finish_reason": "stop"})

    slow = asyncio.create_task(negotiate(send, known, retries=0, start_seconds=1.0))
    await asyncio.sleep(0)
    await negotiate(send, known, retries=0, start_seconds=1.0)
    learned = known.capabilities
    gate.set()
    assert (await slow).text == "ok"
    assert known.capabilities == learned


@pytest.mark.parametrize("at_once", [2, 3, 8])
async def test_a_way_to_ask_for_quiet_that_is_refused_together_closes_one_way_only(at_once: int) -> None:
    known = Known(capabilities=Capabilities(thought_tokens=100, thought_place="field"))
    quiet = replace(PLAIN, quiet=True)
    said = (400, "Unknown parameter: chat_template_kwargs")
    await asyncio.gather(
        *(
            _ask(lambda body: said if "chat_template_kwargs" in body else None, known, quiet)
            for _ in range(at_once)
        )
    )
    assert known.capabilities.quiet == "effort"


async def test_a_result_of_a_tool_is_told_apart_from_what_others_learn() -> None:
    """Each call that is refused for its own messages finds its own remedy, however many there are."""
    known = Known()
    step = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "call-0", "type": "tool_call"}])
    with_tool = replace(PLAIN, messages=[*MESSAGES, step, ToolMessage("r", tool_call_id="call-0")])

    def server(body: dict[str, Any]) -> tuple[int, str] | None:
        if any(message["role"] == "tool" for message in body["messages"]):
            return 400, "unknown role: tool"
        return (400, "temperature is not supported") if "temperature" in body else None

    await asyncio.gather(_ask(server, known, with_tool), _ask(server, known), _ask(server, known, with_tool))
    assert known.capabilities.tool_results == "text"
    assert known.capabilities.refused == {"temperature"}
