"""Embed the research graph in your own LangGraph application.

A help desk takes in a ticket, lets the research graph look into it, asks a person about the plan, and writes a reply.
The desk has its own state and its own checkpointer; the research graph is one node of it. Run it with an endpoint and
a folder of documents:

    export AGENTINFER_SMALL__BASE_URL=http://127.0.0.1:8000/v1
    export AGENTINFER_DOCS=examples/corpus
    python examples/embed_subgraph.py "Which lighthouse of the Orrin Isles was moved?"
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from agentinfer_lg import AgentInferError, Context, create_deep_research_graph


class Ticket(TypedDict, total=False):
    """State of the help desk. It shares `question` and `report` with the research graph, and nothing else."""

    number: int
    question: str
    report: str
    reply: str


def take_in(state: Ticket) -> Ticket:
    """Give the ticket a number."""
    return {"number": state.get("number", 0) + 1}


def answer(state: Ticket) -> Ticket:
    """Write the reply."""
    return {"reply": f"Ticket {state['number']}: {state['question']}\n\n{state['report']}"}


def build() -> Any:  # Any: a compiled graph
    """Build the help desk."""
    builder = StateGraph(Ticket)
    builder.add_node("take_in", take_in)
    builder.add_node("research", create_deep_research_graph())  # no checkpointer: it uses that of the desk
    builder.add_node("answer", answer)
    builder.add_edge(START, "take_in")
    builder.add_edge("take_in", "research")
    builder.add_edge("research", "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=InMemorySaver())


def show(event: dict[str, Any]) -> None:
    """Print one progress event of the research graph."""
    details = event.get("tool") or event.get("role") or ""
    text = " ".join(str(event.get("text") or event.get("plan") or "").split())
    print(f"{event['agent']:>10}  {event['event']:<11} {details:<10} {text[:80]}".rstrip())


async def stream(desk: Any, step: Any, config: RunnableConfig) -> None:
    """Run until the end or an interrupt, and print what happens inside."""
    context = Context(plan_approval=True, max_seekers=2)
    # `subgraphs=True`: without it, events stay inside the node that is a graph itself.
    async for _, event in desk.astream(step, config, context=context, stream_mode="custom", subgraphs=True):
        show(event)


async def main(question: str) -> None:
    """Research one ticket."""
    desk = build()
    config: RunnableConfig = {"configurable": {"thread_id": "ticket-1"}}
    await stream(desk, {"question": question}, config)
    waiting = await desk.aget_state(config)
    for asked in waiting.interrupts:
        print("The plan:", *(f"  - {task['question']}" for task in asked.value["plan"]), sep="\n")
        await stream(desk, Command(resume={"approve": True}), config)
    final = await desk.aget_state(config)
    print(f"\n{final.values['reply']}")


if __name__ == "__main__":
    try:
        asyncio.run(main(" ".join(sys.argv[1:]) or "Which lighthouse of the Orrin Isles was moved?"))
    except AgentInferError as error:
        sys.exit(str(error))
