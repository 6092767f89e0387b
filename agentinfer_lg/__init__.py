"""A LangGraph deep-research agent and a vLLM plugin that know about each other.

    from agentinfer_lg import Context, create_deep_research_graph

    graph = create_deep_research_graph()
    state = await graph.ainvoke({"question": "Who designed the bridge?"}, context=Context(max_seekers=2))
    print(state["report"])

Names are loaded when first used: importing the package imports neither LangGraph nor an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentinfer_lg.context import Context
    from agentinfer_lg.errors import (
        AgentInferError,
        CheckpointError,
        ConfigurationError,
        EndpointError,
        EngineError,
        ToolError,
        UserInputError,
    )
    from agentinfer_lg.graphs.deep_research import create_deep_research_graph
    from agentinfer_lg.settings import EndpointSettings, Settings

    __version__: str

__all__ = (
    "AgentInferError",
    "CheckpointError",
    "ConfigurationError",
    "Context",
    "EndpointError",
    "EndpointSettings",
    "EngineError",
    "Settings",
    "ToolError",
    "UserInputError",
    "__version__",
    "create_deep_research_graph",
)

_HOMES = {
    "Context": "agentinfer_lg.context",
    "EndpointSettings": "agentinfer_lg.settings",
    "Settings": "agentinfer_lg.settings",
    "create_deep_research_graph": "agentinfer_lg.graphs.deep_research",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("agentinfer-lg")
        except PackageNotFoundError:  # run from a checkout that is not installed
            return "0+unknown"
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_HOMES.get(name, "agentinfer_lg.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
