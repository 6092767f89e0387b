"""Where the settings of AgentSAM and AgentSched come from inside the engine.

They travel in vLLM's `additional_config`, and in the variable `AGENTINFER_CONFIG`, which the engine's processes inherit:
on NPUs it is the only way, because versions of vLLM-Ascend after 0.23 refuse keys of others in `additional_config`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from agentinfer_lg.errors import ConfigurationError

PartName = Literal["sam", "sched"]

VARIABLE = "AGENTINFER_CONFIG"
_PARTS: tuple[PartName, ...] = ("sam", "sched")


def part_settings(
    vllm_config: Any, part: PartName, environ: Mapping[str, str]
) -> object:  # Any: vLLM's, without types for us
    """Return the settings of a part as they were given, for the part to parse; None if there are none.

    Args:
        vllm_config: vLLM's configuration; its `additional_config["agentinfer"]` wins, setting by setting.
        part: Name of the part's settings.
        environ: Variables of the engine.

    Raises:
        ConfigurationError: The variable or `additional_config["agentinfer"]` is no object of parts.
    """
    additional = getattr(vllm_config, "additional_config", None)
    ours = additional.get("agentinfer") if isinstance(additional, Mapping) else None
    if ours is not None and not isinstance(ours, Mapping):
        msg = f"additional_config['agentinfer'] must be a JSON object, got {type(ours).__name__}"
        raise ConfigurationError(msg)
    return joined(variable_settings(environ).get(part), (ours or {}).get(part))


def joined(first: object, winner: object) -> object:
    """Return settings of one part from two places; what is no object is left for the part to refuse."""
    if isinstance(first, Mapping) and isinstance(winner, Mapping):
        return {**first, **winner}
    return first if winner is None else winner


def variable_settings(environ: Mapping[str, str]) -> dict[str, Any]:  # Any: JSON
    """Return what the variable `AGENTINFER_CONFIG` says: name of each part to its settings.

    Args:
        environ: Variables of the engine.

    Raises:
        ConfigurationError: It is no JSON object, or names something else than the parts.
    """
    text = environ.get(VARIABLE, "").strip()
    try:
        settings = json.loads(text) if text else {}
    except ValueError as error:
        msg = f"{VARIABLE} is no JSON ({error})"
        raise ConfigurationError(msg) from None
    if not isinstance(settings, dict):
        msg = f"{VARIABLE} must be a JSON object with the keys {' and '.join(_PARTS)}"
        raise ConfigurationError(msg)
    unknown = sorted(settings.keys() - set(_PARTS))
    if unknown:
        msg = f"{VARIABLE} has no part {', '.join(unknown)}; there are {', '.join(_PARTS)}"
        raise ConfigurationError(msg)
    return settings
