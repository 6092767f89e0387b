"""Boundary: what is done for compression right before a model call of an agent, where nothing else is in flight.

A distillation is a ticket in the state, its result is in the store under the ticket's content address, and a swap is one
value in the state: whatever is killed at any point is found or made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain.agents.middleware.types import ModelRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.store.base import BaseStore

from agentinfer_lg.compression.background import Jobs
from agentinfer_lg.compression.distill import distill
from agentinfer_lg.compression.distillate import Distillate
from agentinfer_lg.compression.lacking import lacking
from agentinfer_lg.compression.notes_store import Shelf
from agentinfer_lg.compression.originals import Original, join_originals, recalled
from agentinfer_lg.compression.policy import (
    Ticket,
    covered,
    expected_turns,
    pays,
    shared_tokens,
    ticket_id,
    to_distill,
)
from agentinfer_lg.compression.view import Round, Swap, compressed_view, message_tokens, split_rounds
from agentinfer_lg.context import CompressionMode
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.middleware.distiller import Distiller
from agentinfer_lg.middleware.recall import number_of, result_ids, with_recalled
from agentinfer_lg.middleware.requests import CallRole, base_url, hinted, limited
from agentinfer_lg.middleware.servers import Hints, Servers
from agentinfer_lg.middleware.session import text_of
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.text import clip, detect_language

_NOTES_SHARE = 0.3
"""Length that notes are expected to have, as a share of the results, before they are written."""
_QUERIES = 6
_QUESTION_TOKENS = 300
_TITLE_TOKENS = 30
_NO_LIMIT = 1_000_000
_PATIENCE = 4
"""Steps after which notes that would not have paid are thought of again."""


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
    jobs: Jobs
    servers: Servers
    spare: BaseStore


class Boundary:
    """One look at the state of compression of one agent.

    Args:
        request: The model call, with the messages as other middleware wants them.
        shared: Knobs, jobs and what is known of servers.
        store: Where results are kept; None keeps them in this process.
        prewarm: Makes a model call in the background; its answer is not looked at.
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
        self._shelf = Shelf(store, shared.spare, ("agentinfer", "notes", self._session))
        self._results = result_ids(state["messages"], self._memory.get("results") or [])
        self._messages = [_plain(message) for message in request.messages]
        self._turn = sum(isinstance(message, AIMessage) for message in state["messages"])
        asked = [text_of(message) for message in self._messages if isinstance(message, HumanMessage)]
        self._question = clip(asked[-1], tokens=_QUESTION_TOKENS) if asked else ""
        self._prompts = PROMPTS[detect_language(self._question)]
        self._swapped = False
        self._events: list[dict[str, Any]] = []

    @property
    def _swap(self) -> Swap | None:
        swap: Swap | None = self._memory.get("swap")
        return swap if swap is not None and covered(self._messages, swap["upto"]) else None

    async def step(self, role: CallRole) -> ModelRequest[Any]:
        """Open a ticket, look after one, or swap notes in; return the request with what the model is to see."""
        if role == "think":
            self._memory["results"] = self._results
            await self._forget()
            if self._knobs.compression != "off":
                await self._compress()
                await self._recall()
            self.update = self._memory
        return await self._seen(role)

    def tell(self) -> None:
        """Stream what happened."""
        for event in self._events:
            self._request.runtime.stream_writer({"agent": "agent", "turn": self._turn, **event})

    async def _seen(self, role: CallRole) -> ModelRequest[Any]:
        request = self._request.override(messages=self._view(self._request.messages, self._swap))
        if not await self._shared.servers.wants_hints(request.model, self._knobs.hints):
            return request
        hints = SessionHints(session_id=self._session, turn=self._turn, role=role, supersedes=self._swapped)
        return hinted(request, hints, await self._shared.servers.profile(request.model))

    def _view(self, messages: Sequence[AnyMessage], swap: Swap | None) -> list[AnyMessage]:
        def stub(numbers: list[int]) -> str:
            marks = " ".join(f"[{number}]" for number in numbers)
            return self._prompts.in_notes.format(numbers=marks).strip()

        view = compressed_view(messages, swap, stub=stub, numbers=self._numbers)
        again = self._recalled(messages, swap)
        return with_recalled(view, again)

    def _recalled(self, messages: Sequence[AnyMessage], swap: Swap | None) -> dict[str, Any]:
        """Return what was brought back after messages that came after the swap; what came before is dropped with it."""
        start = next((at for at, message in enumerate(messages) if swap and message.id == swap["upto"]), 0)
        again: dict[str, Any] = self._memory.get("recalled") or {}
        return {key: again[key] for message in messages[start:] if (key := str(message.id)) in again}

    def _numbers(self, message: ToolMessage) -> list[int]:
        number = number_of(message, self._results)
        return [] if number is None else [number]

    async def _forget(self) -> None:
        """Let go of what the last swap needed, once the state has it: a server runs for months."""
        swap = self._swap
        if swap is not None and swap["turn"] == self._turn - 1:
            await self._shared.jobs.cancel(self._session)
            await self._shared.spare.adelete(("agentinfer", "notes", self._session), swap["ticket"])

    async def _compress(self) -> None:
        ticket: Ticket | None = self._memory.get("ticket")
        if ticket is not None and not self._rounds(ticket):
            ticket = self._memory["ticket"] = None  # other middleware took away what it was about
        ticket = ticket or self._open()
        if ticket is None:
            return
        self._memory["ticket"] = ticket
        result = await self._result(ticket)
        if result is not None:
            self._notice(ticket, result)
            await self._swap_in(ticket, result)

    def _open(self) -> Ticket | None:
        """Return a ticket for what is to be distilled next, if anything is and it would pay."""
        size = self._context_tokens()
        if size <= self._knobs.compress_after_tokens or self._turn < self._memory.get("not_before", 0):
            return None
        rounds = to_distill(
            self._messages, done=self._done(), keep_rounds=self._knobs.keep_rounds, context_tokens=size
        )
        results = message_tokens([result for round_ in rounds for result in round_.results])
        saved = int((1.0 - _NOTES_SHARE) * results)
        if not rounds or not pays(saved=saved, prefill=max(0, size - results), turns=self._turns_left()):
            return None
        earlier = self._swap["ticket"] if self._swap else ""
        name = ticket_id(self._question, earlier, rounds)
        self._events.append({"event": "distill_start", "ticket": name, "tokens_before": results})
        return Ticket(id=name, upto=rounds[-1].last_id, turn=self._turn, noticed=False)

    def _context_tokens(self) -> int:
        """Length of the next prompt: what the server counted, and an estimate of what came after."""
        new = 0
        for message in reversed(self._messages):
            if isinstance(message, AIMessage):
                if message.usage_metadata is not None:
                    return message.usage_metadata["total_tokens"] + new
                break
            new += message_tokens([message])
        system = self._request.system_message
        start = 0 if system is None else message_tokens([_plain(system)])
        return start + message_tokens(self._view(self._messages, self._swap))

    def _turns_left(self) -> int:
        return expected_turns(self._turn, limit=self._knobs.max_turns or _NO_LIMIT)

    def _done(self) -> int:
        return covered(self._messages, self._swap["upto"]) if self._swap else 0

    def _rounds(self, ticket: Ticket) -> list[Round]:
        return split_rounds(self._messages)[self._done() : covered(self._messages, ticket["upto"])]

    async def _result(self, ticket: Ticket) -> dict[str, Any] | None:
        """Return what the store has for a ticket; if that is nothing, see to it that it is being made."""
        found = await self._shelf.get(ticket["id"])
        if not _is_result(found):
            job = self._shared.jobs.ensure(self._session, ticket["id"], lambda: self._distill(ticket))
            if self._knobs.compression != "barrier":
                return None
            await asyncio.wait({job})
            found = await self._shelf.get(ticket["id"])
        return found if _is_result(found) else None

    async def _distill(self, ticket: Ticket) -> None:
        model = self._shared.distiller or self._request.model
        profile = await self._shared.servers.profile(model)
        hints = await self._shared.servers.wants_hints(model, self._knobs.hints)
        distiller = Distiller(model, profile, session=self._session, turn=self._turn, hints=hints)
        distilled = await distill(
            distiller,
            self._prompts,
            self._originals(self._rounds(ticket)),
            self._queries(ticket),
            tier="small",
            window=profile.max_model_len if profile else None,
            seconds=self._knobs.distill_seconds,
            detail_tokens=self._knobs.notes_tokens // 4 if self._knobs.recall else 0,
        )
        await self._shelf.put(ticket["id"], distilled.to_json())
        if self._prewarms:
            _, swap = self._write(ticket, distilled.notes)
            self._start_prewarm(ticket, swap)

    async def _recall(self) -> None:
        """Bring back the distilled result that the newest message of the user needs and the notes leave out."""
        last, swap = self._messages[-1], self._swap
        if not (self._knobs.auto_recall and self._knobs.recall and swap and isinstance(last, HumanMessage)):
            return
        rounds = split_rounds(self._messages)
        notes = Distillate.from_json(self._memory.get("notes") or {})
        hidden = [each for each in self._originals(rounds[: self._done()]) if each.number in notes.numbers]
        whole = [text_of(result) for round_ in rounds[self._done() :] for result in round_.results]
        known = self._recalled(self._messages, swap)
        again = [str(each["text"]) for each in known.values()]
        visible = "\n".join([notes.text(self._prompts, recall=False), *whole, *again])
        found = await asyncio.to_thread(lacking, hidden, visible, [self._question])
        if found is None:
            return
        original, _ = found
        text = recalled([original.text], self._question, tokens=self._knobs.max_observation_tokens // 2)
        brought = {"number": original.number, "query": self._question, "text": text}
        self._memory["recalled"] = {**known, str(last.id): brought}
        self._events.append({"event": "recall", "ticket": str(original.number), "text": self._question})

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
        for round_ in split_rounds(self._messages):
            calls = {call["id"]: call for call in round_.step.tool_calls}
            for result in round_.results:
                number, call = number_of(result, self._results), calls.get(result.tool_call_id)
                if number is not None and call is not None:
                    title = f"{call['name']} {_arguments(call['args'])}"
                    titles.setdefault(number, clip(title, tokens=_TITLE_TOKENS))
        return titles

    def _queries(self, ticket: Ticket) -> list[str]:
        """The question, then what tools were asked for, latest first."""
        asked = [
            clip(_arguments(call["args"]), tokens=_TITLE_TOKENS)
            for round_ in reversed(self._rounds(ticket))
            for call in round_.step.tool_calls
        ]
        return [self._question, *list(dict.fromkeys(filter(None, asked)))[:_QUERIES]]

    def _notice(self, ticket: Ticket, result: dict[str, Any]) -> None:
        if ticket["noticed"]:
            return
        self._memory["ticket"] = {**ticket, "noticed": True}
        self._events.append(
            {
                "event": "distill_end",
                "ticket": ticket["id"],
                "seconds": result.get("seconds"),
                "removed": result.get("removed"),
                "ok": not result.get("failure"),
                "text": result.get("failure"),
            }
        )

    async def _swap_in(self, ticket: Ticket, result: dict[str, Any]) -> None:
        """Swap the notes in, if that pays, once the new prefix is warm."""
        notes, swap = self._write(ticket, Distillate.from_json(result["notes"]))
        before, after = self._view(self._messages, self._swap), self._view(self._messages, swap)
        swap = {**swap, "tokens_before": message_tokens(before), "tokens_after": message_tokens(after)}
        saved = swap["tokens_before"] - swap["tokens_after"]
        prefill = swap["tokens_after"] - shared_tokens(before, after)
        event = {"event": "swap", "ticket": ticket["id"]}
        if not pays(saved=saved, prefill=prefill, turns=self._turns_left()):
            self._memory |= {"ticket": None, "not_before": self._turn + _PATIENCE}
            self._events.append({**event, "ok": False, "cause": "it would not pay"})
            return
        if not await self._is_warm(ticket, swap):
            return
        self._memory |= {"ticket": None, "swap": swap, "notes": notes.to_json()}
        self._swapped = True
        sizes = {"tokens_before": swap["tokens_before"], "tokens_after": swap["tokens_after"]}
        self._events.append({**event, "ok": True, "lag": self._turn - ticket["turn"], **sizes})

    def _write(self, ticket: Ticket, fresh: Distillate) -> tuple[Distillate, Swap]:
        earlier = Distillate.from_json(self._memory.get("notes") or {}) if self._swap else Distillate()
        notes = fresh.after(earlier, queries=self._queries(ticket), tokens=self._knobs.notes_tokens)
        text = notes.text(self._prompts, recall=self._knobs.recall)
        swap = Swap(
            ticket=ticket["id"],
            upto=ticket["upto"],
            folded="",
            text=text,
            turn=self._turn,
            tokens_before=0,
            tokens_after=0,
        )
        return notes, swap

    @property
    def _prewarms(self) -> bool:
        return self._knobs.prewarm and bool(base_url(self._request.model))

    async def _is_warm(self, ticket: Ticket, swap: Swap) -> bool:
        """Whether the server has the new prefix in its cache, or cannot be made to; if not, it is being prefilled."""
        if not self._prewarms:
            return True
        job = self._start_prewarm(ticket, swap)
        if self._knobs.compression == "barrier":
            await asyncio.wait({job})
        return job.done()

    def _start_prewarm(self, ticket: Ticket, swap: Swap) -> asyncio.Task[Any]:
        model = self._request.model
        place = f"{base_url(model)}-{getattr(model, 'model_name', '')}"
        return self._shared.jobs.ensure(
            self._session, f"warm-{ticket['id']}-{place}", lambda: self._prewarm(swap)
        )

    async def _prewarm(self, swap: Swap) -> None:
        """Call the model with the prompt of the next step as it would be after the swap."""
        request = self._request.override(messages=self._view(self._request.messages, swap))
        if await self._shared.servers.wants_hints(request.model, self._knobs.hints):
            hints = SessionHints(session_id=self._session, turn=self._turn, role="prewarm", output_tokens=1)
            request = hinted(request, hints, await self._shared.servers.profile(request.model))
        try:
            async with asyncio.timeout(self._knobs.distill_seconds):
                await self._call(limited(request, 1))
        except Exception:  # the next step meets the same server, and says what is wrong
            return


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


def _is_result(found: dict[str, Any] | None) -> bool:
    return found is not None and isinstance(found.get("notes"), dict)
