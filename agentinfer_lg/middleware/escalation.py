"""Escalation (AgentCollab): the agent's own Progress Check decides which of two models makes its next step."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Annotated, Any, Unpack

from langchain.agents.middleware.types import (
    AgentMiddleware,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
)
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool
from langgraph.constants import TAG_NOSTREAM
from langgraph.runtime import Runtime

from agentinfer_lg.collab.controller import CollabKnobs, CollabSettings, start
from agentinfer_lg.collab.progress_check import PROGRESS_PROMPT, PROGRESS_REGEX
from agentinfer_lg.context import DEFAULTS
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.middleware.background import BACKGROUND
from agentinfer_lg.middleware.escalation_step import Call, EscalationStep, Judgement, language_of
from agentinfer_lg.middleware.requests import as_role, call_role, extended, hinted, limited, speaks_openai
from agentinfer_lg.middleware.servers import Hints, Servers
from agentinfer_lg.middleware.session import SessionState, new_session

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
        verifier: Look without a model, too, for repeated actions and thoughts and rounds without new evidence.
        repeat_limit: How often one action may be made before it counts as a repeat.
        stall_limit: Rounds in a row without new evidence that count as no progress.
        check_tokens: Most tokens of a check; a model that thinks before it answers needs more.
        hints: Whether session hints are sent with each call.
        **knobs: Policy and budgets: `policy`, `budget`, `warmup_steps`, `static_budget`, `initial_budget`,
            `budget_slope`, `budget_ceiling`, `cooldown`, `max_large_steps`, `random_p`, `seed`. They have the defaults
            and the meaning of the knobs of `agentinfer_lg.Context` with these names; `docs/middleware.md` lists them.

    Raises:
        ConfigurationError: A number is out of range, or a policy or budget does not exist.
    """

    state_schema = EscalationState

    def __init__(
        self,
        *,
        large: BaseChatModel | str,
        small: BaseChatModel | str | None = None,
        verifier: bool = DEFAULTS.verifier,
        repeat_limit: int = DEFAULTS.repeat_limit,
        stall_limit: int = DEFAULTS.stall_limit,
        check_tokens: int = 96,
        hints: Hints = "auto",
        **knobs: Unpack[CollabKnobs],
    ) -> None:
        super().__init__()
        self._judgement = Judgement(
            collab=CollabSettings(agent="", **knobs),
            verifier=verifier,
            repeat_limit=repeat_limit,
            stall_limit=stall_limit,
        )
        self._large = init_chat_model(large) if isinstance(large, str) else large
        self._small = init_chat_model(small) if isinstance(small, str) else small
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
        memory = {"collab": start(self._judgement.collab).to_json(), "verifier": {}, "made": 0}
        return {**new_session(state), "agentinfer_escalation": memory}

    async def abefore_agent(self, state: EscalationState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Begin a run."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Judge the last step, choose the model of this one, and let it answer."""
        step = EscalationStep(request, self._judgement, role=call_role())
        while step.call is not None:
            try:
                asked = BACKGROUND.run(self._prepared(step, step.call))
                with as_role(step.call.role):
                    response = handler(asked)
            except Exception as error:
                step.failed(error)
            else:
                step.answered(response)
        return step.outcome

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Judge the last step, choose the model of this one, and let it answer."""
        step = EscalationStep(request, self._judgement, role=call_role())
        while step.call is not None:
            try:
                asked = await self._prepared(step, step.call)
                with as_role(step.call.role):
                    response = await handler(asked)
            except Exception as error:
                step.failed(error)
            else:
                step.answered(response)
        return step.outcome

    async def _prepared(self, step: EscalationStep, call: Call) -> ModelRequest[Any]:
        """Return the request of a call."""
        request = step.request
        model = self._large if call.tier == "large" else self._small or request.model
        request = request.override(model=model)
        if call.role == "progress":
            request = await self._as_check(request)
        if await self._servers.wants_hints(model, self._hints):
            hints = SessionHints(session_id=step.session, turn=step.turn, role=call.role)
            request = hinted(request, hints, await self._servers.profile(model))
        return request

    async def _as_check(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        model = request.model
        question = HumanMessage(PROGRESS_PROMPT[language_of(request.messages)], id=_CHECK_ID)
        # Its tokens are not the agent's: whoever streams messages must not see them.
        quiet = model.model_copy(update={"tags": [*(model.tags or []), TAG_NOSTREAM]})
        asked = request.override(model=quiet, messages=[*request.messages, question], response_format=None)
        if speaks_openai(model) and request.tools:
            asked = asked.override(tool_choice="none")  # they stay in the prompt, which must be the step's
        profile = await self._servers.profile(model)
        if profile is not None and profile.vllm:
            asked = extended(asked, {"structured_outputs": {"regex": PROGRESS_REGEX}})
        return limited(asked, self._check_tokens)


def _signature() -> inspect.Signature:
    """Return the signature of the middleware with each knob by name, as `help` and notebooks show it."""
    written = inspect.signature(EscalationMiddleware.__init__)
    defaults = {field.name: field.default for field in fields(CollabSettings)}
    knobs = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name],
            annotation=CollabSettings.__annotations__[name],
        )
        for name in CollabKnobs.__annotations__
    ]
    fixed = [one for one in written.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    return written.replace(parameters=[*fixed, *knobs])


EscalationMiddleware.__init__.__signature__ = _signature()  # type: ignore[attr-defined]  # functions have one
