"""The measurement: the same calls through each client, in turn."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agentinfer_lg.evals.agent.client_time.server import MODEL, instant_server
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.chat import ChatTier
from agentinfer_lg.llm.protocol import tool_definitions
from agentinfer_lg.llm.shorten import prompt_tokens
from agentinfer_lg.settings import EndpointSettings

Ask = Callable[[Sequence[BaseMessage]], Awaitable[object]]

_RESULT = "The harbour of Velm has two piers, and its lamp was lit in 1931 by the keeper of that year. " * 14
"""About the tokens of one round's results."""
_BLOCKS = 5
"""Parts in which each client is measured in turn, so that a noisy moment falls on all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTime:
    """Time of one client with one length of context."""

    client: str
    turns: int
    tokens: int
    """Of the prompt, estimated."""
    cpu_ms: float
    """Processor time per call: the median of the blocks."""
    wall_ms: float


def session(turns: int) -> list[BaseMessage]:
    """Return the prompt of a seeker after so many turns."""
    messages: list[BaseMessage] = [
        SystemMessage("You research a question step by step. " * 20),
        HumanMessage("Question: how?"),
    ]
    for turn in range(turns):
        call = {
            "name": "web_search",
            "args": {"queries": [f"part {turn}"]},
            "id": f"s-{turn}-0",
            "type": "tool_call",
        }
        messages += [
            AIMessage("I search for the next part.", tool_calls=[call]),
            ToolMessage(f"Results:\n[{turn + 1}] {_RESULT}", tool_call_id=f"s-{turn}-0"),
        ]
    return messages


def _own(url: str) -> Ask:
    tier = ChatTier("small", EndpointSettings(base_url=url, model=MODEL))

    async def ask(messages: Sequence[BaseMessage]) -> object:
        return await tier.call(
            messages,
            hints=SessionHints(session_id="a"),
            max_tokens=400,
            tools=tool_definitions(recall=True),
        )

    return ask


def _langchain(url: str, *, keep: bool) -> Ask:
    from langchain_openai import ChatOpenAI

    options: dict[str, Any] = (
        {} if keep else {"default_headers": {"Connection": "close"}}
    )  # Any: of ChatOpenAI
    model = ChatOpenAI(model=MODEL, base_url=url, api_key=lambda: "none", **options)
    tools = [dict(tool) for tool in tool_definitions(recall=True)]

    async def ask(messages: Sequence[BaseMessage]) -> object:
        return await model.ainvoke(
            list(messages), tools=tools, tool_choice="auto", temperature=0.0, extra_body={"max_tokens": 400}
        )

    return ask


CLIENTS: dict[str, Callable[[str], Ask]] = {
    "langchain-openai, a connection per call": lambda url: _langchain(url, keep=False),
    "langchain-openai": lambda url: _langchain(url, keep=True),
    "agentinfer": _own,
}
"""The first is what the agent used before it had a client of its own."""


def measure(turns: Sequence[int], *, calls: int) -> list[ClientTime]:
    """Measure each client with each length of context.

    Args:
        turns: Turns that the context has.
        calls: Calls of each client and context.
    """
    with instant_server() as url:
        return asyncio.run(_measure(url, turns, calls))


async def _measure(url: str, turns: Sequence[int], calls: int) -> list[ClientTime]:
    asks = {name: make(url) for name, make in CLIENTS.items()}
    rows = []
    for number in turns:
        messages = session(number)
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in asks}
        for ask in asks.values():
            await ask(messages)  # imports, certificates, the first connection
        for _ in range(_BLOCKS):
            for name, ask in asks.items():
                spent[name].append(await _block(ask, messages, max(1, calls // _BLOCKS)))
        rows += [
            ClientTime(
                client=name,
                turns=number,
                tokens=prompt_tokens(messages),
                cpu_ms=statistics.median(cpu for cpu, _ in blocks),
                wall_ms=statistics.median(wall for _, wall in blocks),
            )
            for name, blocks in spent.items()
        ]
    return rows


async def _block(ask: Ask, messages: Sequence[BaseMessage], calls: int) -> tuple[float, float]:
    """Return processor time and wall time per call, in milliseconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        await ask(messages)
    return 1000 * (time.process_time() - cpu) / calls, 1000 * (time.perf_counter() - wall) / calls
