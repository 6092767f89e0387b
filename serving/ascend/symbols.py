"""Symbols of vLLM-Ascend that we replace or extend: each is taken only if it is as we know it."""

from __future__ import annotations

import inspect
import sys
from importlib import metadata
from typing import Any

from agentinfer_lg.errors import EngineError
from agentinfer_lg.serving.ascend.releases import RELEASES

KNOWN_VERSIONS = tuple(release.vllm_ascend for release in RELEASES)
"""Releases of vllm-ascend in which what is replaced was looked at, and tried."""


def known_symbol(  # Any: Ascend's functions and classes, without types for us
    module: str, name: str, *, parameters: tuple[str, ...], part: str, switch: str
) -> Any:
    """Return a symbol of a module that is loaded already; loading it here would change the order of Ascend's patches.

    Args:
        module: Full name of the module.
        name: Name of a function or class in it.
        parameters: Names of the parameters that it must take, without `self`.
        part: What needs it, as messages name it.
        switch: How to start without that part.

    Raises:
        EngineError: It is not there, or takes something else.
    """
    found = _difference(module, name, parameters)
    if found:
        msg = (
            f"{part} does not fit this vllm-ascend ({_version()}): {module}.{name} {found}; "
            f"it fits vllm-ascend {', '.join(KNOWN_VERSIONS)}; start without {part}: {switch}"
        )
        raise EngineError(msg)
    return getattr(sys.modules[module], name)


def _difference(module: str, name: str, parameters: tuple[str, ...]) -> str:
    """Say what is wrong with a symbol, as the rest of a sentence about it; empty if nothing is."""
    symbol = getattr(sys.modules.get(module), name, None)
    if symbol is None:
        return "is not there"
    try:
        taken = tuple(inspect.signature(symbol).parameters)
    except (TypeError, ValueError):
        return "is no function or class that tells its parameters"
    return "" if taken == parameters else f"takes ({', '.join(taken)}) instead of ({', '.join(parameters)})"


def _version() -> str:
    try:
        return metadata.version("vllm-ascend")
    except metadata.PackageNotFoundError:
        return "of unknown version"
