"""Drive a served graph over the LangGraph SDK, as Studio and other front ends do.

Start the server in one terminal (it needs no key):

    export AGENTINFER_SMALL__BASE_URL=http://127.0.0.1:8000/v1
    export AGENTINFER_DOCS=examples/corpus
    langgraph dev --no-browser

and this in another:

    python examples/drive_studio.py "Which lighthouse of the Orrin Isles was moved?"

It asks for the plan to be approved, follows the agents, and then forks the run: the same question from the same plan,
but with one sub-question replaced (time travel).
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

GRAPH = "deep_research"


async def follow(client: LangGraphClient, thread: str, **run: Any) -> None:
    """Stream one run and print its progress events."""
    async for part in client.runs.stream(
        thread, GRAPH, stream_mode=["custom", "updates"], stream_subgraphs=True, **run
    ):
        if part.event == "error":
            raise SystemExit(f"{part.data['error']}: {part.data['message']}")
        if part.event.split("|")[0] == "custom":
            event = part.data
            text = " ".join(str(event.get("text") or event.get("plan") or "").split())
            print(
                f"{event['agent']:>10}  {event['event']:<11} {event.get('tool', ''):<10} {text[:80]}".rstrip()
            )


async def research(client: LangGraphClient, question: str) -> str:
    """Ask, approve the plan, and print the report; returns the thread."""
    thread = str((await client.threads.create())["thread_id"])
    knobs = {"plan_approval": True, "max_seekers": 2}
    await follow(client, thread, input={"question": question}, context=knobs)
    for interrupts in (await client.threads.get(thread))["interrupts"].values():
        for asked in interrupts:
            print("The plan:", *(f"  - {task['question']}" for task in asked["value"]["plan"]), sep="\n")
    await follow(client, thread, command={"resume": {"approve": True}}, context=knobs)
    print("\n" + await report(client, thread))
    return thread


async def fork(client: LangGraphClient, thread: str, question: str) -> None:
    """Go back to where the plan had just been made, replace it, and run from there."""
    history = await client.threads.get_history(thread, limit=100)
    planned = next(item for item in history if item["next"] == ["approve"])
    plan = [{"id": "seeker-1", "question": question}]
    branch = await client.threads.update_state(
        thread, {"plan": plan}, checkpoint=planned["checkpoint"], as_node="plan"
    )
    await follow(client, thread, checkpoint=branch["checkpoint"])
    print("\n" + await report(client, thread))


async def report(client: LangGraphClient, thread: str) -> str:
    """Return the report that the thread has now."""
    return str((await client.threads.get_state(thread))["values"]["report"])


async def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Drive a served deep-research graph.")
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:2024", help="where `langgraph dev` listens")
    parser.add_argument(
        "--fork", metavar="QUESTION", help="run once more from the plan, with this sub-question instead"
    )
    arguments = parser.parse_args()
    async with get_client(url=arguments.url) as client:
        thread = await research(client, arguments.question)
        if arguments.fork:
            await fork(client, thread, arguments.fork)


if __name__ == "__main__":
    asyncio.run(main())
