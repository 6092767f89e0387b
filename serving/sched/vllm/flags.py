"""What makes vLLM schedule with AgentSched: its flags, or the reason why it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from agentinfer_lg.serving.compat.releases import obstacle
from agentinfer_lg.serving.engine.flags import PartFlags, not_generating
from agentinfer_lg.serving.sched.config import SchedConfig

SCHEDULER_CLASS = "agentinfer_lg.serving.sched.factory.make_scheduler"

_CONFLICTS = {
    "kv-transfer-config": "a connector moves KV caches, which it does not follow",
    "kv-offloading-size": "a connector moves KV caches, which it does not follow",
    "ec-transfer-config": "a connector moves encoder caches, which it does not follow",
}
_NO_CACHE = (
    "AgentSched only orders requests and keeps no cache: prefix caching is off (--no-enable-prefix-caching)"
)


def sched_flags(config: SchedConfig, *, given: Mapping[str, str], obstacle: str = "") -> PartFlags:
    """Decide whether AgentSched can run with the user's arguments, and return vLLM's flags for it.

    Args:
        config: Its settings.
        given: The user's flags and their values, from `given_flags`; they win.
        obstacle: Why the installed engine or the model cannot, from `scheduler_obstacle`.
    """
    off = obstacle or _reason_off(given)
    if off:
        return PartFlags(off=off)
    note = _NO_CACHE if _prefix_caching_off(given) and config.retention != "off" else ""
    return PartFlags(flags=(("scheduler-cls", SCHEDULER_CLASS),), settings=config.to_values(), note=note)


def scheduler_obstacle(model: str) -> str:
    """Return why the installed engine cannot serve `model` with AgentSched; empty if it can. Nothing is imported.

    Args:
        model: Folder or name of the model; only a folder is looked at.
    """
    if misfit := obstacle("sched"):
        return misfit
    try:
        settings = json.loads((Path(model).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return ""  # no folder, or one about which vLLM will say what is wrong
    if isinstance(settings, dict) and settings.get("is_encoder_decoder") is True:
        return "an encoder-decoder model has no prefixes to keep"
    return ""


def _reason_off(given: Mapping[str, str]) -> str:
    if "scheduler-cls" in given:
        return "--scheduler-cls chooses another scheduler"
    if given.get("scheduling-policy", "fcfs") != "fcfs":
        return f"--scheduling-policy {given['scheduling-policy']} chooses another order"
    if flag := not_generating(given):
        return f"only text generation is scheduled so (--{flag})"
    for name, why in _CONFLICTS.items():
        if name in given:
            return f"{why} (--{name})"
    return ""


def _prefix_caching_off(given: Mapping[str, str]) -> bool:
    switched = given.get("enable-prefix-caching", "").lower()
    return "no-enable-prefix-caching" in given or switched in ("false", "0")
