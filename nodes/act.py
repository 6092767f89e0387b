"""Act: one tool call. The calls of a round run in parallel, each a task of its own with its own checkpoint.

A call that has finished is therefore never repeated after a crash, even when its neighbours had not. Whatever goes
wrong in a tool becomes an observation that the model reads; nothing a tool does ends a run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.runtime import Runtime

from agentinfer_lg.compression.originals import recall_text
from agentinfer_lg.context import Context
from agentinfer_lg.errors import AgentInferError, ToolError
from agentinfer_lg.events import emit
from agentinfer_lg.llm.calling import Caller, seeker_caller
from agentinfer_lg.nodes.seeker.budget import seconds_left
from agentinfer_lg.nodes.seeker.compaction import hidden_numbers
from agentinfer_lg.nodes.seeker.lookup import follow, look_up, look_up_leads, source_of
from agentinfer_lg.nodes.seeker.read_answer import (
    Reading,
    answer_tier,
    is_unknown,
    read_answer,
    read_document,
    without_marks,
)
from agentinfer_lg.nodes.seeker.recall import originals_of
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.report.citations import supporting_sources
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import (
    CallRecord,
    LastReading,
    Observation,
    PendingCall,
    SeekerState,
    Source,
    ToolRecord,
    merge_sources,
    merge_unique,
)
from agentinfer_lg.tools import best_passages

logger = logging.getLogger(__name__)

_MAX_REJECTIONS = 2
"""Answers refused before the next one is taken as it is."""


async def act(state: SeekerState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Run the call in `state["call"]` and return its observation."""
    call, agent, turn = state["call"], state["task"]["id"], state.get("turn", 0)
    tool = _Tool(state, runtime.context or Context(), resources)
    emit("tool_start", agent, turn=turn, tool=call["tool"], arguments=call["arguments"])
    began, started = time.time(), time.monotonic()
    try:
        observation = await tool.run(call)
    except AgentInferError as error:
        observation = _failed(call, str(error))
    except Exception as error:
        logger.exception("tool %s failed", call["tool"])
        observation = _failed(call, f"{call['tool']} failed: {type(error).__name__}")
    seconds = round(time.monotonic() - started, 4)
    observation["seconds"] = seconds
    resources.clock.record(call["tool"], seconds)
    record = ToolRecord(
        agent=agent,
        turn=turn,
        tool=call["tool"],
        started=round(began, 3),
        seconds=seconds,
        ok=observation["ok"],
        results=len(observation["sources"]),
    )
    emit("tool_end", **record, text=observation["text"][:500])
    update: dict[str, Any] = {"observations": [observation], "tools": [record], "calls": tool.calls}
    return update if tool.reading is None else {**update, "reading": tool.reading}


class _Tool:
    """The tools, for one call of one seeker."""

    def __init__(self, state: SeekerState, context: Context, resources: Resources) -> None:
        self._state = state
        self._context = context
        self._resources = resources
        self._prompts = PROMPTS[state["language"]]
        self.calls: list[CallRecord] = []
        self.reading: LastReading | None = None

    async def run(self, call: PendingCall) -> Observation:
        match call["tool"]:
            case "web_search":
                return await self._search(call)
            case "crawl":
                return await self._crawl(call)
            case "document_qa":
                return await self._ask(call)
            case "recall":
                return self._recall(call)
            case "finish":
                return await self._finish(call)
            case unknown:
                msg = f"There is no tool {unknown!r}."
                raise ToolError(msg)

    async def _search(self, call: PendingCall) -> Observation:
        queries, followed = await follow(self._state, self._context, call["arguments"]["queries"])
        found = await look_up(self._resources.search, queries, limit=self._context.results_per_query)
        note = self._prompts.followed.format(queries="; ".join(followed)) if followed else ""
        text = "\n".join(filter(None, [note, "" if found else self._prompts.no_results]))
        call = {**call, "arguments": {**call["arguments"], "queries": queries, "leads": followed}}
        return Observation(call=call, text=text, sources=found, ok=True, seconds=0.0)

    async def _crawl(self, call: PendingCall) -> Observation:
        known = [self._uri(number) for number in call["arguments"].get("sources", [])]
        uris = list(dict.fromkeys([*known, *call["arguments"].get("urls", [])]))[:5]
        share = self._context.max_observation_tokens // max(1, len(uris))
        results = await asyncio.gather(*(self._read_page(uri, share) for uri in uris), return_exceptions=True)
        sources = [result for result in results if isinstance(result, dict)]
        errors = [str(result) for result in results if isinstance(result, ToolError)]
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, ToolError):
                raise result
        return Observation(call=call, text="\n".join(errors), sources=sources, ok=bool(sources), seconds=0.0)

    async def _read_page(self, uri: str, tokens: int) -> Source:
        document = await self._resources.reader.read(
            uri, timeout=self._context.crawl_seconds, max_bytes=self._context.crawl_max_bytes
        )
        query = f"{self._state['task']['question']} {_last_thought(self._state)}"
        passages = await asyncio.to_thread(best_passages, document.text, query, tokens=tokens)
        return source_of(document.uri, document.title, passages, read=True)

    async def _ask(self, call: PendingCall) -> Observation:
        question = call["arguments"]["question"]
        uri = self._uri(call["arguments"]["source"])
        document = await self._resources.reader.read(
            uri, timeout=self._context.crawl_seconds, max_bytes=self._context.crawl_max_bytes
        )
        passages = await asyncio.to_thread(
            best_passages, document.text, question, tokens=self._context.max_observation_tokens
        )
        tier: Tier = "large" if self._context.policy == "always-large" else "small"
        called = await read_document(
            self._caller(),
            self._prompts,
            question,
            document.title,
            passages,
            tier=tier,
            timeout=seconds_left(self._state),
        )
        self.calls.append(called.record)
        # The passages were read by the reading call; only its answer enters the seeker's context.
        source = source_of(
            document.uri, document.title, [called.reply.text] if called.reply.text else [], read=False
        )
        return Observation(call=call, text=called.reply.text, sources=[source], ok=True, seconds=0.0)

    def _recall(self, call: PendingCall) -> Observation:
        number, query = call["arguments"]["ticket"], call["arguments"].get("query", "")
        self._uri(number)
        source = self._state["sources"][self._state["numbers"][number - 1]]
        if not source["passages"]:
            raise ToolError(self._prompts.not_distilled.format(number=number))
        text = recall_text(
            originals_of(self._state, {*hidden_numbers(self._state, self._context), number}),
            number,
            query or self._state["task"]["question"],
            tokens=self._context.max_observation_tokens,
        )
        return Observation(call=call, text=text, sources=[], ok=True, seconds=0.0)

    async def _finish(self, call: PendingCall) -> Observation:
        answer = without_marks(str(call["arguments"].get("answer", "")))
        reading = Reading(answer, self._cited(answer, call["arguments"].get("sources", [])))
        found: list[Source] = []
        followed: list[str] = []
        if not answer:
            found, followed = await look_up_leads(self._state, self._context, self._resources)
            reading = await self._read(found, followed)
        reason = self._objection(reading)
        accepted = not reason or self._rejections() >= _MAX_REJECTIONS
        text = reading.answer if accepted else self._prompts.not_accepted.format(reason=reason)
        if followed and not accepted:
            text += "\n" + self._prompts.looked_up.format(queries="; ".join(followed))
        # What an answer rests on is numbered first, so that no budget leaves it out.
        found.sort(key=lambda source: source["key"] not in reading.sources)
        arguments = {"answer": reading.answer, "sources": reading.sources, "leads": followed}
        call = {**call, "arguments": arguments}
        return Observation(call=call, text=text, sources=found, ok=accepted, seconds=0.0)

    async def _read(self, found: list[Source], followed: list[str]) -> Reading:
        """Read the answer from what the seeker has seen and what its leads found."""
        tier = answer_tier(
            self._context, self._state["calls"], large_tokens=self._state["budget"]["large_tokens"]
        )
        new = {source["key"]: source for source in found}
        seen: SeekerState = {
            **self._state,
            "sources": merge_sources(self._state.get("sources", {}), new),
            "numbers": merge_unique(self._state.get("numbers", []), list(new)),
        }
        reading = await read_answer(
            self._caller(), self._prompts, seen, self._context, tier=tier, followed=followed
        )
        self.calls.extend(reading.calls)
        self.reading = reading.last
        return reading

    def _objection(self, reading: Reading) -> str:
        if is_unknown(reading.answer):
            return self._prompts.not_found_in_passages
        return "" if reading.sources else self._prompts.not_supported

    def _rejections(self) -> int:
        return sum(
            call["name"] == "finish"
            for message in self._state["messages"][:-1]
            if isinstance(message, AIMessage)
            for call in message.tool_calls
        )

    def _cited(self, answer: str, named: list[object]) -> tuple[str, ...]:
        """Sources named by the model that exist, else those that support the answer."""
        numbers = self._state.get("numbers", [])
        keys = [numbers[n - 1] for n in named if isinstance(n, int) and 0 < n <= len(numbers)]
        if keys:
            return tuple(keys)
        sources = self._state.get("sources", {})
        return tuple(supporting_sources(answer, sources, numbers))

    def _uri(self, number: int) -> str:
        numbers = self._state.get("numbers", [])
        if not 0 < number <= len(numbers):
            msg = f"There is no result [{number}]; the results are numbered 1 to {len(numbers)}."
            raise ToolError(msg)
        return self._state["sources"][numbers[number - 1]]["uri"]

    def _caller(self) -> Caller:
        return seeker_caller(self._state, self._context, self._resources)


def _failed(call: PendingCall, sentence: str) -> Observation:
    return Observation(call=call, text=sentence, sources=[], ok=False, seconds=0.0)


def _last_thought(state: SeekerState) -> str:
    last = state["messages"][-1]
    return str(last.content)
