"""The cycle of compression: open a job, have it distilled, and let its notes take the place of results (Algorithm 2).

One engine for the graph and for the middleware. A cycle is one look at one agent between two of its model calls, where
nothing else is in flight. Nothing here waits for a distillation unless the options say so.

A job is a value in the agent's saved state. Its result is in the notes store under the job's content address. A compaction is
one value in the state. Whatever is killed at any point is therefore found or made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from langchain_core.messages import AnyMessage

from agentinfer_lg.compression.background import BackgroundTasks
from agentinfer_lg.compression.distill import Distilled
from agentinfer_lg.compression.distillate import Distillate
from agentinfer_lg.compression.notes_store import NotesStore
from agentinfer_lg.compression.policy import (
    Job,
    covered,
    expected_turns,
    job_id,
    pays,
    shared_tokens,
    to_distill,
)
from agentinfer_lg.compression.view import Compaction, Round, message_tokens, split_rounds
from agentinfer_lg.state import CallRecord

_NOTES_SHARE = 0.3
"""Length that notes are expected to have, as a share of the results, before they are written."""
_GRACE_SECONDS = 1.0
_PATIENCE_TURNS = 4
"""Turns after which notes that would not have paid are thought of again."""
_RESULT: dict[str, type | tuple[type, ...]] = {
    "notes": dict,
    "removed": int,
    "failure": str,
    "seconds": (int, float),
    "calls": list,
}
_CALL_KEYS = {"agent", "role", "tier", "model"}
_COUNTS = ("turn", "prompt_tokens", "cached_tokens", "output_tokens", "seconds", "reprefill_tokens")

Memory = dict[str, Any]  # Any: JSON
"""What an agent's state keeps of compression.

`ticket` is the open job, `swap` the compaction in force, and `notes` its notes. `refused` names the last job whose notes would
not have paid, and `not_before` is the first turn after it at which a job may be opened. Saved runs hold these names.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleOptions:
    """How an agent's context is compressed."""

    after_tokens: int
    """Length of the context from which on results are distilled."""
    keep_rounds: int
    """Last rounds whose results stay whole."""
    waits: bool
    """Wait for each distillation and prefill, so that a run can be repeated."""
    prewarm: bool
    """Prefill the new context before the agent needs it."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a job makes notes on, and for which question."""

    rounds: Sequence[Round]
    question: str
    """What the agent worked on when the job was opened: notes must not depend on when they take effect."""


@dataclass(frozen=True, slots=True)
class Written:
    """Notes as a context holds them."""

    notes: Distillate
    text: str
    folded: str = ""
    """Id of the last message that is left out with its thoughts; empty: none is."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """What a prewarm has prefilled."""

    messages: int
    """How many messages the transcript had."""
    tokens: int | None = None
    """Prompt tokens that no cache had; None where the model did not answer."""
    seconds: float = 0.0
    calls: tuple[CallRecord, ...] = ()


class Agent(Protocol):
    """What the cycle knows of an agent, and does through it."""

    @property
    def messages(self) -> Sequence[AnyMessage]:
        """The whole transcript."""

    @property
    def question(self) -> str:
        """What the agent works on; a part of the content address of its jobs."""

    @property
    def turn(self) -> int:
        """Number of the next model call."""

    @property
    def last_turn(self) -> int:
        """The budget of turns."""

    @property
    def place(self) -> str:
        """Which model makes the next call."""

    @property
    def switches(self) -> bool:
        """Whether another model made the last call: it has the old prefix, and this one has neither."""

    @property
    def hidden(self) -> bool:
        """Whether the model that makes the next call sees another context instead of this one."""

    def context_tokens(self, compaction: Compaction | None) -> int:
        """Return the length of the next prompt."""

    def view(self, compaction: Compaction | None) -> list[AnyMessage]:
        """Return the transcript as the model sees it."""

    def write(
        self, material: Material, fresh: Distillate, earlier: Distillate, before: Compaction | None
    ) -> Written:
        """Join new notes to the earlier ones.

        Args:
            material: What the new notes stand for.
            fresh: The new notes.
            earlier: Those that are in force.
            before: The compaction in force.
        """

    async def distill(self, material: Material) -> Distilled:
        """Make notes on the results of a job."""

    async def prefill(self, compaction: Compaction) -> Prefill:
        """Prefill the prompt that the next model call would have after a compaction."""

    def tell(self, event: str, **values: object) -> None:
        """Stream an event."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """A compaction that has just taken effect; its event and its record have these names."""

    ticket: str
    """The job that made the notes."""
    lag: int
    """Turns between the opening of the job and now."""
    tokens_before: int
    tokens_after: int
    removed: int
    """Lines of the notes that no result bore out."""
    failure: str
    """Why sentences of the results stand in for notes; empty: they do not."""


class Cycle:
    """One look at the compression of one agent.

    Args:
        agent: The agent.
        memory: What its state keeps; changed by `step` and `settle`.
        options: How its context is compressed.
        store: Where results are kept.
        tasks: Where distillations and prefills go on.
        owner: Name of the agent's session.
    """

    def __init__(
        self,
        agent: Agent,
        memory: Memory,
        *,
        options: CycleOptions,
        store: NotesStore,
        tasks: BackgroundTasks,
        owner: str,
    ) -> None:
        self._agent, self._options = agent, options
        self._store, self._tasks, self._owner = store, tasks, owner
        self.memory = memory
        self.calls: list[CallRecord] = []
        """Model calls that ended since the last look."""
        self.compacted: Compacted | None = None
        """The compaction that this look brought."""

    @property
    def compaction(self) -> Compaction | None:
        """The compaction in force; one whose last message is gone is in force no more."""
        found: Compaction | None = self.memory.get("swap")
        return found if found is not None and covered(self._agent.messages, found["upto"]) else None

    async def step(self) -> None:
        """Open a job, look after the open one, or let its notes take effect."""
        job: Job | None = self.memory.get("ticket")
        if job is not None and not self._material(job).rounds:
            job = None  # somebody took away what it was about
            self.memory["ticket"] = None
        if job is None:
            await self._forget()
            job = self._open()
        if job is None:
            return
        self.memory["ticket"] = job
        result = await self._result(job)
        if result is not None:
            job = self.memory["ticket"] = self._noticed(job, result)
            await self._take_effect(job, result)

    async def settle(self) -> None:
        """End what still goes on, once no model call follows.

        A task that is stopped can be done again. An open job is given up, and an event says so.
        """
        await self._tasks.cancel(self._owner)
        job: Job | None = self.memory.get("ticket")
        if job is not None:
            if not job["noticed"]:
                result = as_result(await self._store.get(job["id"]))
                self._tell_end(job, result, failure="the agent ended before it was distilled")
            self._agent.tell("swap", ticket=job["id"], ok=False, cause="the agent ended first")
            self.memory["ticket"] = None
            await self._store.forget(job["id"])
        await self._forget()

    async def _forget(self) -> None:
        """Let go of what earlier jobs needed, once the state has their outcome: a server runs for months."""
        last: Compaction | None = self.memory.get("swap")
        for name in filter(None, (last and last["ticket"], self.memory.get("refused"))):
            await self._tasks.cancel(self._owner, about=name)
            await self._store.forget(name)

    def _open(self) -> Job | None:
        """Return a job for what is to be distilled next, if anything is and it would pay."""
        agent, before = self._agent, self.compaction
        size = agent.context_tokens(before)
        if size <= self._options.after_tokens or self._is_patient():
            return None
        rounds = to_distill(
            agent.messages, done=self._done(), keep_rounds=self._options.keep_rounds, context_tokens=size
        )
        results = message_tokens([result for round_ in rounds for result in round_.results])
        saved = int((1.0 - _NOTES_SHARE) * results)
        if not rounds or not pays(saved=saved, prefill=max(0, size - results), turns=self._turns_left()):
            return None
        name = job_id(agent.question, before["ticket"] if before else "", rounds)
        if name == self.memory.get("refused"):  # its calls have been counted
            return None
        agent.tell("distill_start", ticket=name, tokens_before=results)
        last = rounds[-1].last_id
        return Job(id=name, upto=last, turn=agent.turn, noticed=False, question=agent.question)

    def _is_patient(self) -> bool:
        """Whether notes would not have paid a short while ago.

        Other middleware takes messages away, so the count of turns may have gone back. That ends the wait.
        """
        not_before: int = self.memory.get("not_before", 0)
        return 0 < not_before - self._agent.turn <= _PATIENCE_TURNS

    def _turns_left(self) -> int:
        return expected_turns(self._agent.turn, limit=self._agent.last_turn)

    def _done(self) -> int:
        """Rounds that the compaction in force stands for."""
        before = self.compaction
        return covered(self._agent.messages, before["upto"]) if before else 0

    def _material(self, job: Job) -> Material:
        messages = self._agent.messages
        rounds = split_rounds(messages)[self._done() : covered(messages, job["upto"])]
        return Material(rounds, job.get("question", self._agent.question))

    async def _result(self, job: Job) -> dict[str, Any] | None:
        """Return the result of a job; if there is none yet, see to it that it is being made."""
        found = await self._store.get(job["id"])
        if (result := as_result(found)) is not None:
            return result
        if found is not None and not self._tasks.running(self._owner, job["id"]):
            sentence = f"The store has something else under {job['id']}: these results are distilled again."
            self._agent.tell("warning", text=sentence)
        task = self._tasks.ensure(self._owner, job["id"], lambda: self._distill(job))
        if self._options.waits:
            await asyncio.wait({task})
        if not task.done() or task.cancelled() or task.exception() is not None:
            return None
        made: dict[str, Any] = task.result()
        return (
            as_result(await self._store.get(job["id"])) or made
        )  # a second look tells if the store keeps it

    async def _distill(self, job: Job) -> dict[str, Any]:
        distilled = await self._agent.distill(self._material(job))
        made = distilled.to_json()
        await self._store.put(job["id"], made)
        at_once = (
            self._agent.switches and self._options.waits
        )  # the notes take effect where no prefix is warm
        if self._options.prewarm and not self._agent.hidden and not at_once:
            self._start_prefill(job, self._written(job, distilled.notes)[1])
        return made

    def _noticed(self, job: Job, result: Mapping[str, Any]) -> Job:
        """Tell the end of a distillation, once."""
        if job["noticed"]:
            return job
        self._tell_end(job, result)
        if self._store.problem:
            self._agent.tell("warning", text=self._store.problem)
        return {**job, "noticed": True}

    def _tell_end(self, job: Job, result: Mapping[str, Any] | None, *, failure: str = "") -> None:
        values: dict[str, object] = {}
        if result is not None:
            self.calls += result["calls"]
            failure = result["failure"]
            values = {"seconds": result["seconds"], "removed": result["removed"]}
        self._agent.tell("distill_end", ticket=job["id"], ok=not failure, text=failure, **values)

    async def _take_effect(self, job: Job, result: Mapping[str, Any]) -> None:
        """Let the notes take the place of the results, if that pays, once the new prefix is warm."""
        written, after = self._written(job, Distillate.from_json(result["notes"]))
        views = self._agent.view(self.compaction), self._agent.view(after)
        long, short = map(message_tokens, views)
        if not pays(saved=long - short, prefill=short - shared_tokens(*views), turns=self._turns_left()):
            self._refuse(job)
            return
        if not await self._is_warm(job, after):
            return
        after = {**after, "tokens_before": long, "tokens_after": short}
        self.memory |= {"ticket": None, "swap": after, "notes": written.notes.to_json()}
        self._tell_compaction(job, after, result)

    def _refuse(self, job: Job) -> None:
        """Leave the results as they are: the notes would not pay."""
        not_before = self._agent.turn + _PATIENCE_TURNS
        self.memory |= {"ticket": None, "refused": job["id"], "not_before": not_before}
        self._agent.tell("swap", ticket=job["id"], ok=False, cause="it would not pay")

    def _tell_compaction(self, job: Job, after: Compaction, result: Mapping[str, Any]) -> None:
        self.compacted = Compacted(
            ticket=job["id"],
            lag=self._agent.turn - job["turn"],
            tokens_before=after["tokens_before"],
            tokens_after=after["tokens_after"],
            removed=result["removed"],
            failure=result["failure"],
        )
        self._agent.tell("swap", ok=True, **asdict(self.compacted))

    def _written(self, job: Job, fresh: Distillate) -> tuple[Written, Compaction]:
        before = self.compaction
        earlier = Distillate.from_json(self.memory.get("notes") or {}) if before else Distillate()
        written = self._agent.write(self._material(job), fresh, earlier, before)
        compaction = Compaction(
            ticket=job["id"],
            upto=job["upto"],
            folded=written.folded,
            text=written.text,
            turn=self._agent.turn,
            tokens_before=0,
            tokens_after=0,
        )
        return written, compaction

    async def _is_warm(self, job: Job, after: Compaction) -> bool:
        """Whether the server has the new prefix in its cache; if not, see to it that it will have.

        The bulk is prefilled while the agent goes on, and so is what several rounds have brought since. Only the results of
        the round that has just ended are prefilled here: the next call would have to do it anyway, with either context. A
        compaction that turns out to be cold is put off instead of paid for.
        """
        if not self._options.prewarm or self._agent.switches or self._agent.hidden:
            return True
        count = len(self._agent.messages)
        ahead = self._start_prefill(job, after, part=job.get("warming", ""))
        if self._options.waits:
            await asyncio.wait({ahead})
        if not ahead.done():
            return False
        prefill = _outcome(ahead) or Prefill(count)
        self.calls += prefill.calls
        if prefill.messages < count:
            part = f"-{count}"
            rest = self._start_prefill(job, after, part=part)
            await asyncio.wait({rest}, timeout=self._patience(prefill))
            if not rest.done():
                self.memory["ticket"] = {**job, "warming": part}
                return False
            done = _outcome(rest)
            self.calls += done.calls if done else ()
        return True

    def _patience(self, prefill: Prefill) -> float | None:
        """Seconds to wait for the prefill of what came after an earlier one: twice what that one lets expect.

        None stands for no limit.
        """
        if self._options.waits:
            return None
        rest = self._agent.messages[prefill.messages :]
        if len(split_rounds(rest)) > 1:
            return 0.0
        if prefill.tokens is None:
            return _GRACE_SECONDS
        share = min(1.0, 2.0 * message_tokens(rest) / max(1, prefill.tokens))
        return prefill.seconds * share + _GRACE_SECONDS

    def _start_prefill(self, job: Job, after: Compaction, *, part: str = "") -> asyncio.Task[Any]:
        name = f"warm-{job['id']}-{self._agent.place}{part}"
        return self._tasks.ensure(self._owner, name, lambda: self._agent.prefill(after))


def as_result(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what the store has if it is what a distillation puts there: others may write to a store too."""
    if found is None or not all(isinstance(found.get(name), kind) for name, kind in _RESULT.items()):
        return None
    return found if all(map(_is_call, found["calls"])) else None


def _is_call(call: object) -> bool:
    return (
        isinstance(call, dict)
        and set(call) >= _CALL_KEYS
        and all(isinstance(call[name], int | float) for name in _COUNTS)
    )


def _outcome(task: asyncio.Task[Any]) -> Prefill | None:
    """Return what a task has prefilled; None if it failed."""
    if task.cancelled() or task.exception():
        return None
    prefill: Prefill = task.result()
    return prefill
