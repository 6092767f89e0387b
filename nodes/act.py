"""Act: one tool call. The calls of a round run in parallel, each a task of its own with its own checkpoint.

A call that has finished is therefore never repeated after a crash, even when its neighbours had not. Whatever goes
wrong in a tool becomes an observation that the model reads; nothing a tool does ends a run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.runtime import Runtime

from agentinfer_lg.compression.originals import recall_text
from agentinfer_lg.context import Context
from agentinfer_lg.errors import AgentInferError, ToolError
from agentinfer_lg.events import emit
from agentinfer_lg.llm.calling import seeker_caller
from agentinfer_lg.llm.protocol import MAX_QUERIES, Action, as_tool_call
from agentinfer_lg.nodes.seeker.budget import seconds_left
from agentinfer_lg.nodes.seeker.compaction import hidden_numbers
from agentinfer_lg.nodes.seeker.lookup import look_up, look_up_followups, source_of, with_followups
from agentinfer_lg.nodes.seeker.proposal import FollowedUp, cited_sources, propose
from agentinfer_lg.nodes.seeker.read_answer import (
    Reading,
    answer_tier,
    read_answer,
    read_document,
    without_marks,
)
from agentinfer_lg.nodes.seeker.recall import originals_of
from agentinfer_lg.prompts import PROMPTS, Prompts
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
from agentinfer_lg.tools import Document, best_passages

logger = logging.getLogger(__name__)


async def act(state: SeekerState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Run the call in `state["call"]` and return its observation."""
    call, agent, turn = state["call"], state["task"]["id"], state.get("turn", 0)
    shown = _as_shown(call)
    emit("tool_start", agent, turn=turn, tool=shown["tool"], arguments=shown["arguments"])
    began, started = time.time(), time.monotonic()
    done = await _run(_Tools(state, runtime.context, resources), call, shown)
    seconds = round(time.monotonic() - started, 4)
    observation = done.observation
    observation["seconds"] = seconds
    resources.clock.record(shown["tool"], seconds)
    record = ToolRecord(
        agent=agent,
        turn=turn,
        tool=shown["tool"],
        started=round(began, 3),
        seconds=seconds,
        ok=observation["ok"],
        results=len(observation["sources"]),
    )
    emit("tool_end", **record, text=observation["text"][:500])
    update: dict[str, Any] = {"observations": [observation], "tools": [record], "calls": list(done.calls)}
    return update if done.reading is None else {**update, "reading": done.reading}


@dataclass(frozen=True, slots=True)
class Done:
    """What a call brought."""

    observation: Observation
    calls: tuple[CallRecord, ...] = ()
    """Model calls inside of it."""
    reading: LastReading | None = None
    """What to keep in the state, so that the same is not read again."""


def _as_shown(call: PendingCall) -> PendingCall:
    """Return the call as transcript, records and events show it."""
    action = Action(tool=call["tool"], arguments=call["arguments"])  # type: ignore[arg-type]  # written by think
    tool, arguments = as_tool_call(action)
    return PendingCall(id=call["id"], tool=tool, arguments=arguments)


async def _run(tools: _Tools, call: PendingCall, shown: PendingCall) -> Done:
    """Run a call; whatever goes wrong becomes an observation."""
    try:
        return await tools.run(call, shown)
    except AgentInferError as error:
        return Done(_observed(shown, str(error), ok=False))
    except Exception as error:
        logger.exception("tool %s failed", shown["tool"])
        return Done(_observed(shown, f"{shown['tool']} failed: {type(error).__name__}", ok=False))


@dataclass(frozen=True, slots=True)
class _Tools:
    """The tools, at the service of one seeker."""

    state: SeekerState
    context: Context
    resources: Resources

    async def run(self, call: PendingCall, shown: PendingCall) -> Done:
        """Run a call.

        Args:
            call: What is to be done.
            shown: The same as its observation names it.
        """
        match call["tool"]:
            case "web_search":
                return await self._search(shown)
            case "crawl":
                return await self._crawl(shown)
            case "document_qa":
                return await self._ask(shown)
            case "recall":
                return self._recall(shown)
            case "read_answer":
                return await self._read_answer(shown)
            case "finish":
                # Earlier versions saved a reading as a `finish` without an answer; and marks alone are no answer.
                answer = without_marks(str(call["arguments"].get("answer", "")))
                return self._finish(shown, answer) if answer else await self._read_answer(shown)
            case unknown:
                msg = f"There is no tool {unknown!r}."
                raise ToolError(msg)

    async def _search(self, call: PendingCall) -> Done:
        queries, followed = await with_followups(self.state, self.context, call["arguments"]["queries"])
        found = await look_up(self.resources.search, queries, limit=self.context.results_per_query)
        note = self._prompts.followed.format(queries="; ".join(followed)) if followed else ""
        text = "\n".join(filter(None, [note, "" if found else self._prompts.no_results]))
        arguments = {**call["arguments"], "queries": queries, "leads": followed}
        return Done(_observed({**call, "arguments": arguments}, text, sources=found))

    async def _crawl(self, call: PendingCall) -> Done:
        known = [self._source(number)["uri"] for number in call["arguments"].get("sources", [])]
        uris = list(dict.fromkeys([*known, *call["arguments"].get("urls", [])]))[:MAX_QUERIES]
        share = self.context.max_observation_tokens // max(1, len(uris))
        results = await asyncio.gather(*(self._read_page(uri, share) for uri in uris), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, ToolError):
                raise result
        sources = [result for result in results if isinstance(result, dict)]
        errors = [str(result) for result in results if isinstance(result, ToolError)]
        return Done(_observed(call, "\n".join(errors), sources=sources, ok=bool(sources)))

    async def _read_page(self, uri: str, tokens: int) -> Source:
        document = await self._fetch(uri)
        query = f"{self.state['task']['question']} {self.state['messages'][-1].content}"
        passages = await asyncio.to_thread(best_passages, document.text, query, tokens=tokens)
        return source_of(document.uri, document.title, passages, read=True)

    async def _ask(self, call: PendingCall) -> Done:
        question = call["arguments"]["question"]
        document = await self._fetch(self._source(call["arguments"]["source"])["uri"])
        tokens = self.context.max_observation_tokens
        passages = await asyncio.to_thread(best_passages, document.text, question, tokens=tokens)
        called = await read_document(
            seeker_caller(self.state, self.context, self.resources),
            self._prompts,
            question,
            document.title,
            passages,
            tier="large" if self.context.policy == "always-large" else "small",
            max_tokens=self.context.max_reading_tokens,
            timeout=seconds_left(self.state),
        )
        # The passages were read by the reading call; only its answer enters the seeker's context.
        answers = [called.reply.text] if called.reply.text else []
        source = source_of(document.uri, document.title, answers, read=False)
        return Done(_observed(call, called.reply.text, sources=[source]), (called.record,))

    async def _fetch(self, uri: str) -> Document:
        return await self.resources.reader.read(
            uri, timeout=self.context.crawl_seconds, max_bytes=self.context.crawl_max_bytes
        )

    def _recall(self, call: PendingCall) -> Done:
        number, query = call["arguments"]["ticket"], call["arguments"].get("query", "")
        if not self._source(number)["passages"]:
            raise ToolError(self._prompts.not_distilled.format(number=number))
        text = recall_text(
            originals_of(self.state, {*hidden_numbers(self.state, self.context), number}),
            number,
            query or self.state["task"]["question"],
            tokens=self.context.max_observation_tokens,
        )
        return Done(_observed(call, text))

    def _finish(self, call: PendingCall, answer: str) -> Done:
        """Propose the answer that the model gave."""
        sources = cited_sources(answer, call["arguments"].get("sources", []), self.state)
        return Done(propose(call, Reading(answer, sources), self.state))

    async def _read_answer(self, call: PendingCall) -> Done:
        """Propose the answer that is read from what the seeker has seen and what its follow-up queries find."""
        found, followed = await look_up_followups(self.state, self.context, self.resources)
        reading = await read_answer(
            seeker_caller(self.state, self.context, self.resources),
            self._prompts,
            _with_sources(self.state, found),
            self.context,
            tier=self._reader(),
            followed=followed,
        )
        observation = propose(call, reading, self.state, FollowedUp(followed, found))
        return Done(observation, reading.calls, reading.last)

    def _reader(self) -> Tier:
        return answer_tier(
            self.context, self.state["calls"], large_tokens=self.state["budget"]["large_tokens"]
        )

    def _source(self, number: int) -> Source:
        numbers = self.state.get("numbers", [])
        if not 0 < number <= len(numbers):
            msg = f"There is no result [{number}]; the results are numbered 1 to {len(numbers)}."
            raise ToolError(msg)
        return self.state["sources"][numbers[number - 1]]

    @property
    def _prompts(self) -> Prompts:
        return PROMPTS[self.state["language"]]


def _observed(
    call: PendingCall, text: str, *, sources: Sequence[Source] = (), ok: bool = True
) -> Observation:
    return Observation(call=call, text=text, sources=list(sources), ok=ok, seconds=0.0)


def _with_sources(state: SeekerState, found: Sequence[Source]) -> SeekerState:
    """Return the state as it is once `found` has been seen."""
    new = {source["key"]: source for source in found}
    sources = merge_sources(state.get("sources", {}), new)
    return {**state, "sources": sources, "numbers": merge_unique(state.get("numbers", []), list(new))}
