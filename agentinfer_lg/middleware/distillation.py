"""Distillation (AgentCompress): old tool results are distilled in the background and replaced between two model calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command

from agentinfer_lg.compression.background import BackgroundTasks
from agentinfer_lg.context import CompressionMode
from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.middleware.background import BACKGROUND, ThreadStore, in_thread
from agentinfer_lg.middleware.boundary import Boundary, Knobs, Shared
from agentinfer_lg.middleware.recall import recall_tool
from agentinfer_lg.middleware.requests import as_role, call_role
from agentinfer_lg.middleware.servers import Hints, Servers
from agentinfer_lg.middleware.session import SessionState, new_session


class DistillationState(SessionState):
    """State of an agent with its notes."""

    agentinfer_distillation: Annotated[dict[str, Any], PrivateStateAttr]


class DistillationMiddleware(AgentMiddleware):
    """Keeps the context of a long-running agent short without making it wait.

    Once the context is long, a model writes notes on old tool results while the agent goes on. Code checks each line
    against the results. When the notes are there (and an OpenAI-compatible server has the new prompt in its cache), they
    take the place of the results in what the model sees, at one model call; until the next compaction each prompt extends the
    one before. The messages of the state are never changed. Results are numbered in their order, and the tool `recall`
    gives back the original of each.

    Args:
        distiller: The model that writes notes, best a small one: a chat model, or a name for LangChain's
            `init_chat_model`; None: the agent's own.
        compression: In the background, with the call waiting for it (`barrier`: repeatable), or not at all.
        compress_after_tokens: Length of a context, in tokens, from which old results are distilled.
        keep_rounds: Last rounds whose results stay whole.
        notes_tokens: Most tokens of the notes.
        prewarm: Prefill the new prompt in the background before it is used, on OpenAI-compatible servers that have a
            `base_url`.
        recall: Offer the tool `recall`.
        auto_recall: When a message of the user asks for what the notes leave out, show that result as if it had been recalled.
        max_observation_tokens: Most tokens of one answer of `recall`; of a longer result the slices that match best.
            A result that is shown by `auto_recall` gets half of them.
        distill_seconds: Seconds for one distillation; then sentences of the results stand in.
        max_turns: Model calls that the agent may make in all, if that is known: notes that come too late to pay are left.
        hints: Whether session hints are sent with each call.

    Raises:
        ConfigurationError: A number is out of range.
    """

    state_schema = DistillationState

    def __init__(
        self,
        *,
        distiller: BaseChatModel | str | None = None,
        compression: CompressionMode = "background",
        compress_after_tokens: int = 5000,
        keep_rounds: int = 2,
        notes_tokens: int = 1000,
        prewarm: bool = True,
        recall: bool = True,
        auto_recall: bool = True,
        max_observation_tokens: int = 1500,
        distill_seconds: float = 300.0,
        max_turns: int | None = None,
        hints: Hints = "auto",
    ) -> None:
        super().__init__()
        _require(compress_after_tokens >= 1, "compress_after_tokens must be at least 1")
        _require(keep_rounds >= 0, "keep_rounds must not be negative")
        _require(notes_tokens >= 100, "notes_tokens must be at least 100")
        _require(max_observation_tokens >= 1, "max_observation_tokens must be at least 1")
        _require(distill_seconds > 0, "distill_seconds must be more than 0")
        knobs = Knobs(
            compression=compression,
            compress_after_tokens=compress_after_tokens,
            keep_rounds=keep_rounds,
            notes_tokens=notes_tokens,
            prewarm=prewarm,
            recall=recall,
            auto_recall=auto_recall,
            max_observation_tokens=max_observation_tokens,
            distill_seconds=distill_seconds,
            max_turns=max_turns,
            hints=hints,
        )
        model = init_chat_model(distiller) if isinstance(distiller, str) else distiller
        self._shared = Shared(
            knobs=knobs,
            distiller=model,
            background=BackgroundTasks(),
            servers=Servers(),
            spare=InMemoryStore(),
        )
        self.tools = [recall_tool(tokens=max_observation_tokens)] if recall else []

    @property
    def name(self) -> str:
        """Name of the middleware; no other one has it."""
        return "agentinfer_distillation"

    def before_agent(self, state: DistillationState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Name the session."""
        return new_session(state)

    async def abefore_agent(self, state: DistillationState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Name the session."""
        return new_session(state)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Do what is to be done for compression, and call the model with what it is to see."""

        def call(warming: ModelRequest[Any]) -> ModelResponse[Any]:
            with as_role("prewarm"):
                return handler(warming)

        async def prewarm(warming: ModelRequest[Any]) -> object:
            return await in_thread(lambda: call(warming))

        store = request.runtime.store
        boundary = Boundary(request, self._shared, ThreadStore(store) if store is not None else None, prewarm)
        seen = BACKGROUND.run(boundary.step(call_role()))
        boundary.stream()
        return _finished(boundary, handler(seen))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Do what is to be done for compression, and call the model with what it is to see."""

        async def prewarm(warming: ModelRequest[Any]) -> object:
            with as_role("prewarm"):
                return await handler(warming)

        boundary = Boundary(request, self._shared, request.runtime.store, prewarm)
        seen = await boundary.step(call_role())
        boundary.stream()
        return _finished(boundary, await handler(seen))


def _finished(
    boundary: Boundary, response: ModelResponse[Any]
) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    if boundary.update is None:
        return response
    return ExtendedModelResponse(response, Command(update={"agentinfer_distillation": boundary.update}))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigurationError(message)
