"""One model call of a node: events around it, a record of what it cost, the other tier when an endpoint is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

from langchain_core.messages import BaseMessage

from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.events import emit
from agentinfer_lg.hints import AgentRole, SessionHints
from agentinfer_lg.llm.chat import (
    ChatTier,
    ContextOverflowError,
    Guide,
    OutOfTimeError,
    RefusedRequestError,
    Reply,
)
from agentinfer_lg.llm.protocol import tool_definitions
from agentinfer_lg.llm.shorten import prompt_tokens, shorten
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import CallRecord, SeekerState

_SHARES = (0.7, 0.45, 0.25)
"""Parts of a prompt that did not fit, which are tried one after the other."""
_ONE_SHOT: frozenset[AgentRole] = frozenset({"plan", "qa", "filter", "distill", "write"})


def session_name(run_id: str, agent: str) -> str:
    """Return the session id that the engine sees: nothing in it comes from the user."""
    return sha256(f"{run_id}:{agent}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Called:
    """A reply and its record."""

    reply: Reply
    record: CallRecord
    warning: str = ""
    """Set when the other tier had to step in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is asked of whichever tier answers."""

    messages: Sequence[BaseMessage]
    hints: SessionHints
    max_tokens: int
    guide: Guide | None
    native_tools: Literal["auto", "none"] | None
    timeout: float | None
    whole: bool
    enough: Callable[[str], bool] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Calls models on behalf of one agent in one turn."""

    resources: Resources
    context: Context
    run_id: str
    agent: str
    turn: int

    async def call(
        self,
        tier: Tier,
        messages: Sequence[BaseMessage],
        *,
        role: AgentRole,
        max_tokens: int,
        guide: Guide | None = None,
        native_tools: Literal["auto", "none"] | None = None,
        tool_seconds: float | None = None,
        timeout: float | None = None,
        previous: CallRecord | None = None,
        appended: int | None = None,
        supersedes: bool = False,
        fallback: bool = True,
        whole: bool = True,
        enough: Callable[[str], bool] | None = None,
    ) -> Called:
        """Call the model of `tier`.

        Args:
            native_tools: Offer the tools (`auto`), keep them in the prompt without letting them be called (`none`: the
                prefix stays the same), or leave them out (None).
            tool_seconds: Expected seconds until this session's next request.
            previous: The agent's latest Think call, to tell what a switch of the tier costs.
            appended: Tokens (estimated) that came after it, if this prompt does not extend that one; None: it does.
            supersedes: This prompt takes the place of the session's context beyond what they have in common.
            fallback: Let the other tier answer when this one's endpoint fails.
            whole: Ask again when the answer was cut.
            enough: Whether the text of a cut answer does all the same.

        Raises:
            EndpointError: No endpoint answers.
            RefusedRequestError: The server does not take requests with tools.
            ContextOverflowError: The prompt does not fit.
            OutOfTimeError: `timeout` is over.
        """
        emit("model_start", self.agent, turn=self.turn, tier=tier, role=role)
        request = _Request(
            messages=messages,
            hints=self._hints(role, max_tokens, tool_seconds, supersedes),
            max_tokens=max_tokens,
            guide=guide,
            native_tools=native_tools,
            timeout=timeout,
            whole=whole and role != "distill",  # notes end where their room ends
            enough=enough,
        )
        model = self.resources.models.tier(tier)
        warning = ""
        try:
            reply = await self._fitting(model, request)
        except (ContextOverflowError, OutOfTimeError):
            raise
        except EndpointError as error:
            other = self.resources.models.tier("large" if tier == "small" else "small")
            # A server that refuses tools is not lost: the caller asks it again without them.
            without_tools = native_tools is not None and isinstance(error, RefusedRequestError)
            if not fallback or without_tools or other.same_place == model.same_place:
                raise
            warning = f"{error} The {other.tier} model goes on instead."
            emit("warning", self.agent, turn=self.turn, text=warning)
            reply, tier = await self._fitting(other, request), other.tier
        if reply.cut and role != "prewarm" and not (enough is not None and enough(reply.text)):
            text = f"An answer of the {tier} model ({role}) is cut: it was too long even with more room."
            emit("warning", self.agent, turn=self.turn, text=text)
        record = self._record(tier, role, reply, previous, appended)
        emit("model_end", self.agent, **record_event(record), text=reply.text[:2000])
        return Called(reply, record, warning)

    def _hints(
        self, role: AgentRole, max_tokens: int, tool_seconds: float | None, supersedes: bool
    ) -> SessionHints:
        return SessionHints(
            session_id=session_name(self.run_id, self.agent),
            turn=self.turn,
            role=role,
            tool_seconds=tool_seconds,
            output_tokens=max_tokens,
            final=role in _ONE_SHOT,
            supersedes=supersedes,
            tenant=self.context.tenant,
        )

    async def _fitting(self, model: ChatTier, request: _Request) -> Reply:
        """Ask, and ask again with a shorter prompt where it did not fit."""
        try:
            return await self._once(model, request)
        except ContextOverflowError as error:
            if request.hints.role in ("distill", "prewarm"):
                raise
            overflow = error
        whole = prompt_tokens(request.messages)
        for share in _SHARES:
            room = min(share * whole, share * (model.max_model_len or whole))
            shorter = replace(request, messages=shorten(request.messages, tokens=int(room)))
            if prompt_tokens(shorter.messages) >= whole:
                break
            try:
                reply = await self._once(model, shorter)
            except ContextOverflowError as error:
                overflow = error
            else:
                text = f"{overflow} Parts of the results were left out of the prompt."
                emit("warning", self.agent, turn=self.turn, text=text)
                return reply
        raise overflow

    async def _once(self, model: ChatTier, request: _Request) -> Reply:
        return await model.call(
            request.messages,
            hints=request.hints,
            max_tokens=request.max_tokens,
            temperature=self.context.temperature if "temperature" in self.context.model_fields_set else None,
            guide=request.guide,
            tools=tool_definitions(recall=recalls(self.context)) if request.native_tools else (),
            tool_choice=request.native_tools or "auto",
            timeout=request.timeout,
            whole=request.whole,
            enough=request.enough,
        )

    def _record(
        self, tier: Tier, role: str, reply: Reply, previous: CallRecord | None, appended: int | None
    ) -> CallRecord:
        usage = reply.usage
        reprefill = 0
        if previous is not None and previous["tier"] != tier:
            # The other model has not seen this context: what it prefills beyond the new tokens is the price of the switch.
            if appended is None:
                known = previous["prompt_tokens"] + previous["output_tokens"]
                appended = max(0, usage.prompt_tokens - known)
            reprefill = max(0, usage.prompt_tokens - usage.cached_tokens - appended)
        return call_record(reply, agent=self.agent, turn=self.turn, role=role, tier=tier, reprefill=reprefill)


def call_record(
    reply: Reply, *, agent: str, turn: int, role: str, tier: Tier, reprefill: int = 0
) -> CallRecord:
    """Return what a call cost.

    Args:
        reply: The model's answer, with the server's counts.
        agent: On whose behalf it was made.
        turn: The agent's round.
        role: What the call was for.
        tier: Which model answered.
        reprefill: Tokens prefilled again because the tier was switched.
    """
    record = CallRecord(
        agent=agent,
        turn=turn,
        role=role,
        tier=tier,
        model=reply.model,
        prompt_tokens=reply.usage.prompt_tokens,
        cached_tokens=reply.usage.cached_tokens,
        output_tokens=reply.usage.output_tokens,
        started=round(reply.started, 3),
        seconds=round(reply.seconds, 4),
        reprefill_tokens=reprefill,
    )
    if reply.usage.thought_tokens:
        record["thought_tokens"] = reply.usage.thought_tokens
    if reply.retries:
        record["retries"] = reply.retries
        record["retry_tokens"] = reply.retry_tokens
    if reply.cut:
        record["cut"] = True
    return record


def recalls(context: Context) -> bool:
    """Whether there is a tool to recall what was distilled; the same for a whole run, for it is part of every prompt."""
    return context.recall and context.compression != "off"


def seeker_caller(state: SeekerState, context: Context, resources: Resources) -> Caller:
    """Return the caller of a seeker in its current turn."""
    return Caller(
        resources=resources,
        context=context,
        run_id=state["run_id"],
        agent=state["task"]["id"],
        turn=state.get("turn", 0),
    )


def record_event(record: CallRecord) -> dict[str, object]:
    """Return the record as keys of a `model_end` event (the agent is given apart)."""
    return {key: value for key, value in record.items() if key not in ("agent", "model")}
