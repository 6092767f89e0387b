"""The session: the identity that both middlewares give to one growing context."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from langchain.agents.middleware.types import AgentState, PrivateStateAttr


class SessionState(AgentState):  # type: ignore[misc,unused-ignore]
    """State of an agent with the session's name."""

    agentinfer_session: Annotated[str, PrivateStateAttr]


def new_session(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the change of the state that names the session; drawn at random, so that nothing in it comes from a user."""
    return {} if state.get("agentinfer_session") else {"agentinfer_session": secrets.token_hex(8)}


def text_of(message: Any) -> str:
    """Return the text of a message, without blocks of other kinds."""
    return message.content if isinstance(message.content, str) else str(message.text)
