"""The graph inside a stranger's LangGraph application, with that application's own state and checkpointer."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command
from support.fake_openai import FakeOpenAI
from typing_extensions import TypedDict

from agentinfer_lg import Context, EndpointSettings, Settings, UserInputError, create_deep_research_graph
from agentinfer_lg.state import ResearchState

ROOT = Path(__file__).parents[2]
QUESTION = "When was Heron Point Light lit?"


class Ticket(TypedDict, total=False):
    """State of a help desk, which knows nothing about research but two keys."""

    ticket: int
    question: str
    report: str
    reply: str


@pytest.fixture
def endpoint() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def settings(endpoint: FakeOpenAI, tmp_path: Path) -> Settings:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "heron.txt").write_text(
        "Heron Point\n\nHeron Point Light was lit in 1871 by the keeper Ada Winter.\n"
    )
    small = EndpointSettings(base_url=endpoint.url, model="fake-small")
    large = EndpointSettings(base_url=endpoint.url, model="fake-large")
    return Settings(small=small, large=large, docs=docs, home=tmp_path / "home", _env_file=None)


@pytest.fixture(params=["memory", "sqlite"])
async def checkpointer(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    async with open_saver(request.param, tmp_path) as saver:
        yield saver


@asynccontextmanager
async def open_saver(kind: str, folder: Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    if kind == "memory":
        yield InMemorySaver()
        return
    async with AsyncSqliteSaver.from_conn_string(str(folder / "desk.sqlite")) as saver:
        yield saver


def desk(settings: Settings, checkpointer: BaseCheckpointSaver[Any] | None, **options: Any) -> Any:
    """The stranger's application: take in a ticket, research it, write the reply."""
    builder = StateGraph(Ticket, **options)
    builder.add_node("take_in", lambda state: {"ticket": state["ticket"] + 1})
    builder.add_node("research", create_deep_research_graph(settings=settings))
    builder.add_node("send", lambda state: {"reply": f"#{state['ticket']}: {state['report']}"})
    builder.add_edge(START, "take_in")
    builder.add_edge("take_in", "research")
    builder.add_edge("research", "send")
    builder.add_edge("send", END)
    return builder.compile(checkpointer=checkpointer)


CONFIG: RunnableConfig = {"configurable": {"thread_id": "t-1"}}


async def test_as_a_node_of_another_state(settings: Settings, checkpointer: BaseCheckpointSaver[Any]) -> None:
    app = desk(settings, checkpointer)
    result = await app.ainvoke({"ticket": 6, "question": QUESTION}, CONFIG)
    assert set(result) == {"ticket", "question", "report", "reply"}, "no key of the research leaks"
    assert result["ticket"] == 7
    assert "1871" in result["reply"]
    assert result["question"] == QUESTION


async def test_it_uses_the_checkpointer_of_the_application(
    settings: Settings, checkpointer: BaseCheckpointSaver[Any]
) -> None:
    app = desk(settings, checkpointer)
    await app.ainvoke({"ticket": 1, "question": QUESTION}, CONFIG)
    namespaces = {item.config["configurable"]["checkpoint_ns"] async for item in checkpointer.alist(None)}
    assert "" in namespaces
    assert any(name.startswith("research:") for name in namespaces)
    assert not (settings.home / "checkpoints.sqlite").exists()
    assert not settings.home.exists(), "an embedded graph writes no files of its own"


async def test_events_stream_through_the_parent(settings: Settings) -> None:
    app = desk(settings, None)
    agents: set[str] = set()
    nodes: set[str] = set()
    async for namespace, mode, data in app.astream(
        {"ticket": 1, "question": QUESTION}, stream_mode=["custom", "updates"], subgraphs=True
    ):
        if mode == "custom":
            agents.add(data["agent"])
        else:
            nodes.update((namespace[0].split(":")[0] if namespace else "", node) for node in data)
    assert {"planner", "seeker-1", "writer"} <= agents
    assert ("", "send") in nodes
    assert any(parent == "research" for parent, _ in nodes)


async def test_the_interrupt_passes_through_the_parent(
    settings: Settings, checkpointer: BaseCheckpointSaver[Any], endpoint: FakeOpenAI
) -> None:
    app = desk(settings, checkpointer)
    knobs = Context(plan_approval=True)
    paused = await app.ainvoke({"ticket": 1, "question": QUESTION}, CONFIG, context=knobs)
    (asked,) = paused["__interrupt__"]
    assert [task["question"] for task in asked.value["plan"]] == [QUESTION]
    assert "think" not in endpoint.roles()
    planning = endpoint.roles().count("plan")
    resume: Command[Any] = Command(resume={"plan": ["When was Heron Point Light lit, and by whom?"]})
    result = await app.ainvoke(resume, CONFIG, context=knobs)
    assert "1871" in result["reply"]
    assert endpoint.roles().count("plan") == planning, "the plan is not made again"
    assert any("and by whom?" in chat.text for chat in endpoint.chats)


async def test_an_interrupted_application_goes_on_in_a_new_process(
    settings: Settings, tmp_path: Path
) -> None:
    async with open_saver("sqlite", tmp_path) as saver:
        knobs = Context(plan_approval=True)
        await desk(settings, saver).ainvoke({"ticket": 1, "question": QUESTION}, CONFIG, context=knobs)
    async with open_saver(
        "sqlite", tmp_path
    ) as saver:  # nothing is left of the first application but the file
        resume: Command[Any] = Command(resume={"approve": True})
        result = await desk(settings, saver).ainvoke(resume, CONFIG, context=Context(plan_approval=True))
    assert "1871" in result["reply"]


@dataclass
class DeskContext:
    """What the stranger's application passes as its own context."""

    operator: str


async def test_the_context_of_the_application_is_not_ours(settings: Settings) -> None:
    app = desk(settings, None, context_schema=DeskContext)
    result = await app.ainvoke({"ticket": 1, "question": QUESTION}, context=DeskContext(operator="Kim"))
    assert "1871" in result["reply"]


async def test_called_inside_a_node_with_knobs_of_its_own(settings: Settings, endpoint: FakeOpenAI) -> None:
    research = create_deep_research_graph(settings=settings)

    async def work(state: Ticket) -> Ticket:
        found = await research.ainvoke({"question": state["question"]}, context=Context(report="brief"))
        return {"report": found["report"]}

    builder = StateGraph(Ticket, context_schema=DeskContext)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    app = builder.compile(checkpointer=InMemorySaver())
    result = await app.ainvoke(
        {"ticket": 1, "question": QUESTION}, CONFIG, context=DeskContext(operator="Kim")
    )
    assert "1871" in result["report"]
    assert "write" not in endpoint.roles(), "report='brief' reached the graph"


class Chat(TypedDict):
    """State of a chat application."""

    messages: Annotated[list[AnyMessage], add_messages]


async def test_in_a_chat_application(settings: Settings) -> None:
    builder = StateGraph(Chat)
    builder.add_node("research", create_deep_research_graph(settings=settings))
    builder.add_edge(START, "research")
    app = builder.compile(checkpointer=InMemorySaver())
    first = await app.ainvoke({"messages": [HumanMessage(QUESTION)]}, CONFIG)
    assert [message.type for message in first["messages"]] == ["human", "ai"], "tool messages stay inside"
    assert "1871" in first["messages"][-1].content
    second = await app.ainvoke(
        {"messages": [HumanMessage("Who was the keeper of Heron Point Light?")]}, CONFIG
    )
    assert [message.type for message in second["messages"]] == ["human", "ai", "human", "ai"]
    assert second["messages"][1].content == first["messages"][1].content


def test_one_graph_in_several_event_loops(settings: Settings) -> None:
    graph = create_deep_research_graph(settings=settings)
    for _ in range(2):
        state: ResearchState = asyncio.run(graph.ainvoke({"question": QUESTION}))
        assert "1871" in state["report"]


async def test_a_second_question_in_one_thread_starts_afresh(settings: Settings) -> None:
    graph = create_deep_research_graph(settings=settings, checkpointer=InMemorySaver())
    knobs = Context(warmup_steps=2)
    first = await graph.ainvoke({"question": QUESTION}, CONFIG, context=knobs)
    second = await graph.ainvoke({"question": "Who kept Heron Point Light?"}, CONFIG, context=knobs)
    assert second["question"] == "Who kept Heron Point Light?"
    assert [task["question"] for task in second["plan"]] == [second["question"]]
    assert [finding["question"] for finding in second["findings"]] == [second["question"]]
    for records in ("calls", "tools", "checks"):
        assert len(second[records]) == len(first[records]), (
            f"{records} of the first question are not counted again"
        )


async def test_a_conversation_in_one_thread(settings: Settings) -> None:
    graph = create_deep_research_graph(settings=settings, checkpointer=InMemorySaver())
    await graph.ainvoke({"messages": [HumanMessage(QUESTION)]}, CONFIG)
    second = await graph.ainvoke({"messages": [HumanMessage("Who kept Heron Point Light?")]}, CONFIG)
    assert second["question"] == "Who kept Heron Point Light?"
    assert [message.type for message in second["messages"]] == ["human", "ai", "human", "ai"]
    again = await graph.ainvoke({"question": "Where is Heron Point?"}, CONFIG)
    assert again["question"] == "Where is Heron Point?"


async def test_no_question(settings: Settings) -> None:
    graph = create_deep_research_graph(settings=settings)
    for empty in ({"messages": []}, {"messages": [AIMessage("Hello!")]}):
        with pytest.raises(UserInputError, match="There is no question"):
            await graph.ainvoke(empty)  # type: ignore[arg-type]
    with pytest.raises(UserInputError, match="question is empty"):
        await graph.ainvoke({"question": " "})


def run_script(script: str, *arguments: str, endpoint: FakeOpenAI, settings: Settings) -> str:
    """Run a Python file or text as a user would, and return what it prints."""
    kept = {k: v for k, v in os.environ.items() if not re.match(r"AGENTINFER_|TAVILY_|LANGSMITH_|OPENAI_", k)}
    environment = kept | {
        "PYTHONPATH": str(ROOT),
        "AGENTINFER_SMALL__BASE_URL": endpoint.url,
        "AGENTINFER_DOCS": str(settings.docs),
        "AGENTINFER_HOME": str(settings.home),
    }
    assert settings.docs is not None
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=settings.docs.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs(settings: Settings, endpoint: FakeOpenAI) -> None:
    script = (ROOT / "examples" / "embed_subgraph.py").read_text()
    printed = run_script(script, QUESTION, endpoint=endpoint, settings=settings)
    assert "The plan:" in printed
    assert "seeker-1" in printed
    assert f"Ticket 1: {QUESTION}" in printed
    assert "1871" in printed


PAGE = (ROOT / "docs" / "library.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_of_the_library_page_run(settings: Settings, number: int) -> None:
    models = re.findall(r'model="([^"]+)"', PAGE)
    with FakeOpenAI(models=models) as endpoint:
        script = re.sub(r"http://127.0.0.1:800\d/v1", endpoint.url, BLOCKS[number])
        printed = run_script(script, endpoint=endpoint, settings=settings)
    assert "1871" in printed
