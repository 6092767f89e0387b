"""Context compression in the graph, against a scripted endpoint: what the model sees, when, and what it costs."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_openai import FakeOpenAI, Reply, render_prompt
from langchain_core.runnables import RunnableConfig
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from long_session import (
    NOTES,
    QUESTION,
    LongSession,
    check_extends,
    fact,
    superseding,
    thinks,
    write_lamps,
)

from agentinfer_lg import Context, EndpointSettings, Settings, create_deep_research_graph

THREAD: RunnableConfig = {"configurable": {"thread_id": "lamps"}}
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


async def run(graph: Any, given: Any = None, config: Any = THREAD, **knobs: Any) -> Ran:
    """Run to the end and keep the events."""
    ran = Ran()
    stream = graph.astream(
        given or {"question": QUESTION},
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

    def distil(request: dict[str, Any]) -> Reply:
        begun.append(request["vllm_xargs"]["agent_turn"])
        return Reply(text=f"[3] {fact(2)}\n", hold="" if len(begun) > 1 else "distiller")

    def go_on(turn: int, request: dict[str, Any]) -> None:
        if begun and turn >= begun[0] + 4:
            server.release("distiller")

    brain = LongSession(turns=0, after_notes=3, distil=distil, on_think=go_on)
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
        ran = await run(graph_of(server, docs, mode=mode), policy="agentcollab", compression="barrier")
        assert ran.state["swaps"]
        own = [chat for chat in server.chats if chat.role in ("think", "progress")]
        steps = {chat.body["vllm_xargs"]["agent_turn"]: chat for chat in own if chat.role == "think"}
        checks = [chat for chat in own if chat.role == "progress"]
        assert len(checks) == len(steps) - 1, "the answer is not checked"
        for check in checks:
            step = steps[check.body["vllm_xargs"]["agent_turn"]]
            prefix = step.body["messages"]
            assert check.model == step.model
            assert check.body["messages"][: len(prefix)] == prefix
            assert check.body.get("tools") == step.body.get("tools")
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
    brain = LongSession(turns=0, after_notes=1, distil=lambda _: Reply(hold="never"))
    with FakeOpenAI(brain) as server:
        ran = await run(graph_of(server, docs), distill_seconds=0.2)
        assert fact(2) in ran.answer
        ended = ran.of("distill_end")[0]
        assert not ended["ok"]
        assert "did not distil within" in ended["text"]
        first = ran.state["swaps"][0]
        assert first["failure"] == ended["text"]
        notes = superseding(server)[0].text
    assert fact(2) in notes, "its own words stand in"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(text="!!! ### ???"),
        Reply(text="[3] Zanzibar was lit in 1999 by nobody.\n[99] A number that does not exist.\n"),
        Reply(text=""),
        Reply(raw="not json"),
        Reply(raw='{"choices": []}'),
        Reply(raw=json.dumps({"choices": [{"message": {"content": "\ud800 \x00 [3] \x00"}}]})),
    ],
)
async def test_a_distiller_that_writes_nonsense(docs: Path, reply: Reply) -> None:
    with FakeOpenAI(LongSession(turns=10, distil=lambda _: reply)) as server:
        ran = await run(graph_of(server, docs), compression="barrier")
        assert fact(2) in ran.answer
        assert all(not event["ok"] and event["text"] for event in ran.of("distill_end"))
        notes = superseding(server)[0].text
    assert fact(2) in notes
    assert "1999" not in notes


async def test_a_distiller_slower_than_the_run(docs: Path) -> None:
    with FakeOpenAI(LongSession(turns=12, distil=lambda _: Reply(hold="never"))) as server:
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
    with FakeOpenAI(LongSession(turns=10, distil=lambda _: Reply(hold="never"))) as server:
        graph = graph_of(server, docs)
        for _ in range(2):  # the same graph, a loop of its own each time
            ran = asyncio.run(run(graph))
            assert fact(2) in ran.answer


async def test_a_distiller_whose_context_is_exceeded(docs: Path) -> None:
    def distil(request: dict[str, Any]) -> Reply:
        found = set(re.findall(r"^\[(\d+)\]", render_prompt(request), re.MULTILINE))
        if len(found) > 1:
            message = "This model's maximum context length is 512 tokens. However, you requested more."
            return Reply(status=400, text=message)
        return Reply(text=f"[{found.pop()}] It was lit by the keeper of the oil store.\n")

    with FakeOpenAI(LongSession(turns=10, distil=distil)) as server:
        ran = await run(graph_of(server, docs), compression="barrier")
        assert ran.state["swaps"]
        assert all(event["ok"] for event in ran.of("distill_end")), "it is asked again with less"
        assert len(ran.calls("distill")) > len(ran.state["swaps"])


async def test_a_distiller_whose_context_is_too_small_for_anything(docs: Path) -> None:
    message = "This model's maximum context length is 16 tokens. However, you requested more."
    brain = LongSession(turns=10, distil=lambda _: Reply(status=400, text=message))
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
    ("broken", "said"), [("get", "the disk is gone"), ("put", "stay in memory"), ("forgets", "")]
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
        assert bool(warnings) is bool(said)


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
