"""AgentCollab and AgentCompress for the agents of LangChain's `create_agent` and of deepagents.

    from agentinfer_lg.middleware import DistillationMiddleware, EscalationMiddleware

    agent = create_agent(
        small, tools, middleware=[EscalationMiddleware(large=large), DistillationMiddleware(distiller=small)]
    )

Needs the extra `middleware`. Names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentinfer_lg.middleware.distillation import DistillationMiddleware
    from agentinfer_lg.middleware.escalation import EscalationMiddleware

__all__ = ("DistillationMiddleware", "EscalationMiddleware")

_HOMES = {
    "DistillationMiddleware": "agentinfer_lg.middleware.distillation",
    "EscalationMiddleware": "agentinfer_lg.middleware.escalation",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "langchain":
            raise
        msg = f"{name} needs LangChain: pip install 'agentinfer-lg[middleware]'."
        raise ImportError(msg, name="langchain") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
