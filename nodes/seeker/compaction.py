"""The compression of a seeker's context: what its model sees, and the cycle of `agentinfer_lg.compression` put to work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AnyMessage
from langgraph.store.base import BaseStore

from agentinfer_lg.compression.cycle import Compacted, Cycle, CycleOptions, Material, Prefill, Written
from agentinfer_lg.compression.distill import Distilled, distill
from agentinfer_lg.compression.distillate import Distillate
from agentinfer_lg.compression.notes_store import NotesStore
from agentinfer_lg.compression.policy import covered
from agentinfer_lg.compression.steps import fold, originals_in, searched, stub_in
from agentinfer_lg.compression.view import (
    Compaction,
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
from agentinfer_lg.nodes.seeker.handover import handover_in_force, handover_numbers
from agentinfer_lg.prompts import PROMPTS, Prompts
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import CallRecord, CompactionRecord, SeekerState

_QUERIES = 6
_LATEST = 10
"""Results that can be recalled although the notes do not name them: the latest ones."""
_SPACE = ("agentinfer", "notes")


def seeker_view(state: SeekerState, context: Context) -> list[AnyMessage]:
    """Return the seeker's transcript as its model is to see it."""
    shown = handover_in_force(state, context) or _compaction(state, context)
    return _view(state["messages"], shown, context, PROMPTS[state["language"]])


def supersedes(state: SeekerState, context: Context, tier: Tier) -> bool:
    """Whether the next step of `tier` is its first one since a compaction: what its server has cached is then dead."""
    shown = handover_in_force(state, context) or _compaction(state, context)
    return shown is not None and not any(
        call["role"] == "think" and call["tier"] == tier and call["turn"] >= shown["turn"]
        for call in state.get("calls", [])
    )


def hidden_numbers(state: SeekerState, context: Context) -> set[int]:
    """Return the numbers of the results whose text the model no longer sees."""
    if handover := handover_in_force(state, context):
        return handover_numbers(state, handover)
    return set(_notes(state).numbers) if _compaction(state, context) else set()


def visible_results(state: SeekerState, context: Context) -> str:
    """Return what the model sees of results: the notes and the results that are whole.

    Strings that the notes merely list for recall are left out, for nothing says what they are.
    """
    handover, messages = handover_in_force(state, context), state["messages"]
    shown = handover or _compaction(state, context)
    rounds = split_rounds(messages)[covered(messages, shown["upto"]) if shown else 0 :]
    notes = _notes(state).text(PROMPTS[state["language"]], recall=False) if shown else ""
    notes = handover["text"] if handover else notes
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
        resources: Models and background tasks.
        store: Where results are kept; None keeps them in this process, and they are made again after a crash.
        tier: Which model thinks next.
        turn: The next turn.
        rescued: Whether it sees a handover, and not this context.
    """
    if context.compression == "off":
        return {}
    agent = _Seeker(state, context, resources, tier=tier, turn=turn, rescued=rescued)
    cycle = _cycle(agent, state, context, resources, store)
    before = dict(cycle.memory)
    await cycle.step()
    if cycle.memory == before and not cycle.calls:
        return {}
    records = [_record(agent, cycle.compacted)] if cycle.compacted else []
    return {"compression": cycle.memory, "calls": cycle.calls, "swaps": records}


async def settle(
    state: SeekerState, context: Context, resources: Resources, store: BaseStore | None
) -> dict[str, Any]:
    """End what still goes on for compression once no round follows, and return the change of the state."""
    turn = state.get("turn", 0)
    agent = _Seeker(state, context, resources, tier=state.get("tier", "small"), turn=turn, rescued=False)
    cycle = _cycle(agent, state, context, resources, store)
    open_before = cycle.memory.get("ticket")
    await cycle.settle()
    return {} if open_before is None else {"compression": cycle.memory, "calls": cycle.calls}


class _Seeker:
    """A seeker as the cycle sees it; see `cycle.Agent`."""

    def __init__(
        self,
        state: SeekerState,
        context: Context,
        resources: Resources,
        *,
        tier: Tier,
        turn: int,
        rescued: bool,
    ) -> None:
        self._state, self._context, self._resources = state, context, resources
        self._tier: Tier = tier
        self._rescued = rescued
        self._prompts = PROMPTS[state["language"]]
        self.name = state["task"]["id"]
        self.messages: Sequence[AnyMessage] = state["messages"]
        self.question = state["task"]["question"]
        self.turn = turn
        self.last_turn = state["budget"]["turns"]

    @property
    def place(self) -> str:
        return self._tier

    @property
    def switches(self) -> bool:
        last = self._last_think()
        return last is not None and last["tier"] != self._tier

    @property
    def hidden(self) -> bool:
        return self._rescued

    def context_tokens(self, compaction: Compaction | None) -> int:
        """What the server counted, and an estimate of what came after."""
        call = self._last_think()
        if call is None or handover_in_force(self._state, self._context):  # that call was of another context
            return message_tokens(self.view(compaction))
        return call["prompt_tokens"] + call["output_tokens"] + latest_tokens(self.messages)

    def view(self, compaction: Compaction | None) -> list[AnyMessage]:
        return _view(self.messages, compaction, self._context, self._prompts)

    def write(
        self, material: Material, fresh: Distillate, earlier: Distillate, before: Compaction | None
    ) -> Written:
        rounds = material.rounds
        dead_ends = [
            self._prompts.nothing_found.format(queries=query)
            for round_ in rounds
            if any(self._prompts.no_results in str(result.content) for result in round_.results)
            for query in searched([round_.step])
        ]
        found = replace(fresh, dead_ends=(*fresh.dead_ends, *dead_ends))
        tokens = self._context.notes_tokens
        notes = found.after(earlier, queries=_queries(material), tokens=tokens)
        folded, left_out = fold(
            split_rounds(self.messages)[: covered(self.messages, rounds[-1].last_id)],
            self._prompts,
            folded=before["folded"] if before else "",
            limit=self._context.max_reasoning_tokens,
        )
        text = notes.text(self._prompts, recall=self._context.recall)
        return Written(notes, "\n".join(filter(None, [text, left_out])), folded)

    async def distill(self, material: Material) -> Distilled:
        tier: Tier = "large" if self._context.policy == "always-large" else "small"
        return await distill(
            seeker_caller(self._state, self._context, self._resources),
            self._prompts,
            originals_in(material.rounds),
            _queries(material),
            tier=tier,
            window=self._resources.models.tier(tier).max_model_len,
            seconds=self._context.distill_seconds,
            summary=self._context.notes,
            detail_tokens=self._context.notes_tokens // 4 if self._context.recall else 0,
        )

    async def prefill(self, compaction: Compaction) -> Prefill:
        count = len(self.messages)
        model = self._resources.models.tier(self._tier)
        mode = "json" if self._state["modes"].get(self._tier) == "json" else model.tool_mode
        view = self.view(compaction)
        transcript = write_transcript(view, mode=mode, prompts=self._prompts, question=self.question)
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
        except EndpointError:  # the next step meets the same endpoint, and says so
            return Prefill(count)
        record = called.record
        fresh = max(1, record["prompt_tokens"] - record["cached_tokens"])
        return Prefill(count, tokens=fresh, seconds=record["seconds"], calls=(record,))

    def tell(self, event: str, **values: object) -> None:
        emit(event, self.name, turn=self.turn, **values)  # type: ignore[arg-type]  # names of the cycle

    def _last_think(self) -> CallRecord | None:
        return next((call for call in reversed(self._state["calls"]) if call["role"] == "think"), None)


def _queries(material: Material) -> list[str]:
    """Return the task, then what was searched, latest first."""
    queries = [query for round_ in reversed(material.rounds) for query in searched([round_.step])]
    return [material.question, *queries[:_QUERIES]]


def _cycle(
    agent: _Seeker, state: SeekerState, context: Context, resources: Resources, store: BaseStore | None
) -> Cycle:
    session = session_name(state["run_id"], agent.name)
    return Cycle(
        agent,
        dict(state.get("compression", {})),
        options=CycleOptions(
            after_tokens=context.compress_after_tokens,
            keep_rounds=context.keep_rounds,
            waits=context.compression == "barrier",
            prewarm=context.prewarm,
        ),
        store=NotesStore(store, resources.store, (*_SPACE, session)),
        tasks=resources.background,
        owner=session,
    )


def _record(agent: _Seeker, compacted: Compacted) -> CompactionRecord:
    return CompactionRecord(
        agent=agent.name,
        turn=agent.turn,
        ticket=compacted.ticket,
        lag=compacted.lag,
        tokens_before=compacted.tokens_before,
        tokens_after=compacted.tokens_after,
        removed=compacted.removed,
        failure=compacted.failure,
    )


def _compaction(state: SeekerState, context: Context) -> Compaction | None:
    """Return the compaction in force; a branch of a run that does without compression sees the originals again."""
    found: Compaction | None = state.get("compression", {}).get("swap")
    return None if context.compression == "off" else found


def _notes(state: SeekerState) -> Distillate:
    return Distillate.from_json(state.get("compression", {}).get("notes") or {})


def _view(
    messages: Sequence[AnyMessage], compaction: Compaction | None, context: Context, prompts: Prompts
) -> list[AnyMessage]:
    return compressed_view(messages, compaction, stub=stub_in(prompts), reasoning=context.keep_reasoning)
