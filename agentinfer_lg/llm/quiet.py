"""Whether a call asks a reasoning model to do without thinking."""

from __future__ import annotations

import re
from typing import Final

from agentinfer_lg.hints import AgentRole
from agentinfer_lg.llm.capabilities import Capabilities
from agentinfer_lg.settings import Thinking

_QUIET_ROLES: Final[frozenset[AgentRole]] = frozenset({"progress", "filter", "qa"})
"""Short calls."""
_SWITCHED: Final = re.compile(r"qwen-?3|smollm3|hunyuan|nemotron", re.IGNORECASE)
"""Names of models that know `/no_think`."""


def asks_for_quiet(
    role: AgentRole | None, known: Capabilities, *, thinking: Thinking, model: str, brief: bool
) -> bool:
    """Return whether a call asks for no thinking.

    Args:
        role: What the call is for.
        known: What is known of the model.
        thinking: What the owner of the endpoint wants.
        model: Its name.
        brief: Whether the answer is to be brief, since longer ones were cut.
    """
    if thinking != "auto":
        return thinking == "off"
    if not known.thinks or known.quiet == "none":
        return False
    if known.quiet == "effort" and role == "progress":
        return False  # it would change the beginning of a prompt that the server has cached
    if known.quiet == "switch" and not _SWITCHED.search(model):
        return False
    return brief or role in _QUIET_ROLES
