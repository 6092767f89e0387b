"""Context compression in the graph, against a scripted endpoint: what the model sees, when, and what it costs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite.aio import AsyncSqliteStore
from support.fake_openai import FakeOpenAI, Recorded, Reply, render_prompt
from support.long_session import (
    NOTES,
    QUESTION,
    LongSession,
    check_extends,
    code,
    fact,
    honest,
    offered,
    step,
    superseding,
    thinks,
    write_lamps,
)

from agentinfer_lg import Context, EndpointSettings, Settings, create_deep_research_graph
from agentinfer_lg.graphs import deep_research
from agentinfer_lg.graphs.seeker import seeker_builder
from agentinfer_lg.llm.affinity import session_rank
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources

THREAD: RunnableConfig = {"configurable": {"thread_id": "lamps"}}
START = {"question": QUESTION}
KNOBS: dict[str, Any] = {
    "policy": "always-small",
    "verifier": False,
    "results_per_query": 1,
    "compress_after_tokens": 2000,
    "max_turns": 60,
    "report": "brief",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "TAVILY_API_KEY",
        "AGENTINFER_DOCS",
        "AGENTINFER_SMALL__BASE_URL",
        "AGENTINFER_LARGE__BASE_URL",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write_lamps(tmp_path / "docs", 60)


@dataclass
class Ran:
    """A run that has ended."""

    state: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Its events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    def calls(self, role: str) -> list[dict[str, Any]]:
        """Its model calls of one role."""
        return [call for call in self.state["calls"] if call["role"] == role]

    @property
    def answer(self) -> str:
        """What it found."""
        return " ".join(finding["answer"] for finding in self.state["findings"])


def graph_of(
    server: FakeOpenAI,
    docs: Path,
    *,
    large: FakeOpenAI | None = None,
    mode: str = "auto",
    store: BaseStore | None = None,
    saver: Any = None,
    **endpoint: Any,
) -> Any:
    def tier(at: FakeOpenAI, model: str) -> EndpointSettings:
        values = {"max_retries": 0, "tool_calling": mode, **endpoint}
        return EndpointSettings(base_url=at.url, model=model, **values)

    settings = Settings(
        small=tier(server, "fake-small"),
        large=tier(large or server, "fake-large"),
        docs=docs,
        home=docs.parent / "home",
        _env_file=None,
    )
    return create_deep_research_graph(settings=settings, checkpointer=saver, store=store)


async def run(graph: Any, given: Any = START, config: Any = THREAD, **knobs: Any) -> Ran:
    """Run to the end and keep the events."""
    ran = Ran()
    stream = graph.astream(
        given,
        config,
        context=Context(**{**KNOBS, **knobs}),
        stream_mode=["custom", "values"],
        subgraphs=True,
    )
    async for space, mode, chunk in stream:
        if mode == "custom":
            ran.events.append(chunk)
        elif not space:
            ran.state = chunk
    return ran


def check_tickets(ran: Ran) -> list[str]:
    """Check that each distillation that was begun was swapped in or given up, once, and return its tickets."""
    begun = [event["ticket"] for event in ran.of("distill_start")]
    assert [event["ticket"] for event in ran.of("distill_end")] == begun
    assert [event["ticket"] for event in ran.of("swap")] == begun
    swapped = [event["ticket"] for event in ran.of("swap") if event["ok"]]
    assert [swap["ticket"] for swap in ran.state["swaps"]] == swapped
    assert len(begun) == len(set(begun))
    return begun


def check_searches(ran: Ran, server: FakeOpenAI) -> None:
    """Check that no tool call was made twice."""
    asked = [json.dumps(event["arguments"]) for event in ran.of("tool_start")]
    assert len(asked) == len(set(asked)) == len(ran.state["tools"])


# Nothing waits


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_no_round_waits_for_a_distillation(docs: Path, mode: str) -> None:
    begun: list[int] = []

    def distill(request: dict[str, Any]) -> Reply:
        begun.append(request["vllm_xargs"]["agent_turn"])
        return Reply(text=f"[3] {fact(2)}\n", hold="" if len(begun) > 1 else "distiller")

    def go_on(turn: int, request: dict[str, Any]) -> None:
        if begun and turn >= begun[0] + 4:
            server.release("distiller")

    brain = LongSession(turns=0, after_notes=3, distill=distill, on_think=go_on)
    with FakeOpenAI(brain) as server:
        ran = await run(graph_of(server, docs, mode=mode))
        first = ran.of("swap")[0]
        assert first["ok"]
        assert first["lag"] >= 3, "rounds went on while it was held"
        turns = [chat.body["vllm_xargs"]["agent_turn"] for chat in thinks(server)]
        assert turns == list(range(len(turns))), "no step was made twice or left out"
        start = next(i for i, chat in enumerate(server.chats) if chat.role == "distill")
        while_held = [chat.role for chat in server.chats[start:]].index("prewarm")
        assert [chat.role for chat in server.chats[start : start + while_held]].count("think") >= 3
        check_tickets(ran)
        check_searches(ran, server)
        (changed, *_) = superseding(server)
        assert changed.body["vllm_xargs"]["agent_turn"] == first["turn"]
        assert NOTES in changed.text
        assert NOTES not in thinks(server)[first["turn"] - 1].text
        assert check_extends(thinks(server)) == len(turns) - 1 - len(ran.state["swaps"])
    assert first["tokens_after"] < first["tokens_before"]


async def test_what_several_rounds_brought_meanwhile_is_prefilled_without_waiting(docs: Path) -> None:
    begun: list[int] = []
    warmed: list[int] = []
    turns: list[int] = []

    def distill(request: dict[str, Any]) -> Reply:
        begun.append(request["vllm_xargs"]["agent_turn"])
        return Reply(text=f"[3] {fact(2)}\n", hold="distiller")

    def prewarm(request: dict[str, Any]) -> Reply:
        warmed.append(len(request["messages"]))
        turns.append(request["vllm_xargs"]["agent_turn"])
        return Reply(text="x", hold="second" if len(warmed) == 2 else "")

    def go_on(turn: int, request: dict[str, Any]) -> None:
        if begun and turn >= begun[0] + 4:
            server.release("distiller")
        if len(warmed) == 2 and turn >= begun[0] + 7:
            server.release("second")

    brain = LongSession(after_notes=2, distill=distill, on_think=go_on, others={"prewarm": prewarm})
    with FakeOpenAI(brain) as server:
        ran = await run(graph_of(server, docs, mode="json"), compress_after_tokens=3000)
        first = ran.of("swap")[0]
        assert first["ok"]
        assert first["lag"] >= 7, "no round waited for the second one"
        bulk, meanwhile, *rest = warmed
        assert meanwhile - bulk > 2, "several rounds"
        assert rest, "what came since is prefilled at the boundary"
        (call, *_) = (call for call in ran.calls("think") if call["turn"] == first["turn"])
        assert call["cached_tokens"] >= 0.95 * call["prompt_tokens"]
        # Of a later ticket that is given up at the end, a prefill may still be on its way.
        counted = [call for call in ran.calls("prewarm") if call["turn"] < first["turn"]]
        assert len(counted) == sum(turn < first["turn"] for turn in turns), "each is counted once"
        assert len(counted) >= 3


async def test_every_call_of_a_session_goes_to_its_data_parallel_rank(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=16), ranks=8) as server:
        await run(graph_of(server, docs))
        chats = list(server.chats)
    assert {chat.role for chat in chats} >= {"plan", "think", "distill", "prewarm"}
    for chat in chats:
        assert chat.headers["x-session-id"] == chat.session
        assert int(chat.headers["x-data-parallel-rank"]) == session_rank(chat.session, 8)
    of_seekers = {chat.session for chat in chats if chat.role == "think"}
    assert {chat.session for chat in chats if chat.role in ("distill", "prewarm")} == of_seekers


async def test_the_first_step_after_a_swap_is_cached(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=24)) as server:
        ran = await run(graph_of(server, docs))
        swaps = ran.state["swaps"]
        assert len(swaps) >= 3
        steps = {call["turn"]: call for call in ran.calls("think")}
        for swap in swaps:
            call = steps[swap["turn"]]
            assert call["cached_tokens"] >= 0.95 * call["prompt_tokens"]
            assert call["prompt_tokens"] < steps[swap["turn"] - 1]["prompt_tokens"]
        changed = [chat.body["vllm_xargs"]["agent_turn"] for chat in superseding(server)]
        assert changed == [swap["turn"] for swap in swaps]
        assert {chat.role for chat in superseding(server)} == {"think"}
        check_extends(thinks(server))
        check_tickets(ran)


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_the_progress_check_shares_the_prefix(docs: Path, mode: str) -> None:
    with FakeOpenAI(LongSession(turns=14)) as server:
        knobs = {"policy": "agentcollab", "compression": "barrier", "progress_checks": "all"}
        ran = await run(graph_of(server, docs, mode=mode), **knobs)
        assert ran.state["swaps"]
        own = [chat for chat in server.chats if chat.role in ("think", "progress")]
        steps = {chat.body["vllm_xargs"]["agent_turn"]: chat for chat in own if chat.role == "think"}
        checks = [chat for chat in own if chat.role == "progress"]
        assert len(checks) == len(steps) - 1, "the answer is not checked"
        for check in checks:
            thought = steps[check.body["vllm_xargs"]["agent_turn"]]
            prefix = thought.body["messages"]
            assert check.model == thought.model
            assert check.body["messages"][: len(prefix)] == prefix
            assert check.body.get("tools") == thought.body.get("tools")
            assert not check.body["vllm_xargs"]["agent_supersedes"]


async def test_barrier_waits_and_repeats(docs: Path) -> None:
    prompts = []
    for _ in range(2):
        with FakeOpenAI(LongSession(turns=16)) as server:
            ran = await run(graph_of(server, docs), compression="barrier")
            assert {swap["lag"] for swap in ran.state["swaps"]} == {0}
            prompts.append(
                [chat.text for chat in server.chats if chat.role in ("think", "distill", "prewarm")]
            )
    assert prompts[0] == prompts[1]


# Faults


async def test_a_distiller_that_hangs(docs: Path) -> None:
    brain = LongSession(turns=0, after_notes=1, distill=lambda _: Reply(hold="never"))
    with FakeOpenAI(brain) as server:
        ran = await run(graph_of(server, docs), distill_seconds=0.2)
        assert fact(2) in ran.answer
        ended = ran.of("distill_end")[0]
        assert not ended["ok"]
        assert "did not distill within" in ended["text"]
        first = ran.state["swaps"][0]
        assert first["failure"] == ended["text"]
        notes = superseding(server)[0].text
    assert fact(2) in notes, "its own words stand in"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(text="!!! ### ???"),
        Reply(
            text="[3] Zanzibar, the easternmost, was lit in 1999 by nobody.\n[99] A number that does not exist.\n"
        ),
        Reply(text=""),
        Reply(raw="not json"),
        Reply(raw='{"choices": []}'),
        Reply(raw=json.dumps({"choices": [{"message": {"content": "\ud800 \x00 [3] \x00"}}]})),
    ],
)
async def test_a_distiller_that_writes_nonsense(docs: Path, reply: Reply) -> None:
    with FakeOpenAI(LongSession(turns=10, distill=lambda _: reply)) as server:
        ran = await run(graph_of(server, docs), compression="barrier")
        assert fact(2) in ran.answer
        assert all(not event["ok"] and event["text"] for event in ran.of("distill_end"))
        notes = superseding(server)[0].text
    assert fact(2) in notes
    assert "1999" not in notes


async def test_a_distiller_slower_than_the_run(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=12, distill=lambda _: Reply(hold="never"))) as server:
        ran = await run(graph_of(server, docs))
        left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert fact(2) in ran.answer
        assert ran.state["swaps"] == []
        assert superseding(server) == []
        (ended,) = ran.of("distill_end")
        assert (ended["ok"], ended["text"]) == (False, "the agent ended before it was distilled")
        (given_up,) = ran.of("swap")
        assert not given_up["ok"]
        check_tickets(ran)
        assert [name for name in left if name.startswith("agentinfer")] == [], "no task is left behind"


def test_the_event_loop_closes_clean(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=10, distill=lambda _: Reply(hold="never"))) as server:
        graph = graph_of(server, docs)
        for _ in range(2):  # the same graph, a loop of its own each time
            ran = asyncio.run(run(graph))
            assert fact(2) in ran.answer


async def test_a_distiller_whose_context_is_exceeded(docs: Path) -> None:
    def distill(request: dict[str, Any]) -> Reply:
        if len(render_prompt(request)) > 2000:
            message = "This model's maximum context length is 512 tokens. However, you requested more."
            return Reply(status=400, text=message)
        return honest(request)

    with FakeOpenAI(LongSession(turns=10, distill=distill)) as server:
        ran = await run(graph_of(server, docs), compression="barrier")
        assert ran.state["swaps"]
        assert all(event["ok"] for event in ran.of("distill_end")), "it is asked again with less"
        assert len(ran.calls("distill")) > len(ran.state["swaps"])


async def test_a_distiller_whose_context_is_too_small_for_anything(docs: Path) -> None:
    message = "This model's maximum context length is 16 tokens. However, you requested more."
    brain = LongSession(turns=10, distill=lambda _: Reply(status=400, text=message))
    with FakeOpenAI(brain) as server:
        ran = await run(graph_of(server, docs), compression="barrier")
        assert ran.state["swaps"]
        assert all(not event["ok"] and event["text"] for event in ran.of("distill_end"))
        assert fact(2) in ran.answer


async def test_the_small_tier_is_dead(docs: Path) -> None:
    brain = LongSession(turns=12)
    with FakeOpenAI() as small, FakeOpenAI(brain) as large:
        small.kill()
        ran = await run(
            graph_of(small, docs, large=large), policy="agentcollab", compression="barrier", max_turns=14
        )
        assert fact(2) in ran.answer
        assert {call["tier"] for call in ran.calls("think")} == {"large"}
        assert ran.state["swaps"], "notes are made without a model"
        assert all(not event["ok"] and event["text"] for event in ran.of("distill_end"))
        check_extends(thinks(large))


class BrokenStore(InMemoryStore):
    """A store with one operation that fails."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken

    async def aget(self, *arguments: Any, **more: Any) -> Any:
        if self.broken == "get":
            msg = "the disk is gone"
            raise OSError(msg)
        return None if self.broken == "forgets" else await super().aget(*arguments, **more)

    async def aput(self, *arguments: Any, **more: Any) -> None:
        if self.broken == "put":
            msg = "the disk is full"
            raise OSError(msg)
        await super().aput(*arguments, **more)


@pytest.mark.parametrize(
    ("broken", "said"),
    [("get", "the disk is gone"), ("put", "stay in memory"), ("forgets", "does not keep notes")],
)
@pytest.mark.parametrize("compression", ["barrier", "background"])
async def test_a_store_that_fails(docs: Path, broken: str, said: str, compression: str) -> None:
    with FakeOpenAI(LongSession(turns=0, after_notes=2)) as server:
        ran = await run(graph_of(server, docs, store=BrokenStore(broken)), compression=compression)
        assert fact(2) in ran.answer
        assert ran.state["swaps"][0]["failure"] == ""
        asked = [chat.text for chat in server.chats if chat.role == "distill"]
        assert len(asked) == len(set(asked)), "what this process has made is not made again"
        warnings = " ".join(event["text"] for event in ran.of("warning"))
        assert said in warnings


class CorruptStore(InMemoryStore):
    """A store in which somebody else has written first."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value
        self.overwritten = False

    async def aget(self, namespace: tuple[str, ...], key: str, **more: Any) -> Any:
        found = await super().aget(namespace, key, **more)
        if found is None:
            await super().aput(namespace, key, {"a": 1})
            found = await super().aget(namespace, key, **more)
            assert found is not None
            found.value = self.value
        elif found.value == {"a": 1}:
            found.value = self.value
        return found


@pytest.mark.parametrize(
    "value",
    [
        {},
        "text",
        {"notes": {}, "calls": []},
        {"notes": [], "calls": {}, "seconds": 1.0, "removed": 0, "failure": ""},
        {"notes": {}, "calls": [{"role": "distill"}], "seconds": 1.0, "removed": 0, "failure": ""},
    ],
)
async def test_a_corrupt_value_in_the_store(docs: Path, value: Any) -> None:
    with FakeOpenAI(LongSession(turns=8)) as server:
        ran = await run(graph_of(server, docs, store=CorruptStore(value)), compression="barrier")
        assert fact(2) in ran.answer
        assert ran.state["swaps"]
        assert fact(2) in superseding(server)[0].text
        assert ran.of("warning")
        check_tickets(ran)


# Forks and time travel


@asynccontextmanager
async def on_disk(folder: Path) -> AsyncIterator[tuple[AsyncSqliteSaver, AsyncSqliteStore]]:
    async with (
        AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver,
        AsyncSqliteStore.from_conn_string(str(folder / "store.sqlite")) as store,
    ):
        await store.setup()
        yield saver, store


async def test_a_fork_finds_what_was_distilled(docs: Path, tmp_path: Path) -> None:
    with FakeOpenAI(LongSession(turns=12)) as server:
        async with on_disk(tmp_path) as (saver, store):
            graph = graph_of(server, docs, saver=saver, store=store)
            first = await run(graph, compression="barrier")
            before = len(server.chats)
            history = [item async for item in graph.aget_state_history(THREAD)]
            planned = next(item for item in history if item.next == ("seeker",))
            again = await run(graph, None, planned.config, compression="barrier")
        old, new = server.chats[:before], server.chats[before:]
    assert first.state["swaps"]
    assert again.state["swaps"] == first.state["swaps"]
    assert again.answer == first.answer
    assert "distill" not in [chat.role for chat in new]
    steps = [chat.text for chat in old if chat.role == "think"]
    assert [chat.text for chat in new if chat.role == "think"] == steps


@dataclass
class Seeker:
    """One seeker as a graph of its own: every superstep of it can be gone back to."""

    graph: Any
    server: FakeOpenAI
    history: list[Any] = field(default_factory=list)

    async def fork(self, item: Any, **knobs: Any) -> list[Any]:
        """Go on from a checkpoint, and return the requests of the branch."""
        before = len(self.server.chats)
        await self.graph.ainvoke(
            None, item.config, context=Context(**{**KNOBS, "compression": "barrier", **knobs})
        )
        return self.server.chats[before:]


@asynccontextmanager
async def sought(server: FakeOpenAI, docs: Path, folder: Path, **knobs: Any) -> AsyncIterator[Seeker]:
    small, large = (
        EndpointSettings(base_url=server.url, model=model, max_retries=0, tool_calling="json")
        for model in ("fake-small", "fake-large")
    )
    settings = Settings(small=small, large=large, docs=docs, home=folder / "home", _env_file=None)
    context = Context(**{**KNOBS, "compression": "barrier", **knobs})
    state: Any = {"question": QUESTION, "language": "en", "run_id": "r", "calls": [], "plan_notes": []}
    state = deep_research._seeker(state, context, {"id": "seeker-1", "question": QUESTION}, 1)
    async with on_disk(folder) as (saver, store):
        graph = seeker_builder(Resources(settings)).compile(checkpointer=saver, store=store)
        await graph.ainvoke(state, THREAD, context=context)
        yield Seeker(graph, server, [item async for item in graph.aget_state_history(THREAD)])


async def test_time_travel_to_before_and_after_a_swap(docs: Path, tmp_path: Path) -> None:
    with FakeOpenAI(LongSession(turns=10)) as server:
        async with sought(server, docs, tmp_path) as seeker:
            last = seeker.history[0].values
            swap = last["swaps"][0]
            boundary = next(
                item
                for item in seeker.history
                if item.next == ("boundary",) and item.values["turn"] == swap["turn"] - 1
            )
            used = next(
                item
                for item in seeker.history
                if item.next == ("think",) and item.values["turn"] == swap["turn"]
            )
            steps = [chat.text for chat in thinks(server)][swap["turn"] :]
            for item in (boundary, used):
                chats = await seeker.fork(item)
                assert "distill" not in [chat.role for chat in chats]
                assert [chat.text for chat in chats if chat.role == "think"] == steps
                (first, *_) = [chat for chat in chats if chat.role == "think"]
                assert first.body["vllm_xargs"]["agent_supersedes"] == 1
            states = [item.values for item in seeker.history]
            contents = [str(message.content) for message in states[0]["messages"]]
            assert not any(NOTES in content for content in contents), "the state keeps the originals"


@pytest.mark.parametrize("point", ["boundary", "think"])
async def test_a_fork_without_compression_sees_the_originals(docs: Path, tmp_path: Path, point: str) -> None:
    with FakeOpenAI(LongSession(turns=10)) as server:
        async with sought(server, docs, tmp_path) as seeker:
            swap = seeker.history[0].values["swaps"][0]
            turn = swap["turn"] - (point == "boundary")
            item = next(i for i in seeker.history if i.next == (point,) and i.values["turn"] == turn)
            chats = await seeker.fork(item, compression="off")
            steps = [chat for chat in chats if chat.role == "think"]
            assert {chat.role for chat in chats} <= {"think", "qa"}
            for chat in steps:
                assert NOTES not in chat.text
                assert not chat.body["vllm_xargs"]["agent_supersedes"]
                for number in range(swap["turn"]):
                    assert code(number) in chat.text
            check_extends(steps)
            other = await seeker.fork(item, keep_rounds=0, notes_tokens=300)
            assert any(NOTES in chat.text for chat in other)


# A switch of the model at a swap


async def test_the_model_is_switched_at_a_swap(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=12)) as server:
        ran = await run(graph_of(server, docs), policy="agentcollab", compression="barrier")
        turn = ran.state["swaps"][0]["turn"]

    with FakeOpenAI(LongSession(turns=turn + 5, others=checks(turn - 1))) as server:
        ran = await run(
            graph_of(server, docs),
            policy="agentcollab",
            compression="barrier",
            rescue_reads=False,
            max_turns=turn + 6,
        )
        (swap,) = ran.state["swaps"]
        assert swap["turn"] == turn
        assert [escalation["turn"] for escalation in ran.state["escalations"]] == [turn - 1]
        tiers = [call["tier"] for call in ran.calls("think")]
        assert tiers == ["small"] * turn + ["large"] + ["small"] * 5
        assert "prewarm" not in server.roles(), "the other model has neither prefix"
        changed = [(chat.model, chat.body["vllm_xargs"]["agent_turn"]) for chat in superseding(server)]
        assert changed == [("fake-large", turn), ("fake-small", turn + 1)]
        check_extends(thinks(server, model="fake-small"))
        assert NOTES in thinks(server, model="fake-large")[0].text


# What a rescue sees

RESCUE: dict[str, Any] = {
    "policy": "agentcollab",
    "compress_after_tokens": 100_000,
    "rescue_tokens": 60,
    "rescue_reads": False,
    "initial_budget": 4,
    "budget_ceiling": 10,
}


def checks(*failing: int) -> dict[str, Any]:
    """Progress Checks that are FALSE in these turns."""

    def check(request: dict[str, Any]) -> Reply:
        value = "FALSE" if request["vllm_xargs"]["agent_turn"] in failing else "TRUE"
        block = f"===PROGRESS===\n<reason>so it is</reason> <value>{value}</value>\n===END_PROGRESS==="
        return Reply(text=block)

    return {"progress": check}


def last_message(chat: Recorded) -> str:
    """The text that a request ends with."""
    return str(chat.body["messages"][-1]["content"])


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_a_rescue_sees_the_steps_and_the_sentences_that_match(docs: Path, mode: str) -> None:
    with FakeOpenAI(LongSession(turns=10, others=checks(4, 5))) as server:
        ran = await run(graph_of(server, docs, mode=mode), **RESCUE)
    assert [call["turn"] for call in ran.calls("think") if call["tier"] == "large"] == [5, 6]
    first, second = thinks(server, model="fake-large")
    assert NOTES in first.text
    assert fact(2) in first.text
    for turn in range(5):
        assert code(turn) not in first.text
        assert f"alpha{turn}" in first.text
    assert first.text.count("oil store book") == 0
    assert check_extends([first, second]) == 1
    assert code(5) in last_message(second), "what comes after is shown whole"
    assert superseding(server) == [first]
    small = thinks(server, model="fake-small")
    assert check_extends(small) == len(small) - 1
    assert all(NOTES not in chat.text for chat in small)
    assert code(5) in small[-1].text


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_the_check_of_a_rescue_shares_its_prefix(docs: Path, mode: str) -> None:
    with FakeOpenAI(LongSession(turns=8, others=checks(4, 5))) as server:
        await run(graph_of(server, docs, mode=mode), **RESCUE)
    large = thinks(server, model="fake-large")
    judged = [chat for chat in server.chats if chat.role == "progress" and chat.model == "fake-large"]
    for step_, check in zip(large, judged, strict=True):
        prefix = step_.body["messages"]
        assert check.body["messages"][: len(prefix)] == prefix


@pytest.mark.parametrize("knobs", [{"rescue_tokens": 0}, {"compression": "off"}], ids=str)
async def test_a_rescue_sees_whole_results_if_it_is_to(docs: Path, knobs: dict[str, Any]) -> None:
    with FakeOpenAI(LongSession(turns=8, others=checks(4))) as server:
        await run(graph_of(server, docs), **{**RESCUE, **knobs})
    (large,) = thinks(server, model="fake-large")
    assert NOTES not in large.text
    assert all(code(turn) in large.text for turn in range(5))
    assert check_extends(thinks(server)) == len(thinks(server)) - 1, "both see the same"
    assert superseding(server) == []


async def test_one_model_for_both_tiers_sees_whole_results(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=8, others=checks(4))) as server:
        both = EndpointSettings(base_url=server.url, model="fake-small", max_retries=0)
        settings = Settings(small=both, docs=docs, home=docs.parent / "home", _env_file=None)
        ran = await run(create_deep_research_graph(settings=settings), **RESCUE)
    assert not ran.state.get("escalations"), "there is nobody to hand over to"
    assert check_extends(thinks(server)) == len(thinks(server)) - 1, "its cache has all of it"


async def test_each_rescue_supersedes_the_one_before(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=9, others=checks(2, 5, 6))) as server:
        await run(graph_of(server, docs), **RESCUE)
    changed = [(chat.model, chat.body["vllm_xargs"]["agent_turn"]) for chat in superseding(server)]
    assert changed == [("fake-large", 3), ("fake-large", 6)]
    first, second, third = thinks(server, model="fake-large")
    assert f"{NOTES} [1]-[4]:" in first.text
    assert f"{NOTES} [1]-[7]:" in second.text
    assert check_extends([second, third]) == 1


async def _searches_again(docs: Path, query: str, **knobs: Any) -> str:
    """Return what a search of the large model brings whose result it has not seen whole."""
    steps = {5: ("web_search", {"queries": [query]})}
    with FakeOpenAI(LongSession(turns=8, steps=steps, others=checks(4, 5))) as server:
        await run(graph_of(server, docs), **{**RESCUE, **knobs})
    return last_message(thinks(server, model="fake-large")[1])


async def test_a_result_that_a_rescue_hides_is_not_above(docs: Path) -> None:
    shown = await _searches_again(docs, "Lamp0001", auto_recall=False)
    assert f"Lamp0001 {PROMPTS['en'].known_in_notes}" in shown
    assert PROMPTS["en"].see_above not in shown


async def test_a_search_for_what_a_rescue_hides_brings_it_back(docs: Path) -> None:
    shown = await _searches_again(docs, "inventory mark of the easternmost, Zanzibar")
    assert re.search(r"\[\d+\] Zanzibar: .*QX-0002-Z", shown)


async def test_a_result_that_a_rescue_hides_can_be_recalled(docs: Path) -> None:
    steps = {5: ("recall", {"ticket": 4, "query": "inventory mark"})}
    with FakeOpenAI(LongSession(turns=8, steps=steps, others=checks(4, 5))) as server:
        await run(graph_of(server, docs, mode="native"), **RESCUE)
    first, second = thinks(server, model="fake-large")
    assert code(2) not in first.text
    assert code(2) in last_message(second)


@pytest.mark.parametrize("compression", ["background", "barrier"])
async def test_a_swap_while_the_large_model_works(docs: Path, compression: str) -> None:
    knobs = {**RESCUE, "compress_after_tokens": 2000, "compression": compression, "initial_budget": 10}
    with FakeOpenAI(LongSession(turns=16, others=checks(*range(2, 12)))) as server:
        ran = await run(graph_of(server, docs), **knobs)
    large, small = thinks(server, model="fake-large"), thinks(server, model="fake-small")
    turns = [chat.body["vllm_xargs"]["agent_turn"] for chat in large]
    assert turns == list(range(3, 13))
    assert check_extends(large) == len(large) - 1, "it does not see the swap"
    assert superseding(server)[0] is large[0]
    swap = ran.state["swaps"][0]
    assert turns[0] < swap["turn"] <= turns[-1]
    back = small[3]
    assert back.body["vllm_xargs"]["agent_supersedes"] == 1
    assert NOTES in back.text
    check_extends(small)
    warmed = [chat for chat in server.chats if chat.role == "prewarm"]
    assert {chat.model for chat in warmed} <= {"fake-small"}, "the large one never sees this context"
    assert not [chat for chat in warmed if chat.body["vllm_xargs"]["agent_turn"] in turns[:-1]]


async def test_a_rescue_when_there_was_a_swap(docs: Path) -> None:
    knobs = {**RESCUE, "compress_after_tokens": 2000, "compression": "barrier"}
    with FakeOpenAI(LongSession(turns=16, others=checks(12))) as server:
        ran = await run(graph_of(server, docs), **knobs)
    assert ran.state["swaps"][0]["turn"] < 12
    (large,) = thinks(server, model="fake-large")
    assert large.text.count(NOTES) == 1
    assert f"{NOTES} [1]-[14]:" in large.text, "of all results, not just of those that were distilled"
    assert all(f"alpha{turn}" in large.text for turn in range(13))
    check_extends(thinks(server, model="fake-small"))


async def test_what_the_way_back_from_a_rescue_costs(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=12, others=checks(4, 5, 6, 7))) as server:
        ran = await run(graph_of(server, docs), **RESCUE)
    steps = {call["turn"]: call for call in ran.calls("think")}
    assert [turn for turn, call in steps.items() if call["tier"] == "large"] == [5, 6, 7, 8]
    assert [turn for turn, call in steps.items() if call["reprefill_tokens"]] == [5, 9]
    assert steps[5]["reprefill_tokens"] <= steps[5]["prompt_tokens"]
    back, before = steps[9], steps[4]
    missed = back["prompt_tokens"] - before["prompt_tokens"] - before["output_tokens"]
    assert 0.5 * missed < back["reprefill_tokens"] < missed, (
        "four rounds, of which it needs the last in any case"
    )


@pytest.mark.parametrize(
    ("knobs", "whole"), [({}, False), ({"rescue_tokens": 0}, True), ({"compression": "off"}, True)]
)
async def test_a_thread_resumed_in_the_middle_of_a_rescue(
    docs: Path, tmp_path: Path, knobs: dict[str, Any], whole: bool
) -> None:
    with FakeOpenAI(LongSession(turns=9, others=checks(4, 5, 6))) as server:
        async with sought(server, docs, tmp_path, **RESCUE) as seeker:
            steps = [chat.text for chat in thinks(server)]
            middle = next(i for i in seeker.history if i.next == ("think",) and i.values["turn"] == 6)
            assert middle.values["tier"] == "large"
            chats = await seeker.fork(middle, **{**RESCUE, **knobs})
    branch = [chat for chat in chats if chat.role == "think"]
    if whole:
        assert all(code(turn) in branch[0].text for turn in range(6))
        assert NOTES not in branch[0].text
        assert not any(chat.body["vllm_xargs"]["agent_supersedes"] for chat in branch)
    else:
        assert [chat.text for chat in branch] == steps[6:]


async def test_a_follow_up_question_begins_without_a_rescue(docs: Path) -> None:
    knobs = {**RESCUE, "seeker_warmup_steps": 1}
    with FakeOpenAI(LongSession(turns=5, others=checks(2))) as server:
        graph = graph_of(server, docs, saver=InMemorySaver())
        await run(graph, **knobs)
        before = len(server.chats)
        await run(graph, {"question": f"And again: {QUESTION}"}, **knobs)
    for chats in (server.chats[:before], server.chats[before:]):
        warm_up, rescue = [chat for chat in chats if chat.role == "think" and chat.model == "fake-large"]
        assert NOTES not in warm_up.text
        assert not warm_up.body["vllm_xargs"]["agent_supersedes"]
        assert NOTES in rescue.text


# Without parts of it


async def _switched(docs: Path, mode: str = "native", **knobs: Any) -> tuple[Ran, FakeOpenAI]:
    with FakeOpenAI(LongSession(turns=14)) as server:
        ran = await run(graph_of(server, docs, mode=mode), **{"compression": "barrier", **knobs})
    assert ran.of("finding")
    assert ran.state["swaps"], "it was compressed"
    check_extends(thinks(server))
    check_tickets(ran)
    return ran, server


@pytest.mark.parametrize("recall", [True, False])
async def test_without_notes(docs: Path, recall: bool) -> None:
    ran, server = await _switched(docs, notes=False, recall=recall)
    assert "distill" not in server.roles()
    text = superseding(server)[0].text
    assert "Notes on results [1]-" in text
    assert "Nothing was found" not in text, "there were results"
    assert fact(2) not in text
    assert (PROMPTS["en"].recallable in text) is recall
    assert ran.state["swaps"][0]["failure"] == ""


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_without_reasoning(docs: Path, mode: str) -> None:
    _, server = await _switched(docs, mode, keep_reasoning=False)
    first = superseding(server)[0]
    roles = [message["role"] for message in first.body["messages"]]
    tool = "tool" if mode == "native" else "user"
    assert roles[:2] == ["system", "user"]
    assert roles[-4:] == ["assistant", tool, "assistant", tool]
    assert "alpha0" not in first.text
    assert fact(2) in first.text


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_without_recent_results(docs: Path, mode: str) -> None:
    _, server = await _switched(docs, mode, keep_rounds=0)
    first = superseding(server)[0]
    assert NOTES in str(first.body["messages"][-1]["content"]), "nothing follows the notes"
    assert "oil store book" not in first.text
    assert "alpha0" in first.text
    if mode == "json":
        assert str(first.body["messages"][-1]["content"]).count(QUESTION) == 1


async def test_without_prewarm(docs: Path) -> None:
    ran, server = await _switched(docs, prewarm=False)
    assert "prewarm" not in server.roles()
    steps = {call["turn"]: call for call in ran.calls("think")}
    call = steps[ran.state["swaps"][0]["turn"]]
    assert call["cached_tokens"] < 0.5 * call["prompt_tokens"]


async def test_steps_stay_word_for_word(docs: Path) -> None:
    _, server = await _switched(docs)
    before, after = thinks(server)[-1], superseding(server)[0]
    for chat in (after, before):
        for turn in range(chat.body["vllm_xargs"]["agent_turn"]):
            assert " ".join(f"{word}{turn}" for word in ("alpha", "beta", "gamma")) in chat.text


# Off


def _tools(server: FakeOpenAI) -> list[str]:
    chats = [chat for chat in server.chats if chat.role in ("think", "progress", "prewarm")]
    named = {tuple(tool["function"]["name"] for tool in chat.body["tools"]) for chat in chats}
    (names,) = named  # the same over the whole run
    return list(names)


async def test_off_is_as_if_it_did_not_exist(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=10)) as server:
        ran = await run(graph_of(server, docs, mode="json"), compression="off")
        last = thinks(server)[-1]
        assert set(server.roles()) == {"plan", "think", "qa"}
        assert all("recall" not in offered(chat) for chat in thinks(server))
    assert ran.of("distill_start") == ran.of("swap") == []
    assert ran.state.get("swaps", []) == []
    prompts = PROMPTS["en"]
    expected = [prompts.seeker_json, prompts.task.format(question=QUESTION)]
    for turn in range(10):
        expected.append(thinks(server)[turn + 1].body["messages"][2 + 2 * turn]["content"])
        assert f"alpha{turn}" in expected[-1]
        results = thinks(server)[turn + 1].body["messages"][3 + 2 * turn]["content"]
        assert results.startswith("Results:\n[")
        assert results.endswith(prompts.next_step.format(question=QUESTION))
        assert fact(turn) in results
        assert code(turn) in results
        expected.append(results)
    assert [message["content"] for message in last.body["messages"]] == expected


async def test_without_recall_the_tools_are_the_old_ones(docs: Path) -> None:
    names = ["web_search", "crawl", "document_qa", "finish"]
    for knobs in ({"compression": "off"}, {"recall": False, "compression": "barrier"}):
        with FakeOpenAI(LongSession(turns=10)) as server:
            await run(graph_of(server, docs, mode="native"), **knobs)
            assert _tools(server) == names
            assert "recall" not in "".join(chat.text for chat in server.chats)


# Recall


async def test_recall_in_native_mode(docs: Path) -> None:
    steps = {
        9: ("recall", {"ticket": 4}),
        10: ("recall", {"ticket": 99}),
        11: ("recall", {"ticket": 4, "query": "mark"}),
    }
    with FakeOpenAI(LongSession(turns=13, steps=steps)) as server:
        ran = await run(graph_of(server, docs, mode="native"), compression="barrier", keep_rounds=1)
        assert _tools(server) == ["web_search", "crawl", "document_qa", "recall", "finish"]
        shown = {turn: thinks(server)[turn].body["messages"][-1]["content"] for turn in (10, 11, 12)}
        original = next(
            message["content"]
            for message in thinks(server)[3].body["messages"]
            if fact(2) in str(message["content"])
        )
    assert ran.state["swaps"][0]["turn"] <= 9
    assert fact(2) in original
    assert shown[10].startswith(original), "exactly as it was"
    assert "There is no result [99]" in shown[11]
    assert code(2) in shown[12]
    assert [tool["ok"] for tool in ran.state["tools"] if tool["tool"] == "recall"] == [True, False, True]


async def test_recall_in_json_mode_is_offered_after_a_swap(docs: Path) -> None:
    steps = {9: ("recall", {"ticket": 4, "query": "inventory mark"})}
    with FakeOpenAI(LongSession(turns=12, steps=steps)) as server:
        ran = await run(graph_of(server, docs, mode="json"), compression="barrier")
        first = ran.state["swaps"][0]["turn"]
        assert first <= 9
        for chat in thinks(server):
            turn = chat.body["vllm_xargs"]["agent_turn"]
            assert ("recall" in offered(chat)) is (turn >= first and turn != 10), "not twice in a row"
        assert code(2) in str(thinks(server)[10].body["messages"][-1]["content"])
        assert all("recall" not in str(chat.body["messages"][0]) for chat in thinks(server))


async def test_recall_by_the_wrong_number_brings_the_right_result_too(docs: Path) -> None:
    steps = {9: ("recall", {"ticket": 5, "query": "inventory mark of the easternmost, Zanzibar"})}
    with FakeOpenAI(LongSession(turns=11, steps=steps)) as server:
        ran = await run(graph_of(server, docs, mode="native"), compression="barrier")
        shown = str(thinks(server)[10].body["messages"][-1]["content"])
    assert ran.state["swaps"][0]["turn"] <= 9
    assert fact(3) in shown
    assert code(2) in shown


async def test_recall_of_a_result_that_was_never_shown(docs: Path) -> None:
    steps = {
        1: ("web_search", {"queries": ["Lamp0005", "Lamp0006", "Lamp0007"]}),
        2: ("recall", {"ticket": 4}),
        3: ("crawl", {"sources": [4], "urls": []}),
    }
    knobs = {"search_filter": "lexical", "search_keep": 1, "compression": "barrier"}
    with FakeOpenAI(LongSession(turns=5, steps=steps)) as server:
        await run(graph_of(server, docs, mode="native"), **knobs)
        results = {turn: str(thinks(server)[turn].body["messages"][-1]["content"]) for turn in (2, 3, 4)}
    assert re.search(r"Left out; search for a title to see it: .*\[4\] Lamp000", results[2])
    assert "There is no distilled result [4]" in results[3]
    assert re.search(r"\[4\] Lamp000\d: .*QX-000\d-Z", results[4], re.DOTALL)


async def _asks_again(docs: Path, **knobs: Any) -> tuple[Ran, dict[int, str]]:
    """Search in turns 7 and 8 for what document 2 told, and in turn 9 for what its notes tell; return what each brought."""
    about = "inventory mark of the easternmost, Zanzibar"
    steps = {turn: ("web_search", {"queries": [about]}) for turn in (7, 8)}
    steps[9] = ("web_search", {"queries": ["In which year was Zanzibar, the easternmost, lit?"]})
    with FakeOpenAI(LongSession(turns=13, steps=steps)) as server:
        ran = await run(graph_of(server, docs, mode="native"), **{"compression": "barrier", **knobs})
        check_extends(thinks(server))
    assert ran.state["swaps"][0]["turn"] <= 7
    results = {
        chat.body["vllm_xargs"]["agent_turn"] - 1: str(chat.body["messages"][-1]["content"])
        for chat in thinks(server)
    }
    return ran, results


async def test_a_search_for_what_the_notes_leave_out_brings_the_original_back(docs: Path) -> None:
    ran, results = await _asks_again(docs)
    (number,) = re.findall(r"\[(\d+)\] Zanzibar: .*QX-0002-Z", results[7])
    assert PROMPTS["en"].known_in_notes not in results[7], "not both the text and where it is"
    assert code(2) not in results[8], "it is still there"
    assert code(2) not in results[9], "the notes tell the year"
    (event,) = ran.of("recall")
    assert (event["ticket"], event["turn"], event["agent"]) == (number, 7, "seeker-1")


@pytest.mark.parametrize("knobs", [{"auto_recall": False}, {"recall": False}])
async def test_nothing_is_brought_back_if_it_must_not_be(docs: Path, knobs: dict[str, Any]) -> None:
    ran, results = await _asks_again(docs, **knobs)
    assert PROMPTS["en"].known_in_notes in results[7]
    assert code(2) not in results[7]
    assert ran.of("recall") == []


# Many hours

HOURS: dict[str, Any] = {
    "compression": "barrier",
    "max_turns": 210,
    "max_small_tokens": 100_000_000,
    "max_seconds": 100_000.0,
    "max_reasoning_tokens": 1500,
    "notes_tokens": 400,
}


def check_bounded(ran: Ran) -> None:
    """Check that contexts stay as long as they were, that old steps go, and that it was compressed all along."""
    sizes = {call["turn"]: call["prompt_tokens"] for call in ran.calls("think")}
    assert len(sizes) >= 200
    assert len(ran.state["swaps"]) >= 10
    highest = [max(sizes[turn] for turn in range(start, start + 50)) for start in (50, 100, 150)]
    assert max(highest) <= 1.1 * min(highest)
    ends = [swap["tokens_after"] for swap in ran.state["swaps"]]
    assert max(ends[-5:]) <= 1.2 * max(ends[len(ends) // 4 : len(ends) // 2])


@pytest.mark.slow
async def test_200_rounds_and_the_answer_is_in_the_notes(tmp_path: Path) -> None:
    docs = write_lamps(tmp_path / "docs", 200, filler=4)

    def answer(turn: int, request: dict[str, Any]) -> Reply | None:
        if turn < 200:
            return None
        text = "\n".join(str(message["content"]) for message in request["messages"])
        found = re.search(r"\[4\] (Zanzibar, the easternmost, was lit in \d+)", text)
        said = found[1] if found else "I cannot tell"
        return step(request, turn, "finish", {"answer": said, "sources": [4]})

    with FakeOpenAI(LongSession(turns=999, on_think=answer)) as server:
        ran = await run(graph_of(server, docs), **HOURS)
        last = thinks(server)[-1]
        assert "1502" in ran.answer
        assert ran.state["findings"][0]["complete"]
        check_bounded(ran)
        assert "alpha2 " not in last.text, "the oldest steps are folded"
        assert re.search(r"Left out above: \d+ earlier steps. They searched for: Lamp0000", last.text)
        assert fact(2) not in last.text.partition(NOTES)[0], "only the notes still tell it"
        check_extends(thinks(server))
        check_tickets(ran)


async def test_200_rounds_and_the_answer_is_recalled(tmp_path: Path) -> None:
    docs = write_lamps(tmp_path / "docs", 200, filler=4, twins=True)

    def answer(turn: int, request: dict[str, Any]) -> Reply | None:
        last = str(request["messages"][-1]["content"])
        text = "\n".join(str(message["content"]) for message in request["messages"])
        if turn < 200:
            return None
        if turn == 200:
            found = re.search(r"\[(\d+)\] Zanzibar, the easternmost", text)
            assert found is not None
            assert code(2) not in text
            return step(
                request, turn, "recall", {"ticket": int(found[1]), "query": "inventory mark of Zanzibar"}
            )
        found = re.search(r"inventory mark is (QX-\d+-Z)", last)
        said = found[1] if found else "I cannot tell"
        return step(request, turn, "finish", {"answer": said, "sources": [4]})

    knobs = {**HOURS, "search_filter": "lexical", "search_keep": 1, "results_per_query": 2, "max_turns": 260}
    with FakeOpenAI(LongSession(turns=999, on_think=answer)) as server:
        ran = await run(graph_of(server, docs, mode="native"), **knobs)
        assert code(2) in ran.answer
        assert ran.state["findings"][0]["complete"]
        assert sum(record["pruned"] for record in ran.state["filters"]) >= 200
        check_bounded(ran)
        (heading, *_) = re.findall(rf"{NOTES} (.*?):", superseding(server)[-1].text)
        assert re.fullmatch(r"\[1\]-\[\d{3}\]", heading)
