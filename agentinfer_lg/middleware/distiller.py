"""The distiller: a chat model of the caller's, as the distillation calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.calling import Called, call_record
from agentinfer_lg.llm.chat import ChatTier, Guide
from agentinfer_lg.llm.probe import EndpointProfile
from agentinfer_lg.middleware.requests import base_url
from agentinfer_lg.settings import EndpointSettings, Tier


class Distiller:
    """Calls a chat model for notes.

    Args:
        model: The chat model.
        profile: What is known of its server.
        session: Whose results are distilled.
        turn: Model calls that the agent has made.
        hints: Send session hints.
    """

    def __init__(
        self, model: BaseChatModel, profile: EndpointProfile | None, *, session: str, turn: int, hints: bool
    ) -> None:
        endpoint = EndpointSettings(base_url=base_url(model), hints="on" if hints else "off")
        self._tier = ChatTier("small", endpoint, model=model, profile=profile)
        self._session, self._turn = session, turn

    async def call(
        self,
        tier: Tier,
        messages: Sequence[BaseMessage],
        *,
        role: Literal["distill"],
        max_tokens: int,
        guide: Guide | None,
        fallback: bool,
    ) -> Called:
        """Return the reply and its record.

        Raises:
            EndpointError: The model does not answer.
        """
        hints = SessionHints(
            session_id=self._session, turn=self._turn, role=role, output_tokens=max_tokens, final=True
        )
        reply = await self._tier.call(messages, hints=hints, max_tokens=max_tokens, guide=guide)
        return Called(reply, call_record(reply, agent="agent", turn=self._turn, role=role, tier=tier))
