"""Compress: at the end of a round, start a distillation, or swap in one that is ready (Algorithm 2).

Nothing here waits for a distillation unless the mode is `barrier`. A distillation is a ticket in the state, its result is in
the store under the ticket's content address, and a swap is one value in the state: whatever is killed at any point is
found or made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AnyMessage
from langgraph.store.base import BaseStore

from agentinfer_lg.compression.distill import distill
from agentinfer_lg.compression.distillate import Distillate
from agentinfer_lg.compression.notes_store import Shelf
from agentinfer_lg.compression.policy import (
    Ticket,
    covered,
    expected_turns,
    pays,
    shared_tokens,
    ticket_id,
    to_distill,
)
from agentinfer_lg.compression.steps import fold, originals_in, searched
from agentinfer_lg.compression.view import (
    Round,
    Swap,
    compressed_view,
    latest_tokens,
    message_tokens,
    split_rounds,
)
from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.events import emit
from agentinfer_lg.llm.calling import seeker_caller, session_name
from agentinfer_lg.llm.transcript import write_transcript
from agentinfer_lg.nodes.seeker.budget import seconds_left
from agentinfer_lg.nodes.seeker.handover import rescue_in_force, rescue_numbers
from agentinfer_lg.prompts import PROMPTS, Prompts
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import CallRecord, SeekerState, SwapRecord

_NOTES_SHARE = 0.3
"""Length that notes are expected to have, as a share of the results, before they are written."""
_GRACE_SECONDS = 1.0
_QUERIES = 6
_LATEST = 10
"""Results that can be recalled although the notes do not name them: the latest ones."""
_SPACE = ("agentinfer", "notes")
_RESULT: dict[str, type | tuple[type, ...]] = {
    "notes": dict,
    "removed": int,
    "failure": str,
    "seconds": (int, float),
    "calls": list,
}
_UNREADABLE = "The store has something else under {ticket}: these results are distilled again."
_COUNTS = ("turn", "prompt_tokens", "cached_tokens", "output_tokens", "seconds", "reprefill_tokens")

_Prewarm = asyncio.Task[tuple[int, CallRecord | None]]


def seeker_view(state: SeekerState, context: Context) -> list[AnyMessage]:
    """Return the seeker's transcript as its model is to see it."""
    swap = rescue_in_force(state, context) or _swap(state, context)
    return _view(state["messages"], swap, context, PROMPTS[state["language"]])


def supersedes(state: SeekerState, context: Context, tier: Tier) -> bool:
    """Whether the next Think step of `tier` is its first one since a swap: what its server has cached is then dead."""
    swap = rescue_in_force(state, context) or _swap(state, context)
    return swap is not None and not any(
        call["role"] == "think" and call["tier"] == tier and call["turn"] >= swap["turn"]
        for call in state.get("calls", [])
    )


def hidden_numbers(state: SeekerState, context: Context) -> set[int]:
    """Return the numbers of the results whose text the model no longer sees."""
    if rescue := rescue_in_force(state, context):
        return rescue_numbers(state, rescue)
    return set(_notes(state).numbers) if _swap(state, context) else set()


def visible_results(state: SeekerState, context: Context) -> str:
    """Return what the model sees of results: the notes and the results that are whole.

    Without the strings that the notes merely list for recall, for nothing says what they are.
    """
    rescue, messages = rescue_in_force(state, context), state["messages"]
    swap = rescue or _swap(state, context)
    rounds = split_rounds(messages)[covered(messages, swap["upto"]) if swap else 0 :]
    notes = _notes(state).text(PROMPTS[state["language"]], recall=False) if swap else ""
    notes = rescue["text"] if rescue else notes
    return "\n".join([notes, *(str(result.content) for round_ in rounds for result in round_.results)])


def recallable_numbers(state: SeekerState) -> tuple[int, ...]:
    """Return the numbers that a small model may choose from: those that the notes name, and the latest hidden ones."""
    notes = _notes(state)
    named = {fact.number for fact in (*notes.facts, *notes.details)}
    return tuple(sorted(named | set(sorted(notes.numbers)[-_LATEST:])))


async def compress(
    state: SeekerState,
    context: Context,
    resources: Resources,
    store: BaseStore | None,
    *,
    tier: Tier,
    turn: int,
    rescued: bool = False,
) -> dict[str, Any]:
    """Do what is to be done for compression between two rounds, and return the change of the state.

    Args:
        state: At the end of a round.
        context: Knobs of the run.
        resources: Models and background jobs.
        store: Where results are kept; None keeps them in this process, and they are made again after a crash.
        tier: Which model thinks next.
        turn: The next turn.
        rescued: Whether it sees what a rescue shows, and not this context.
    """
    if context.compression == "off":
        return {}
    return await _Compression(state, context, resources, store, tier, turn, rescued).step()


async def settle(state: SeekerState, resources: Resources, store: BaseStore | None) -> dict[str, Any]:
    """End what still goes on for compression once no round follows, and return the change of the state.

    A job that is stopped can be done again; an open ticket is given up, and an event says so.
    """
    agent = state["task"]["id"]
    session = session_name(state["run_id"], agent)
    await resources.jobs.cancel(session)
    memory: dict[str, Any] = state.get("compression", {})  # Any: JSON, see `SeekerState`
    ticket: Ticket | None = memory.get("ticket")
    if ticket is None:
        return {}
    turn, name = state.get("turn", 0), ticket["id"]
    result = _as_result(await Shelf(store, resources.store, (*_SPACE, session)).get(name))
    calls: list[CallRecord] = []
    if not ticket["noticed"]:
        calls = result["calls"] if result else []
        failure = result["failure"] if result else "the agent ended before it was distilled"
        values = {"seconds": result["seconds"], "removed": result["removed"]} if result else {}
        emit("distill_end", agent, turn=turn, ticket=name, ok=not failure, text=failure, **values)
    emit("swap", agent, turn=turn, ticket=name, ok=False, cause="the agent ended first")
    return {"compression": {**memory, "ticket": None}, "calls": calls}


class _Compression:
    """One look at the state of compression of one seeker."""

    def __init__(
        self,
        state: SeekerState,
        context: Context,
        resources: Resources,
        store: BaseStore | None,
        tier: Tier,
        turn: int,
        rescued: bool,
    ) -> None:
        self._state, self._context, self._resources = state, context, resources
        self._tier, self._turn, self._rescued = tier, turn, rescued
        self._agent = state["task"]["id"]
        self._session = session_name(state["run_id"], self._agent)
        self._shelf = Shelf(store, resources.store, (*_SPACE, self._session))
        self._prompts = PROMPTS[state["language"]]
        self._messages = state["messages"]
        self._swap = _swap(state, context)
        self._memory: dict[str, Any] = dict(state.get("compression", {}))  # Any: JSON, see `SeekerState`
        self._waits = context.compression == "barrier"
        self._calls: list[CallRecord] = []
        self._swaps: list[SwapRecord] = []

    async def step(self) -> dict[str, Any]:
        ticket: Ticket | None = self._memory.get("ticket")
        if ticket is None:
            ticket = self._open()
        if ticket is None:
            return {}
        self._memory["ticket"] = ticket
        result = await self._result(ticket)
        if result is not None:
            ticket = self._memory["ticket"] = self._noticed(ticket, result)
            await self._swap_in(ticket, result)
        return {"compression": self._memory, "calls": self._calls, "swaps": self._swaps}

    def _open(self) -> Ticket | None:
        """Return a ticket for what is to be distilled next, if anything is and it would pay."""
        size = self._context_tokens()
        if size <= self._context.compress_after_tokens or self._memory.get("given_up"):
            return None
        rounds = to_distill(
            self._messages,
            done=self._done(),
            keep_rounds=self._context.keep_rounds,
            context_tokens=size,
        )
        results = message_tokens([result for round_ in rounds for result in round_.results])
        turns = expected_turns(self._turn, limit=self._state["budget"]["turns"])
        saved = int((1.0 - _NOTES_SHARE) * results)
        if not rounds or not pays(saved=saved, prefill=max(0, size - results), turns=turns):
            return None
        earlier = self._swap["ticket"] if self._swap else ""
        name = ticket_id(self._state["task"]["question"], earlier, rounds)
        emit("distill_start", self._agent, turn=self._turn, ticket=name, tokens_before=results)
        return Ticket(id=name, upto=rounds[-1].last_id, turn=self._turn, noticed=False)

    def _context_tokens(self) -> int:
        """Length of the next prompt: what the server counted, and an estimate of what came after."""
        call = self._last_think()
        if call is None or rescue_in_force(self._state, self._context):  # that call was of another context
            return message_tokens(self._view(self._swap))
        return call["prompt_tokens"] + call["output_tokens"] + latest_tokens(self._messages)

    def _done(self) -> int:
        return covered(self._messages, self._swap["upto"]) if self._swap else 0

    def _rounds(self, ticket: Ticket) -> list[Round]:
        return split_rounds(self._messages)[self._done() : covered(self._messages, ticket["upto"])]

    async def _result(self, ticket: Ticket) -> dict[str, Any] | None:
        """Return what the store has for a ticket; if that is nothing, see to it that it is being made."""
        found = await self._shelf.get(ticket["id"])
        if (result := _as_result(found)) is not None:
            return result
        if found is not None and not self._resources.jobs.running(self._session, ticket["id"]):
            emit("warning", self._agent, turn=self._turn, text=_UNREADABLE.format(ticket=ticket["id"]))
        job = self._resources.jobs.ensure(self._session, ticket["id"], lambda: self._distill(ticket))
        if self._waits:
            await asyncio.wait({job})
        if not job.done() or job.cancelled() or job.exception() is not None:
            return None
        # A store that loses what it was given is no reason to lose it too.
        made: dict[str, Any] = job.result()
        return made

    async def _distill(self, ticket: Ticket) -> dict[str, Any]:
        originals = originals_in(self._rounds(ticket))
        tier: Tier = "large" if self._context.policy == "always-large" else "small"
        distilled = await distill(
            seeker_caller(self._state, self._context, self._resources),
            self._prompts,
            originals,
            self._queries(ticket),
            tier=tier,
            window=self._resources.models.tier(tier).max_model_len,
            seconds=self._context.distill_seconds,
            summary=self._context.notes,
            detail_tokens=self._context.notes_tokens // 4 if self._context.recall else 0,
        )
        made = distilled.to_json()
        await self._shelf.put(ticket["id"], made)
        if self._context.prewarm and not self._rescued and not (self._waits and self._switches()):
            _, swap = self._write(ticket, distilled.notes)
            self._start_prewarm(ticket, self._view(swap))
        return made

    def _queries(self, ticket: Ticket) -> list[str]:
        """The task, then what was searched up to the ticket, latest first: notes must not depend on when they are swapped in."""
        queries = [query for round_ in reversed(self._rounds(ticket)) for query in searched([round_.step])]
        return [self._state["task"]["question"], *queries[:_QUERIES]]

    def _noticed(self, ticket: Ticket, result: dict[str, Any]) -> Ticket:
        if ticket["noticed"]:
            return ticket
        self._calls.extend(result["calls"])
        emit(
            "distill_end",
            self._agent,
            turn=self._turn,
            ticket=ticket["id"],
            seconds=result["seconds"],
            removed=result["removed"],
            ok=not result["failure"],
            text=result["failure"],
        )
        if self._shelf.problem:
            emit("warning", self._agent, turn=self._turn, text=self._shelf.problem)
        return {**ticket, "noticed": True}

    async def _swap_in(self, ticket: Ticket, result: dict[str, Any]) -> None:
        """Swap the notes in, if that pays, once the new prefix is warm."""
        notes, swap = self._write(ticket, Distillate.from_json(result["notes"]))
        before, after = self._view(self._swap), self._view(swap)
        swap = {**swap, "tokens_before": message_tokens(before), "tokens_after": message_tokens(after)}
        prefill = swap["tokens_after"] - shared_tokens(before, after)
        turns = expected_turns(self._turn, limit=self._state["budget"]["turns"])
        if not pays(saved=swap["tokens_before"] - swap["tokens_after"], prefill=prefill, turns=turns):
            self._memory |= {"ticket": None, "given_up": True}
            emit(
                "swap", self._agent, turn=self._turn, ticket=ticket["id"], ok=False, cause="it would not pay"
            )
            return
        if not await self._is_warm(ticket, after):
            return
        self._memory |= {"ticket": None, "swap": swap, "notes": notes.to_json()}
        record = SwapRecord(
            agent=self._agent,
            turn=self._turn,
            ticket=ticket["id"],
            lag=self._turn - ticket["turn"],
            tokens_before=swap["tokens_before"],
            tokens_after=swap["tokens_after"],
            removed=result["removed"],
            failure=result["failure"],
        )
        self._swaps.append(record)
        emit("swap", ok=True, **record)

    def _write(self, ticket: Ticket, fresh: Distillate) -> tuple[Distillate, Swap]:
        rounds = self._rounds(ticket)
        dead_ends = [
            self._prompts.nothing_found.format(queries=query)
            for round_ in rounds
            if any(self._prompts.no_results in str(result.content) for result in round_.results)
            for query in searched([round_.step])
        ]
        earlier = _notes(self._state)
        found = replace(fresh, dead_ends=(*fresh.dead_ends, *dead_ends))
        notes = found.after(earlier, queries=self._queries(ticket), tokens=self._context.notes_tokens)
        text = notes.text(self._prompts, recall=self._context.recall)
        all_rounds = split_rounds(self._messages)[: covered(self._messages, ticket["upto"])]
        before = self._swap["folded"] if self._swap else ""
        folded, left_out = fold(
            all_rounds, self._prompts, folded=before, limit=self._context.max_reasoning_tokens
        )
        swap = Swap(
            ticket=ticket["id"],
            upto=ticket["upto"],
            folded=folded,
            text="\n".join(filter(None, [text, left_out])),
            turn=self._turn,
            tokens_before=0,
            tokens_after=0,
        )
        return notes, swap

    def _view(self, swap: Swap | None) -> list[AnyMessage]:
        return _view(self._messages, swap, self._context, self._prompts)

    async def _is_warm(self, ticket: Ticket, view: Sequence[AnyMessage]) -> bool:
        """Whether the server has the new prefix in its cache; if not, see to it that it will have.

        The bulk is prefilled while the agent goes on, and so is what several rounds have brought since. Only the results of
        the round that has just ended are prefilled here: the next step would have to do it anyway, with either context. A
        swap that turns out to be cold is put off instead of paid for.
        """
        if not self._context.prewarm or self._switches():
            return True
        count = len(self._messages)
        ahead = self._start_prewarm(ticket, view, part=ticket.get("warming", ""))
        if self._waits:
            await asyncio.wait({ahead})
        if not ahead.done():
            return False
        warmed, record = ahead.result() if not ahead.cancelled() and not ahead.exception() else (count, None)
        self._calls += _records(ahead)
        if warmed < count:
            part = f"-{count}"
            rest = self._start_prewarm(ticket, view, part=part)
            await asyncio.wait({rest}, timeout=self._patience(self._messages[warmed:], record))
            if not rest.done():
                self._memory["ticket"] = {**ticket, "warming": part}
                return False
            self._calls += _records(rest)
        return True

    def _patience(self, rest: Sequence[AnyMessage], record: CallRecord | None) -> float:
        """Seconds to wait for the prefill of what came after the one in `record`: twice what that one lets expect."""
        if len(split_rounds(rest)) > 1 and not self._waits:
            return 0.0
        if record is None:
            return _GRACE_SECONDS
        prefilled = max(1, record["prompt_tokens"] - record["cached_tokens"])
        share = min(1.0, 2.0 * message_tokens(rest) / prefilled)
        return record["seconds"] * share + _GRACE_SECONDS

    def _switches(self) -> bool:
        """Whether another model thinks next: it has neither the old prefix nor the new one.

        On a rescue it will never see either.
        """
        if self._rescued:
            return True
        last = self._last_think()
        return last is not None and last["tier"] != self._tier

    def _last_think(self) -> CallRecord | None:
        return next((call for call in reversed(self._state["calls"]) if call["role"] == "think"), None)

    def _start_prewarm(self, ticket: Ticket, view: Sequence[AnyMessage], *, part: str = "") -> _Prewarm:
        count = len(self._messages)
        return self._resources.jobs.ensure(
            self._session, f"warm-{ticket['id']}-{self._tier}{part}", lambda: self._prewarm(view, count)
        )

    async def _prewarm(self, view: Sequence[AnyMessage], count: int) -> tuple[int, CallRecord | None]:
        """Prefill the prompt of a Think step that would follow now, and return how many messages that were."""
        model = self._resources.models.tier(self._tier)
        mode = "json" if self._state["modes"].get(self._tier) == "json" else model.tool_mode
        transcript = write_transcript(
            view, mode=mode, prompts=self._prompts, question=self._state["task"]["question"]
        )
        try:
            called = await seeker_caller(self._state, self._context, self._resources).call(
                self._tier,
                transcript,
                role="prewarm",
                max_tokens=1,
                native_tools="auto" if mode == "native" else None,
                timeout=seconds_left(self._state),
                fallback=False,
            )
        except EndpointError:  # the next Think step meets the same endpoint, and says so
            return count, None
        return count, called.record


def _swap(state: SeekerState, context: Context) -> Swap | None:
    """Return the swap in force; a branch of a run that does without compression sees the originals again."""
    swap: Swap | None = state.get("compression", {}).get("swap")
    return None if context.compression == "off" else swap


def _notes(state: SeekerState) -> Distillate:
    return Distillate.from_json(state.get("compression", {}).get("notes") or {})


def _view(
    messages: Sequence[AnyMessage], swap: Swap | None, context: Context, prompts: Prompts
) -> list[AnyMessage]:
    def stub(numbers: list[int]) -> str:
        return prompts.in_notes.format(numbers=" ".join(f"[{number}]" for number in numbers)).strip()

    return compressed_view(messages, swap, stub=stub, reasoning=context.keep_reasoning)


def _records(task: _Prewarm) -> list[CallRecord]:
    record = None if task.cancelled() or task.exception() else task.result()[1]
    return [] if record is None else [record]


def _as_result(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what the store has if it is what a distillation puts there: others may write to a store too."""
    if found is None or not all(isinstance(found.get(name), kind) for name, kind in _RESULT.items()):
        return None
    return found if all(map(_is_call, found["calls"])) else None


def _is_call(call: object) -> bool:
    return (
        isinstance(call, dict)
        and set(CallRecord.__annotations__) <= set(call)
        and all(isinstance(call[name], int | float) for name in _COUNTS)
    )
