"""The compression of an agent's context right before its model call, where nothing else is in flight.

The cycle of `agentinfer_lg.compression` does the work. Here stands what it must know of an agent of LangChain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from langchain.agents.middleware.types import ModelRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.store.base import BaseStore

from agentinfer_lg.compression.background import BackgroundTasks
from agentinfer_lg.compression.cycle import Cycle, CycleOptions, Material, Prefill, Written
from agentinfer_lg.compression.distill import Distilled, distill
from agentinfer_lg.compression.distillate import Distillate
from agentinfer_lg.compression.lacking import lacking
from agentinfer_lg.compression.notes_store import NotesStore
from agentinfer_lg.compression.originals import Original, join_originals, recalled
from agentinfer_lg.compression.policy import covered, shared_tokens
from agentinfer_lg.compression.steps import stub_in
from agentinfer_lg.compression.view import Compaction, Round, compressed_view, message_tokens, split_rounds
from agentinfer_lg.context import CompressionMode
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.middleware.distiller import Distiller
from agentinfer_lg.middleware.recall import number_of, result_ids, with_recalled
from agentinfer_lg.middleware.requests import CallRole, base_url, hinted, limited
from agentinfer_lg.middleware.servers import Hints, Servers
from agentinfer_lg.middleware.session import text_of
from agentinfer_lg.prompts import PROMPTS, Prompts
from agentinfer_lg.text import clip, detect_language

_QUERIES = 6
_QUESTION_TOKENS = 300
_TITLE_TOKENS = 30
_NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Options of `DistillationMiddleware`."""

    compression: CompressionMode
    compress_after_tokens: int
    keep_rounds: int
    notes_tokens: int
    prewarm: bool
    recall: bool
    auto_recall: bool
    max_observation_tokens: int
    distill_seconds: float
    max_turns: int | None
    hints: Hints


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the calls of one middleware have in common."""

    knobs: Knobs
    distiller: BaseChatModel | None
    background: BackgroundTasks
    servers: Servers
    spare: BaseStore


class Boundary:
    """One look at the compression of one agent; the cycle sees the agent through it (`cycle.Agent`).

    Args:
        request: The model call, with the messages as other middleware wants them.
        shared: Knobs, background tasks and what is known of servers.
        store: Where results are kept; None keeps them in this process.
        prewarm: Makes a model call in the background.
    """

    def __init__(
        self,
        request: ModelRequest[Any],
        shared: Shared,
        store: BaseStore | None,
        prewarm: Callable[[ModelRequest[Any]], Awaitable[object]],
    ) -> None:
        state = request.state
        self.update: dict[str, Any] | None = None
        self._request, self._shared, self._knobs = request, shared, shared.knobs
        self._call = prewarm
        self._memory: dict[str, Any] = dict(state.get("agentinfer_distillation") or {})
        self._session = state.get("agentinfer_session") or "agent"
        self._results = result_ids(state["messages"], self._memory.get("results") or [])
        self._events: list[dict[str, Any]] = []
        self._supersedes = False
        self.messages: list[AnyMessage] = [_plain(message) for message in request.messages]
        self.turn = sum(isinstance(message, AIMessage) for message in state["messages"])
        self.last_turn = self._knobs.max_turns or _NO_LIMIT
        asked = [text_of(message) for message in self.messages if isinstance(message, HumanMessage)]
        self.question = clip(asked[-1], tokens=_QUESTION_TOKENS) if asked else ""
        # The first call of an agent that an earlier version saved counts as no switch.
        self.switches: bool = self._memory.get("place", self.place) != self.place
        self._cycle = Cycle(
            self,
            self._memory,
            options=_options(self._knobs, request.model),
            store=NotesStore(store, shared.spare, ("agentinfer", "notes", self._session)),
            tasks=shared.background,
            owner=self._session,
        )

    async def step(self, role: CallRole) -> ModelRequest[Any]:
        """Do what is to be done for compression; return the request with what the model is to see."""
        if role == "think":
            self._memory["results"] = self._results
            if self._knobs.compression != "off":
                await self._cycle.step()
                await self._recall()
                self._note_place()
            self.update = self._memory
        return await self._seen(role)

    def stream(self) -> None:
        """Stream what happened."""
        for event in self._events:
            self._request.runtime.stream_writer(event)

    @property
    def place(self) -> str:
        """See `cycle.Agent`."""
        model = self._request.model
        where = f"{base_url(model)}-{getattr(model, 'model_name', '')}"
        digest = sha256(where.encode(errors="replace"))  # it is saved, and an address may hold a password
        return digest.hexdigest()[:12]

    @property
    def hidden(self) -> bool:
        """See `cycle.Agent`; every model of an agent sees the same context."""
        return False

    def context_tokens(self, compaction: Compaction | None) -> int:
        """Return what the server counted, and an estimate of what came after."""
        new = 0
        for message in reversed(self.messages):
            if isinstance(message, AIMessage):
                if message.usage_metadata is not None:
                    return message.usage_metadata["total_tokens"] + new
                break
            new += message_tokens([message])
        system = self._request.system_message
        start = 0 if system is None else message_tokens([_plain(system)])
        return start + message_tokens(self.view(compaction))

    def view(self, compaction: Compaction | None) -> list[AnyMessage]:
        """See `cycle.Agent`."""
        return self._view(self.messages, compaction)

    def write(
        self, material: Material, fresh: Distillate, earlier: Distillate, before: Compaction | None
    ) -> Written:
        """See `cycle.Agent`; steps are never left out, for what people said stands between them."""
        notes = fresh.after(earlier, queries=_queries(material), tokens=self._knobs.notes_tokens)
        return Written(notes, notes.text(_prompts(material.question), recall=self._knobs.recall))

    async def distill(self, material: Material) -> Distilled:
        """See `cycle.Agent`."""
        model = self._shared.distiller or self._request.model
        profile = await self._shared.servers.profile(model)
        hints = await self._shared.servers.wants_hints(model, self._knobs.hints)
        return await distill(
            Distiller(model, profile, session=self._session, turn=self.turn, hints=hints),
            _prompts(material.question),
            self._originals(material.rounds),
            _queries(material),
            tier="small",
            window=profile.max_model_len if profile else None,
            seconds=self._knobs.distill_seconds,
            detail_tokens=self._knobs.notes_tokens // 4 if self._knobs.recall else 0,
        )

    async def prefill(self, compaction: Compaction) -> Prefill:
        """Call the model with the prompt of the next step as it would be after a compaction."""
        count, began = len(self.messages), time.monotonic()
        request = self._request.override(messages=self._view(self._request.messages, compaction))
        if await self._shared.servers.wants_hints(request.model, self._knobs.hints):
            hints = SessionHints(session_id=self._session, turn=self.turn, role="prewarm", output_tokens=1)
            request = hinted(request, hints, await self._shared.servers.profile(request.model))
        try:
            async with asyncio.timeout(self._knobs.distill_seconds):
                answer = await self._call(limited(request, 1))
        except Exception:  # the next step meets the same server, and says what is wrong
            return Prefill(count)
        seconds = time.monotonic() - began
        return Prefill(count, tokens=_prefilled(answer) or self._fresh_tokens(compaction), seconds=seconds)

    def _fresh_tokens(self, compaction: Compaction) -> int:
        """Estimate what a compaction would have prefilled, where a server does not tell."""
        views = self.view(self._cycle.compaction), self.view(compaction)
        return max(1, message_tokens(views[1]) - shared_tokens(*views))

    def tell(self, event: str, **values: object) -> None:
        """See `cycle.Agent`."""
        self._events.append({"agent": "agent", "turn": self.turn, "event": event, **values})

    async def _seen(self, role: CallRole) -> ModelRequest[Any]:
        compaction = self._cycle.compaction
        request = self._request.override(messages=self._view(self._request.messages, compaction))
        if not await self._shared.servers.wants_hints(request.model, self._knobs.hints):
            return request
        hints = SessionHints(session_id=self._session, turn=self.turn, role=role, supersedes=self._supersedes)
        return hinted(request, hints, await self._shared.servers.profile(request.model))

    def _view(self, messages: Sequence[AnyMessage], compaction: Compaction | None) -> list[AnyMessage]:
        # The language of the notes: a question in another language must not change what is cached.
        stub = stub_in(_prompts(compaction["text"] if compaction else ""))
        view = compressed_view(messages, compaction, stub=stub, numbers=self._numbers)
        return with_recalled(view, self._recalled(messages, compaction))

    def _recalled(self, messages: Sequence[AnyMessage], compaction: Compaction | None) -> dict[str, Any]:
        """Return what was brought back after the compaction; what came back before is dropped with it."""
        upto = compaction["upto"] if compaction else None
        start = next((at for at, message in enumerate(messages) if upto and message.id == upto), 0)
        again: dict[str, Any] = self._memory.get("recalled") or {}
        return {key: again[key] for message in messages[start:] if (key := str(message.id)) in again}

    def _numbers(self, message: ToolMessage) -> list[int]:
        number = number_of(message, self._results)
        return [] if number is None else [number]

    async def _recall(self) -> None:
        """Bring back the distilled result that the newest message of the user needs and the notes leave out."""
        last, compaction = self.messages[-1], self._cycle.compaction
        wanted = self._knobs.auto_recall and self._knobs.recall
        if not (wanted and compaction and isinstance(last, HumanMessage)):
            return
        rounds = split_rounds(self.messages)
        done = covered(self.messages, compaction["upto"])
        notes = Distillate.from_json(self._memory.get("notes") or {})
        hidden = [each for each in self._originals(rounds[:done]) if each.number in notes.numbers]
        whole = [text_of(result) for round_ in rounds[done:] for result in round_.results]
        known = self._recalled(self.messages, compaction)
        again = [str(each["text"]) for each in known.values()]
        visible = "\n".join([notes.text(_prompts(self.question), recall=False), *whole, *again])
        found = await asyncio.to_thread(lacking, hidden, visible, [self.question])
        if found is None:
            return
        original, _ = found
        text = recalled([original.text], self.question, tokens=self._knobs.max_observation_tokens // 2)
        brought = {"number": original.number, "query": self.question, "text": text}
        self._memory["recalled"] = {**known, str(last.id): brought}
        self.tell("recall", ticket=str(original.number), text=self.question)

    def _note_place(self) -> None:
        """Note who thinks now, and whether its server is told that what it has cached of the old context is dead."""
        compaction, place = self._cycle.compaction, self.place
        self._memory["place"] = place
        if compaction is None:
            return
        seen: dict[str, Any] = self._memory.get("seen") or {}
        places: list[str] = seen.get("places", []) if seen.get("ticket") == compaction["ticket"] else []
        self._supersedes = place not in places
        self._memory["seen"] = {"ticket": compaction["ticket"], "places": sorted({*places, place})}

    def _originals(self, rounds: Sequence[Round]) -> list[Original]:
        titles = self._titles()
        found = [
            Original(number, titles.get(number, ""), text_of(result))
            for round_ in rounds
            for result in round_.results
            if (number := number_of(result, self._results)) is not None and text_of(result).strip()
        ]
        return join_originals(found)

    def _titles(self) -> dict[int, str]:
        """Return what was called for each result; a result that was recalled keeps its title."""
        titles: dict[int, str] = {}
        for round_ in split_rounds(self.messages):
            calls = {call["id"]: call for call in round_.step.tool_calls}
            for result in round_.results:
                number, call = number_of(result, self._results), calls.get(result.tool_call_id)
                if number is not None and call is not None:
                    title = f"{call['name']} {_arguments(call['args'])}"
                    titles.setdefault(number, clip(title, tokens=_TITLE_TOKENS))
        return titles


def _queries(material: Material) -> list[str]:
    """Return the question, then what tools were asked for, latest first."""
    asked = [
        clip(_arguments(call["args"]), tokens=_TITLE_TOKENS)
        for round_ in reversed(material.rounds)
        for call in round_.step.tool_calls
    ]
    return [material.question, *list(dict.fromkeys(filter(None, asked)))[:_QUERIES]]


def _prompts(text: str) -> Prompts:
    return PROMPTS[detect_language(text)]


def _options(knobs: Knobs, model: BaseChatModel) -> CycleOptions:
    return CycleOptions(
        after_tokens=knobs.compress_after_tokens,
        keep_rounds=knobs.keep_rounds,
        waits=knobs.compression == "barrier",
        prewarm=knobs.prewarm and bool(base_url(model)),
    )


def _prefilled(answer: object) -> int | None:
    """Return the prompt tokens that no cache had, where the answer tells its usage."""
    message = next(iter(getattr(answer, "result", ())), None)
    usage = getattr(message, "usage_metadata", None)
    if not usage:
        return None
    cached = (usage.get("input_token_details") or {}).get("cache_read") or 0
    return max(1, int(usage["input_tokens"]) - int(cached))


def _plain(message: Any) -> Any:
    """Return the message with its text alone."""
    return (
        message
        if isinstance(message.content, str)
        else message.model_copy(update={"content": text_of(message)})
    )


def _arguments(arguments: Any) -> str:
    values = arguments.values() if isinstance(arguments, dict) else [arguments]
    return " ".join(str(value) for value in values)
