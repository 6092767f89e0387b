"""Escalation (AgentCollab): the agent's own Progress Check decides which of two models makes its next step."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from langchain.agents.middleware.types import (
    AgentMiddleware,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
)
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime
from langgraph.types import Command

from agentinfer_lg.collab.controller import (
    CollabSettings,
    CollabState,
    Transition,
    advance,
    needs_check,
    start,
)
from agentinfer_lg.collab.progress_check import PROGRESS_PROMPT, PROGRESS_REGEX, ParsedVerdict, parse_verdict
from agentinfer_lg.collab.verifier import RoundEvidence, VerifierState, normalise_action, observe
from agentinfer_lg.context import CollabBudget, CollabPolicy
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.middleware.background import BACKGROUND
from agentinfer_lg.middleware.requests import as_role, call_role, extended, hinted, limited, speaks_openai
from agentinfer_lg.middleware.servers import Hints, Servers
from agentinfer_lg.middleware.session import SessionState, new_session, text_of
from agentinfer_lg.settings import Tier
from agentinfer_lg.text import detect_language

_log = logging.getLogger(__name__)
_SKIPPED = ParsedVerdict("SKIPPED", "")
_CHECK_ID = "agentinfer-progress-check"


class EscalationState(SessionState):
    """State of an agent with what the controller remembers."""

    agentinfer_escalation: Annotated[dict[str, Any], PrivateStateAttr]


class EscalationMiddleware(AgentMiddleware):
    """Lets a small model do the work, and a large one step in while the agent makes no progress.

    Before each step but the first, the model that made the last one is asked for a Progress Check on it: the prompt is the
    next step's, with one question after it, so a server's prefix cache serves both. A failed check, or an action or a
    thought made again, gives the next steps to the large model, until it makes progress or its budget is spent
    (`agentinfer_lg.collab.controller`). Only steps enter the history; checks do not, and are not streamed.

    Args:
        large: The model that steps in: a chat model, or a name for LangChain's `init_chat_model`.
        small: The model that does the work; None: the agent's own.
        policy: The agent's own check decides, or a fixed policy to compare with.
        warmup_steps: Steps of the large model at the beginning of each run (K_L); 0 starts on the small one.
        budget: How long a rescue lasts: `static`, or growing with failed rescues in a row (`cumulative`).
        static_budget: Large steps per rescue, budget `static`.
        initial_budget: Large steps of the first rescue, budget `cumulative`.
        budget_slope: Large steps added per failed rescue in a row.
        budget_ceiling: Most large steps of one rescue.
        cooldown: Small steps that must follow a rescue before the next one.
        max_large_steps: Most large steps of a run.
        verifier: Look without a model, too, for repeated actions and thoughts and rounds without new evidence.
        repeat_limit: How often one action may be made before it counts as a repeat.
        stall_limit: Rounds in a row without new evidence that count as a stall.
        check_tokens: Most tokens of a check; a model that thinks before it answers needs more.
        random_p: Chance of the large model per step, policy `random`.
        seed: Seed of the policy `random`.
        hints: Whether session hints are sent with each call.

    Raises:
        ConfigurationError: A number is out of range.
    """

    state_schema = EscalationState

    def __init__(
        self,
        *,
        large: BaseChatModel | str,
        small: BaseChatModel | str | None = None,
        policy: CollabPolicy = "agentcollab",
        warmup_steps: int = 1,
        budget: CollabBudget = "cumulative",
        static_budget: int = 2,
        initial_budget: int = 2,
        budget_slope: int = 2,
        budget_ceiling: int = 6,
        cooldown: int = 1,
        max_large_steps: int = 24,
        verifier: bool = True,
        repeat_limit: int = 2,
        stall_limit: int = 2,
        check_tokens: int = 96,
        random_p: float = 0.3,
        seed: int = 0,
        hints: Hints = "auto",
    ) -> None:
        super().__init__()
        self._settings = CollabSettings(
            policy=policy,
            budget=budget,
            warmup_steps=warmup_steps,
            static_budget=static_budget,
            initial_budget=initial_budget,
            budget_slope=budget_slope,
            budget_ceiling=budget_ceiling,
            cooldown=cooldown,
            max_large_steps=max_large_steps,
            random_p=random_p,
            seed=seed,
        )
        self._large = init_chat_model(large) if isinstance(large, str) else large
        self._small = init_chat_model(small) if isinstance(small, str) else small
        self._verifier, self._repeat_limit, self._stall_limit = verifier, repeat_limit, stall_limit
        self._check_tokens = check_tokens
        self._hints = hints
        self._servers = Servers()
        self.tools: list[BaseTool] = []

    @property
    def name(self) -> str:
        """Name of the middleware; no other one has it."""
        return "agentinfer_escalation"

    def before_agent(self, state: EscalationState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Begin a run: budgets and the verifier's memory are those of one question."""
        memory = {"collab": start(self._settings).to_json(), "verifier": {}, "made": 0}
        return {**new_session(state), "agentinfer_escalation": memory}

    async def abefore_agent(self, state: EscalationState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Begin a run."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Judge the last step, choose the model of this one, and let it answer."""
        step = _Step(self, request)
        role = call_role()
        if role != "think":
            return handler(BACKGROUND.run(self._prepared(step, step.tier, role)))
        check = step.observed()
        if check:
            asked = BACKGROUND.run(self._prepared(step, step.tier, "progress"))
            try:
                with as_role("progress"):
                    step.verdict = _read(handler(asked))
            except GraphBubbleUp:
                raise
            except Exception as error:
                step.verdict = _unread(error)
        step.decide()
        try:
            response = handler(BACKGROUND.run(self._prepared(step, step.tier, "think")))
        except GraphBubbleUp:
            raise
        except Exception as error:
            if step.tier == "small":
                raise
            step.lost(error)
            response = handler(BACKGROUND.run(self._prepared(step, "small", "think")))
        return step.done(response)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Judge the last step, choose the model of this one, and let it answer."""
        step = _Step(self, request)
        role = call_role()
        if role != "think":
            return await handler(await self._prepared(step, step.tier, role))
        check = step.observed()
        if check:
            asked = await self._prepared(step, step.tier, "progress")
            try:
                with as_role("progress"):
                    step.verdict = _read(await handler(asked))
            except GraphBubbleUp:
                raise
            except Exception as error:
                step.verdict = _unread(error)
        step.decide()
        try:
            response = await handler(await self._prepared(step, step.tier, "think"))
        except GraphBubbleUp:
            raise
        except Exception as error:
            if step.tier == "small":
                raise
            step.lost(error)
            response = await handler(await self._prepared(step, "small", "think"))
        return step.done(response)

    async def _prepared(self, step: _Step, tier: Tier, role: str) -> ModelRequest[Any]:
        """Return the request of a call of that role to the model of `tier`."""
        request = step.request
        model = self._large if tier == "large" else self._small or request.model
        request = request.override(model=model)
        if role == "progress":
            request = await self._as_check(request)
        if await self._servers.wants_hints(model, self._hints):
            hints = SessionHints(session_id=step.session, turn=step.turn, role=role)  # type: ignore[arg-type]  # a CallRole is one
            request = hinted(request, hints, await self._servers.profile(model))
        return request

    async def _as_check(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        model = request.model
        question = HumanMessage(PROGRESS_PROMPT[_language(request.messages)], id=_CHECK_ID)
        # Its tokens are not the agent's: whoever streams messages must not see them.
        quiet = model.model_copy(update={"tags": [*(model.tags or []), TAG_NOSTREAM]})
        asked = request.override(model=quiet, messages=[*request.messages, question], response_format=None)
        if speaks_openai(model) and request.tools:
            asked = asked.override(tool_choice="none")  # they stay in the prompt, which must be the step's
        profile = await self._servers.profile(model)
        if profile is not None and profile.vllm:
            asked = extended(asked, {"structured_outputs": {"regex": PROGRESS_REGEX}})
        return limited(asked, self._check_tokens)

    def _observe(
        self, memory: VerifierState, messages: Sequence[AnyMessage], step: AIMessage
    ) -> tuple[VerifierState, str]:
        if not self._verifier:
            return memory, ""
        return observe(
            memory,
            _evidence(step, _results(messages, step)),
            repeat_limit=self._repeat_limit,
            stall_limit=self._stall_limit,
        )


class _Step:
    """One step of the agent, from the judgement on the one before to the answer of the model."""

    def __init__(self, middleware: EscalationMiddleware, request: ModelRequest[Any]) -> None:
        self.request = request
        self._middleware = middleware
        self._settings = middleware._settings
        state = request.state
        memory = state.get("agentinfer_escalation") or {}
        self.session: str = state.get("agentinfer_session") or ""
        saved = memory.get("collab")
        self._collab = CollabState.from_json(saved) if saved else start(self._settings)
        self._verifier = (
            VerifierState.from_json(memory["verifier"]) if memory.get("verifier") else VerifierState()
        )
        self._messages: list[AnyMessage] = state["messages"]
        self._last = next((m for m in reversed(self._messages) if isinstance(m, AIMessage)), None)
        self._judges = bool(memory.get("made")) and self._last is not None
        self._stall = ""
        self.turn = sum(isinstance(message, AIMessage) for message in self._messages)
        self.verdict = _SKIPPED

    @property
    def tier(self) -> Tier:
        """Model of the next call."""
        return self._collab.tier

    def observed(self) -> bool:
        """Take in what the last step led to, and tell whether its model is to be asked about it."""
        if not self._judges or self._last is None:
            return False
        self._verifier, self._stall = self._middleware._observe(self._verifier, self._messages, self._last)
        return needs_check(self._settings) and self._collab.phase != "warmup" and not self._stall

    def decide(self) -> None:
        """Account for the last step, and choose the model of this one."""
        if not self._judges or self._last is None:
            return
        failed = any(result.status == "error" for result in _results(self._messages, self._last))
        transition = advance(
            self._collab, self._settings, verdict=self.verdict.verdict, stall=self._stall, tool_error=failed
        )
        self._collab = transition.state
        self._tell(transition)

    def lost(self, error: Exception) -> None:
        """Say that the large model does not answer, and that the small one goes on."""
        sentence = f"The large model failed ({type(error).__name__}). The small model goes on instead."
        _log.warning(sentence)
        self._emit("warning", text=sentence)

    def done(self, response: ModelResponse[Any]) -> ExtendedModelResponse[Any]:
        """Return the answer with the change of the state."""
        memory = {"collab": self._collab.to_json(), "verifier": self._verifier.to_json(), "made": 1}
        return ExtendedModelResponse(response, Command(update={"agentinfer_escalation": memory}))

    def _tell(self, transition: Transition) -> None:
        self._emit("progress", verdict=self.verdict.verdict, text=self.verdict.reason, stall=self._stall)
        if transition.event == "escalate":
            self._emit("escalation", cause=transition.cause)
        elif transition.event in ("deescalate", "guardrail"):
            self._emit("deescalation", cause=transition.cause)

    def _emit(self, kind: str, **values: object) -> None:
        self.request.runtime.stream_writer({"event": kind, "agent": "agent", "turn": self.turn, **values})


def _language(messages: Sequence[AnyMessage]) -> Any:
    asked = next((message for message in messages if isinstance(message, HumanMessage)), None)
    return detect_language(text_of(asked)) if asked is not None else "en"


def _results(messages: Sequence[AnyMessage], step: AIMessage) -> list[ToolMessage]:
    after = messages[messages.index(step) + 1 :]
    return [message for message in after if isinstance(message, ToolMessage)]


def _evidence(step: AIMessage, results: Sequence[ToolMessage]) -> RoundEvidence:
    return RoundEvidence(
        actions=tuple(normalise_action(call["name"], call["args"]) for call in step.tool_calls),
        evidence=tuple(text for result in results if result.status != "error" and (text := text_of(result))),
        thought=text_of(step),
        errors=sum(result.status == "error" for result in results),
    )


def _read(response: ModelResponse[Any]) -> ParsedVerdict:
    return parse_verdict(
        "\n".join(text_of(message) for message in response.result if isinstance(message, AIMessage))
    )


def _unread(error: Exception) -> ParsedVerdict:
    return ParsedVerdict("UNREADABLE", f"the check failed: {type(error).__name__}")
