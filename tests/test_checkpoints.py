"""Saving runs: full disks, broken files, several processes; on real SQLite databases."""

import asyncio
import operator
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from agentinfer_lg.checkpoints import DurableSaver, open_checkpointer, open_store
from agentinfer_lg.errors import CheckpointError
from agentinfer_lg.settings import Settings
from agentinfer_lg.state import ResearchState

CONFIG: Any = {"configurable": {"thread_id": "run-1"}}


class _State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    question: str
    text: str


def _settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, home=tmp_path / "home")


def _child() -> StateGraph[Any, Any, Any, Any]:
    child = StateGraph(_State)
    child.add_node("first", lambda state: {"log": ["child-first"], "text": "x" * 20_000})
    child.add_node("ask", lambda state: {"log": [f"child-{interrupt('go on?')}"]})
    child.add_node("last", lambda state: {"log": ["child-last"]})
    child.add_edge(START, "first")
    child.add_edge("first", "ask")
    child.add_edge("ask", "last")
    child.add_edge("last", END)
    return child


def _graph(saver: DurableSaver, begin: Any) -> Any:
    graph = StateGraph(_State)
    graph.add_node("begin", begin)
    graph.add_node("child", _child().compile())
    graph.add_node("end", lambda state: {"log": ["end"]})
    graph.add_edge(START, "begin")
    graph.add_edge("begin", "child")
    graph.add_edge("child", "end")
    graph.add_edge("end", END)
    return graph.compile(checkpointer=saver)


async def _limit_to_present_size(saver: DurableSaver) -> None:
    """Make SQLite refuse to grow the file: the error of a full disk."""
    cursor = await saver.conn.execute("PRAGMA page_count")
    row = await cursor.fetchone()
    assert row is not None
    await saver.conn.execute(f"PRAGMA max_page_count={row[0] + 2}")


async def test_run_outlives_a_full_disk_with_interrupts_and_subgraphs(tmp_path: Path) -> None:
    async with open_checkpointer(_settings(tmp_path)) as saver:

        async def begin(state: _State) -> _State:
            assert saver.failure == ""
            await _limit_to_present_size(saver)
            return {"log": ["begin"], "text": "y" * 20_000}

        graph = _graph(saver, begin)
        stopped = await graph.ainvoke({"question": "q", "log": []}, CONFIG, durability="sync")
        assert stopped["__interrupt__"][0].value == "go on?"
        assert "full" in saver.failure
        assert "cannot be resumed" in saver.failure
        nested = await graph.aget_state(CONFIG, subgraphs=True)
        assert nested.tasks[0].state.values["log"] == ["begin", "child-first"]
        final = await graph.ainvoke(Command(resume="yes"), CONFIG, durability="sync")
    assert final["log"] == ["begin", "begin", "child-first", "child-yes", "child-last", "end"]


async def test_sqlite_really_says_full(tmp_path: Path) -> None:
    """The plain saver ends the run in that situation, so the one above proves something."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "plain.sqlite")) as saver:

        async def begin(state: _State) -> _State:
            await _limit_to_present_size(saver)  # type: ignore[arg-type]
            return {"log": ["begin"], "text": "y" * 20_000}

        with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
            await _graph(saver, begin).ainvoke({"question": "q"}, CONFIG, durability="sync")  # type: ignore[arg-type]


async def test_disk_that_was_full_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(tmp_path)
    real = DurableSaver.setup
    calls = 0

    async def full(self: DurableSaver) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            msg = "database or disk is full"
            raise sqlite3.OperationalError(msg)
        await real(self)

    monkeypatch.setattr(DurableSaver, "setup", full)
    async with open_checkpointer(settings) as saver:
        assert "full" in saver.failure
        graph = _graph(saver, lambda state: {"log": ["begin"]})
        await graph.ainvoke({"question": "q"}, CONFIG)
        assert (await graph.aget_state(CONFIG)).next == ("child",)


async def test_another_process_resumes(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    async with open_checkpointer(settings) as saver:
        await _graph(saver, lambda state: {"log": ["begin"]}).ainvoke({"question": "q"}, CONFIG)
    async with open_checkpointer(settings) as saver:
        assert saver.failure == ""
        final = await _graph(saver, lambda state: {"log": ["never"]}).ainvoke(Command(resume="yes"), CONFIG)
    assert final["log"][-1] == "end"
    assert "never" not in final["log"]


async def test_database_that_is_none_is_set_aside_not_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings(tmp_path)
    settings.home.mkdir()
    (settings.home / "checkpoints.sqlite").write_bytes(b"precious but no database " * 200)
    async with open_checkpointer(settings) as saver:
        assert saver.failure == ""
        assert saver.set_aside is not None
        assert saver.set_aside.read_bytes().startswith(b"precious")
        await _graph(saver, lambda state: {"log": ["begin"]}).ainvoke({"question": "q"}, CONFIG)
    assert "was moved to" in caplog.text


async def test_home_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, not a folder")
    with pytest.raises(CheckpointError, match="AGENTINFER_HOME"):
        async with open_checkpointer(_settings(tmp_path)):
            pass
    with pytest.raises(CheckpointError, match="AGENTINFER_HOME"):
        async with open_store(_settings(tmp_path)):
            pass


async def test_database_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    (settings.home / "checkpoints.sqlite").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="AGENTINFER_HOME"):
        async with open_checkpointer(settings):
            pass


async def test_programming_errors_are_not_swallowed(tmp_path: Path) -> None:
    async with open_checkpointer(_settings(tmp_path)) as saver:
        await saver.conn.execute("DROP TABLE writes")
        await saver.conn.execute("CREATE TABLE writes (thread_id TEXT NOT NULL CHECK (0))")
        with pytest.raises(sqlite3.OperationalError):
            await saver.conn.execute("SELECT nonsense FROM nowhere")
        await saver.aclose()
        with pytest.raises(ValueError, match=r"closed|no active connection"):
            await saver.aput_writes(
                {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "1"}},
                [("a", 1)],
                "task",
            )


async def test_home_is_private(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    async with open_checkpointer(settings):
        pass
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700


async def test_store_keeps_values(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    async with open_store(settings) as store:
        await store.aput(("distill", "run-1"), "key", {"text": "kept"})
    async with open_store(settings) as store:
        item = await store.aget(("distill", "run-1"), "key")
    assert item is not None
    assert item.value == {"text": "kept"}


async def test_state_types_pass_the_serializer_without_warnings(tmp_path: Path) -> None:
    """Warnings are errors here: an unregistered type in a checkpoint would raise."""
    graph = StateGraph(ResearchState)
    graph.add_node(
        "fill",
        lambda state: {
            "messages": [AIMessage("a")],
            "plan": [{"id": "seeker-1", "question": "q"}],
            "sources": {"k": {"key": "k", "uri": "u", "title": "t", "passages": ["p"]}},
            "seconds": 1.5,
        },
    )
    graph.add_edge(START, "fill")
    async with open_checkpointer(_settings(tmp_path)) as saver:
        compiled = graph.compile(checkpointer=saver)
        await compiled.ainvoke({"question": "q", "messages": [HumanMessage("q")]}, CONFIG)
    async with open_checkpointer(_settings(tmp_path)) as saver:
        values = (await graph.compile(checkpointer=saver).aget_state(CONFIG)).values
    assert [message.content for message in values["messages"]] == ["q", "a"]
    assert values["sources"]["k"]["passages"] == ["p"]


_WRITER = """
import asyncio, sys
from pathlib import Path
from agentinfer_lg.checkpoints import open_checkpointer
from agentinfer_lg.settings import Settings

async def main():
    async with open_checkpointer(Settings(_env_file=None, home=Path(sys.argv[1]))) as saver:
        for step in range(20):
            config = {"configurable": {"thread_id": sys.argv[2], "checkpoint_ns": ""}}
            checkpoint = {"v": 4, "id": f"{step:04}", "ts": "", "channel_values": {"x": "y" * 5000},
                          "channel_versions": {}, "versions_seen": {}}
            saved = await saver.aput(config, checkpoint, {}, {})
            await saver.aput_writes(saved, [("x", step)], "task")
        assert saver.failure == "", saver.failure

asyncio.run(main())
"""


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    command = [sys.executable, "-c", _WRITER, str(settings.home)]
    writers = [subprocess.Popen([*command, f"run-{n}"], stderr=subprocess.PIPE) for n in range(4)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    for n in range(4):
        assert asyncio.run(_count(settings, f"run-{n}")) == 20


async def _count(settings: Settings, thread: str) -> int:
    async with open_checkpointer(settings) as saver:
        return len([item async for item in saver.alist({"configurable": {"thread_id": thread}})])
