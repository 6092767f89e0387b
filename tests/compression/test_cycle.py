"""The cycle of compression on an agent made of plain data: both the graph and the middleware are put to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.store.base import BaseStore, Op
from langgraph.store.memory import InMemoryStore

from agentinfer_lg.compression.background import BackgroundTasks
from agentinfer_lg.compression.cycle import (
    Cycle,
    CycleOptions,
    Material,
    Memory,
    Prefill,
    Written,
    as_result,
)
from agentinfer_lg.compression.distill import Distilled
from agentinfer_lg.compression.distillate import Distillate, Fact
from agentinfer_lg.compression.notes_store import NotesStore
from agentinfer_lg.compression.view import Compaction, compressed_view, message_tokens

SPACE = ("agentinfer", "notes", "s")
LONG = "Ada Winter lit the lamp of Heron Point in 1871 and kept it for forty years. " * 12


def transcript(rounds: int) -> list[AnyMessage]:
    messages: list[AnyMessage] = [HumanMessage("Who lit it?", id="question")]
    for n in range(rounds):
        call = {"name": "look_up", "args": {"topic": f"t{n}"}, "id": f"c{n}"}
        messages.append(AIMessage("I look.", id=f"step-{n}", tool_calls=[call]))
        messages.append(ToolMessage(f"[{n + 1}] {LONG}", id=f"result-{n}", tool_call_id=f"c{n}"))
    return messages


@dataclass
class PlainAgent:
    """An agent whose models are values."""

    messages: list[AnyMessage]
    turn: int
    question: str = "Who lit it?"
    last_turn: int = 1000
    place: str = "small"
    switches: bool = False
    hidden: bool = False
    notes: str = "Ada Winter lit it."
    failing: int = 0
    """Distillations that fail."""
    prefill_gate: asyncio.Event | None = None
    distilled: int = 0
    asked: list[str] = field(default_factory=list)
    prefilled: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def context_tokens(self, compaction: Compaction | None) -> int:
        return message_tokens(self.view(compaction))

    def view(self, compaction: Compaction | None) -> list[AnyMessage]:
        return compressed_view(self.messages, compaction, stub=lambda numbers: f"{numbers} in the notes")

    def write(
        self, material: Material, fresh: Distillate, earlier: Distillate, before: Compaction | None
    ) -> Written:
        self.asked.append(material.question)
        return Written(fresh, "\n".join(fact.text for fact in (*earlier.facts, *fresh.facts)))

    async def distill(self, material: Material) -> Distilled:
        self.asked.append(material.question)
        self.distilled += 1
        if self.failing:
            self.failing -= 1
            raise RuntimeError("no model")
        return Distilled(Distillate(facts=(Fact(1, self.notes),)))

    async def prefill(self, compaction: Compaction) -> Prefill:
        count = len(self.messages)
        if self.prefill_gate is not None:
            await self.prefill_gate.wait()
        self.prefilled.append(count)
        return Prefill(count, tokens=100)

    def tell(self, event: str, **values: object) -> None:
        self.events.append({"event": event, **values})

    def told(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


@dataclass
class Session:
    """An agent that goes on, look by look, as its state would be saved and loaded."""

    store: BaseStore | None = None
    waits: bool = True
    prewarm: bool = False
    memory: Memory = field(default_factory=dict)
    tasks: BackgroundTasks = field(default_factory=BackgroundTasks)
    spare: InMemoryStore = field(default_factory=InMemoryStore)

    def cycle(self, agent: PlainAgent) -> Cycle:
        return Cycle(
            agent,
            dict(self.memory),
            options=CycleOptions(after_tokens=500, keep_rounds=1, waits=self.waits, prewarm=self.prewarm),
            store=NotesStore(self.store, self.spare, SPACE),
            tasks=self.tasks,
            owner="s",
        )

    async def look(self, agent: PlainAgent) -> Cycle:
        cycle = self.cycle(agent)
        await cycle.step()
        self.memory = dict(cycle.memory)
        return cycle


class Forgetful(InMemoryStore):
    """Takes what it is given, and returns nothing."""

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        return [None for _ in ops]


async def nothing() -> None:
    raise AssertionError("this task runs already")


async def until_done(session: Session) -> None:
    for task in list(session.tasks._tasks.values()):
        await asyncio.wait({task})


async def test_a_job_is_opened_distilled_and_takes_effect() -> None:
    session, agent = Session(), PlainAgent(transcript(4), turn=4)
    cycle = await session.look(agent)
    assert cycle.compacted is not None
    assert cycle.compacted.tokens_after < cycle.compacted.tokens_before
    assert session.memory["swap"]["text"] == agent.notes
    assert [each["event"] for each in agent.events] == ["distill_start", "distill_end", "swap"]


async def test_no_look_waits_for_a_distillation() -> None:
    session = Session(waits=False)
    first = await session.look(PlainAgent(transcript(4), turn=4))
    assert first.compacted is None
    assert session.memory["ticket"]["turn"] == 4
    await until_done(session)
    second = await session.look(PlainAgent(transcript(5), turn=5))
    assert second.compacted is not None
    assert second.compacted.lag == 1


@pytest.mark.parametrize("waits", [True, False], ids=["barrier", "background"])
async def test_a_store_that_forgets_is_no_reason_to_forget(waits: bool) -> None:
    """The graph recovered at the second look; the middleware waited for ever. Neither of them said anything."""
    session = Session(store=Forgetful(), waits=waits)
    agent = PlainAgent(transcript(4), turn=4)
    cycle = await session.look(agent)
    if not waits:
        await until_done(session)
        agent = replace(agent, turn=5)
        cycle = await session.look(agent)
    assert cycle.compacted is not None
    assert agent.distilled == 1
    assert "does not keep notes" in agent.told("warning")[0]["text"]


async def test_the_calls_of_a_job_count_even_if_the_store_forgot_it_before_the_end() -> None:
    session = Session(store=Forgetful(), waits=False)
    await session.look(PlainAgent(transcript(4), turn=4))
    await until_done(session)
    agent = PlainAgent(transcript(5), turn=5)
    await session.cycle(agent).settle()
    assert agent.told("distill_end")[0]["ok"]


async def test_notes_that_would_not_pay_are_thought_of_again_after_a_while() -> None:
    """The graph gave up for ever; the middleware waited for four turns."""
    session, agent = Session(), PlainAgent(transcript(4), turn=4, notes=LONG * 4)
    await session.look(agent)
    assert [(each["ok"], each["cause"]) for each in agent.told("swap")] == [(False, "it would not pay")]
    assert session.memory["not_before"] == 8
    early = PlainAgent(transcript(7), turn=7)
    await session.look(early)
    assert early.events == []
    late = await session.look(PlainAgent(transcript(8), turn=8))
    assert late.compacted is not None


async def test_the_same_notes_are_not_weighed_twice() -> None:
    """Their calls would be counted twice: the store has their result."""
    idle: list[AnyMessage] = [AIMessage("I think.", id=f"idle-{n}") for n in range(4)]
    session = Session(store=InMemoryStore())
    await session.look(PlainAgent([*transcript(3), idle[0]], turn=4, notes=LONG * 4))
    assert session.memory["not_before"] == 8
    later = PlainAgent([*transcript(3), *idle], turn=8)
    cycle = await session.look(later)
    assert (later.events, cycle.calls) == ([], [])


async def test_patience_ends_if_the_count_of_turns_has_gone_back() -> None:
    """Other middleware takes messages out of a transcript, and their turns with them."""
    session = Session(memory={"ticket": None, "not_before": 80})
    assert (await session.look(PlainAgent(transcript(4), turn=4))).compacted is not None


async def test_a_run_that_an_earlier_version_gave_up_is_compressed_again() -> None:
    session = Session(memory={"ticket": None, "given_up": True})
    assert (await session.look(PlainAgent(transcript(4), turn=4))).compacted is not None


async def test_a_job_whose_rounds_are_gone_is_dropped() -> None:
    """The middleware dropped it; the graph would have distilled nothing."""
    session = Session(waits=False)
    await session.look(PlainAgent(transcript(4), turn=4))
    job = session.memory["ticket"]["id"]
    others = [message.model_copy(update={"id": f"new-{message.id}"}) for message in transcript(1)]
    agent = PlainAgent(others, turn=5)
    await session.look(agent)
    assert session.memory["ticket"] is None
    assert job not in str(agent.events)


@pytest.mark.parametrize(
    "found",
    [
        {"notes": {}},
        {"notes": {}, "removed": 0, "failure": "", "seconds": 1, "calls": [{"turn": "x"}]},
        {"a": 1},
    ],
)
async def test_something_else_in_the_store_is_told_and_made_again(found: dict[str, Any]) -> None:
    """The graph checked every value; the middleware took anything that had notes."""
    assert as_result(found) is None
    store = InMemoryStore()
    session = Session(store=store, waits=False)
    await session.look(PlainAgent(transcript(4), turn=4))
    await until_done(session)
    name = session.memory["ticket"]["id"]
    await store.aput(SPACE, name, found)
    other = Session(store=store, memory=session.memory)
    agent = PlainAgent(transcript(4), turn=4)
    assert (await other.look(agent)).compacted is not None
    assert name in agent.told("warning")[0]["text"]
    assert agent.distilled == 1


async def test_a_store_that_fails_is_told() -> None:
    """The graph told it; the middleware did not."""

    class Broken(InMemoryStore):
        async def abatch(self, ops: Iterable[Op]) -> list[Any]:
            raise OSError("disk full")

    agent = PlainAgent(transcript(4), turn=4)
    assert (await Session(store=Broken()).look(agent)).compacted is not None
    assert "disk full" in agent.told("warning")[0]["text"]


async def test_a_distillation_that_breaks_is_tried_again() -> None:
    session, agent = Session(), PlainAgent(transcript(4), turn=4, failing=1)
    assert (await session.look(agent)).compacted is None
    assert (await session.look(replace(agent, turn=5))).compacted is not None


async def test_what_several_rounds_brought_is_prefilled_before_the_context_changes() -> None:
    """The graph prefilled the rest; the middleware left it to the next step."""
    session = Session(waits=False, prewarm=True)
    await session.look(PlainAgent(transcript(4), turn=4))
    await until_done(session)
    gate = asyncio.Event()
    later = PlainAgent(transcript(7), turn=7, prefill_gate=gate)
    assert (await session.look(later)).compacted is None, "the rest is being prefilled"
    gate.set()
    await until_done(session)
    assert later.prefilled == [len(transcript(7))]
    assert (await session.look(PlainAgent(transcript(7), turn=8))).compacted is not None


async def test_another_model_has_neither_prefix_so_nothing_is_prefilled_for_it() -> None:
    """The graph knew of the switch; the middleware prefilled at the new model and waited."""
    session = Session(waits=False, prewarm=True)
    gate = asyncio.Event()
    await session.look(PlainAgent(transcript(4), turn=4, prefill_gate=gate))
    await asyncio.wait({session.tasks.ensure("s", session.memory["ticket"]["id"], nothing)})
    switched = PlainAgent(transcript(5), turn=5, place="large", switches=True)
    assert (await session.look(switched)).compacted is not None
    assert switched.prefilled == []
    await session.tasks.cancel("s")


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_model_that_comes_back_finds_its_new_context_prefilled(hidden: bool) -> None:
    """A job that is opened at a switch ends after it; only a model that sees another context needs no prefill."""
    session = Session(waits=False, prewarm=True)
    agent = PlainAgent(transcript(4), turn=4, switches=True, hidden=hidden)
    await session.look(agent)
    await until_done(session)
    assert agent.prefilled == ([] if hidden else [len(transcript(4))])


async def test_nothing_is_prefilled_for_a_model_that_sees_another_context() -> None:
    session = Session(prewarm=True)
    agent = PlainAgent(transcript(4), turn=4, hidden=True)
    assert (await session.look(agent)).compacted is not None
    assert agent.prefilled == []


async def test_a_barrier_waits_for_all_of_the_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentinfer_lg.compression.cycle._GRACE_SECONDS", 0.0)
    session = Session(waits=False, prewarm=True)
    await session.look(PlainAgent(transcript(4), turn=4))
    await until_done(session)
    session.waits = True
    gate = asyncio.Event()
    look = asyncio.create_task(session.look(PlainAgent(transcript(7), turn=7, prefill_gate=gate)))
    for _ in range(20):  # all that does not wait has come to its end
        await asyncio.sleep(0)
    gate.set()
    assert (await look).compacted is not None


async def test_notes_answer_what_was_asked_when_their_job_was_opened() -> None:
    """In the middleware a new question changed the notes after their prefill."""
    session = Session(waits=False, prewarm=True)
    agent = PlainAgent(transcript(4), turn=4)
    await session.look(agent)
    await until_done(session)
    later = PlainAgent(transcript(5), turn=5, question="And who put it out?")
    await session.look(later)
    assert agent.asked
    assert later.asked
    assert set(agent.asked + later.asked) == {"Who lit it?"}


async def test_a_job_of_an_earlier_version_goes_on() -> None:
    session = Session(waits=False)
    await session.look(PlainAgent(transcript(4), turn=4))
    await until_done(session)
    del session.memory["ticket"]["question"]
    agent = PlainAgent(transcript(5), turn=5)
    assert (await session.look(agent)).compacted is not None
    assert agent.asked == ["Who lit it?"]


async def test_a_call_that_fails_does_not_stop_a_distillation() -> None:
    """The state does not have the job then, and the next look opens it again."""
    session = Session(waits=False)
    agent = PlainAgent(transcript(4), turn=4)
    await session.look(agent)
    session.memory = {}
    await session.look(agent)
    await until_done(session)
    assert agent.distilled == 1


@pytest.mark.parametrize("turns", [1, 2], ids=["next", "skipped"])
async def test_what_the_last_compaction_needed_is_forgotten(turns: int) -> None:
    """The middleware forgot it, if no turn was skipped; a server of the graph kept it for ever."""
    session = Session()
    await session.look(PlainAgent(transcript(4), turn=4))
    assert session.spare.search(SPACE)
    await session.look(PlainAgent(transcript(4), turn=4 + turns))
    assert not session.spare.search(SPACE)
    assert not session.tasks._tasks


async def test_a_compaction_whose_message_is_gone_is_in_force_no_more() -> None:
    session = Session()
    await session.look(PlainAgent(transcript(4), turn=4))
    others = [message.model_copy(update={"id": f"new-{message.id}"}) for message in transcript(4)]
    cycle = session.cycle(PlainAgent(others, turn=9))
    assert cycle.compaction is None
    await cycle.step()
    assert cycle.compacted is not None


@pytest.mark.parametrize("done", [True, False])
async def test_settling_gives_an_open_job_up_and_says_so(done: bool) -> None:
    session = Session(waits=False)
    await session.look(PlainAgent(transcript(4), turn=4))
    if done:
        await until_done(session)
    agent = PlainAgent(transcript(5), turn=5)
    cycle = session.cycle(agent)
    await cycle.settle()
    assert cycle.memory["ticket"] is None
    assert agent.told("distill_end")[0]["ok"] is done
    assert agent.told("swap")[0]["cause"] == "the agent ended first"


@pytest.mark.parametrize("waits", [True, False], ids=["compacted", "open"])
async def test_settling_leaves_nothing_in_this_process(waits: bool) -> None:
    session = Session(store=InMemoryStore(), waits=waits)
    await session.look(PlainAgent(transcript(4), turn=4))
    await until_done(session)
    assert session.spare.search(SPACE)
    await session.cycle(PlainAgent(transcript(5), turn=5)).settle()
    assert not session.spare.search(SPACE)
    assert not session.tasks._tasks


async def test_notes_that_would_not_pay_leave_nothing_in_this_process() -> None:
    session = Session(store=InMemoryStore())
    await session.look(PlainAgent(transcript(4), turn=4, notes=LONG * 4))
    await session.look(PlainAgent(transcript(4), turn=5))
    assert not session.spare.search(SPACE)
    assert not session.tasks._tasks


async def test_settling_without_a_job_says_nothing() -> None:
    agent = PlainAgent(transcript(1), turn=1)
    await Session().cycle(agent).settle()
    assert agent.events == []
