"""The seeker's graph: its loop, and runs that an earlier version saved in the middle of a round."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from support.seekers import SEARCH, Shelf, model, resources, rounds, seeker, source

from agentinfer_lg.context import Context
from agentinfer_lg.graphs.seeker import seeker_builder
from agentinfer_lg.llm.protocol import READ_ANSWER, Step
from agentinfer_lg.llm.transcript import step_message

HERON = source("heron", "Heron Point Light was lit in 1871.")
THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}
SEARCHES = '{"thought": "t", "action": "search", "query": "heron"}'
ANSWERS = '{"known": "1871", "missing": "nothing", "action": "answer"}'


async def test_think_act_and_conclude() -> None:
    shared = resources(
        Shelf(heron="Heron Point Light was lit in 1871."),
        small=model(SEARCHES, ANSWERS),
        large=model("In 1871."),
    )
    graph = seeker_builder(shared).compile()
    result: Any = await graph.ainvoke(seeker(messages=rounds()), context=Context())
    (finding,) = result["findings"]
    assert (finding["answer"], finding["complete"]) == ("In 1871.", True)
    assert [record["tool"] for record in result["tools"]] == ["web_search", "finish"]
    assert [record["role"] for record in result["calls"]] == ["think", "think", "qa"]
    assert [check["verdict"] for check in result["checks"]] == ["SKIPPED", "SKIPPED"]


@pytest.mark.parametrize("after", ["think", "progress"])
@pytest.mark.parametrize("rescue", [False, True])
async def test_a_reading_that_was_saved_as_a_finish_without_an_answer(after: str, rescue: bool) -> None:
    """Versions before `read_answer` kept it in `pending`, and in the payload of the tool, as they showed it."""
    large = model("In 1871.")
    graph = seeker_builder(resources(large=large)).compile(checkpointer=InMemorySaver())
    state = seeker(
        HERON, messages=rounds((SEARCH, "Results:\n[1] Heron: Heron Point Light was lit in 1871."))
    )
    if rescue:
        state["tier"] = "large"
        state["collab"] |= {"tier": "large", "rescue_budget": 2}
    step = step_message(Step(actions=(READ_ANSWER,)), message_id="seeker-1-1", raw=None)
    (call,) = step.tool_calls
    saved = {"id": call["id"], "tool": "finish", "arguments": {"answer": "", "sources": []}}
    await graph.aupdate_state(THREAD, {**state, "turn": 1}, as_node="__start__")
    await graph.aupdate_state(THREAD, {"messages": [step], "pending": [saved]}, as_node="think")
    if after == "progress":
        await graph.aupdate_state(
            THREAD, {"verdict": {"verdict": "SKIPPED", "reason": ""}}, as_node="progress"
        )
    result: Any = await graph.ainvoke(None, THREAD, context=Context())
    (finding,) = result["findings"]
    assert (finding["answer"], finding["complete"]) == ("In 1871.", True)
    assert len(large.asked) == 1, "it was read"
    assert [record["role"] for record in result["calls"]] == ["qa"], "and nobody was asked to think again"
    assert [record["tool"] for record in result["tools"]] == ["finish"]
