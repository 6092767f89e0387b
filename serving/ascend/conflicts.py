"""Options of vLLM-Ascend that choose a scheduler of its own, which AgentSched cannot work with.

Most of them put their scheduler in the place of ours without a word; balance scheduling changes the class below ours.
They are part of vLLM's `--additional-config`; versions after 0.23 have them in its section `scheduler_config`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from agentinfer_lg.errors import EngineError

_BALANCE = "VLLM_ASCEND_BALANCE_SCHEDULING"
_SWITCHES = {
    "recompute_scheduler_enable": "recompute scheduler",
    "enable_balance_scheduling": "balance scheduling",
}
"""Options that are switches, and what they choose."""
_SECTIONS = {
    "profiling_chunk_config": "profiling chunk scheduler",
    "short_request_first_config": "short-request-first scheduler",
    "dyntra_lb_config": "load-balancing scheduler",
    "batch_job_sched_config": "batch-job scheduler",
}
"""Options that are objects with a switch `enabled`, and what they choose."""
_DYNAMIC_BATCH = "SLO_limits_for_dynamic_batch"


def scheduler_conflict(additional: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """Return which option chooses a scheduler of Ascend, as a clause; empty if none does.

    Args:
        additional: vLLM's `additional_config`.
        environ: Variables of the engine.
    """
    if additional.get(_DYNAMIC_BATCH, -1) != -1:
        return _clause(_DYNAMIC_BATCH, "dynamic batch scheduler")
    nested = additional.get("scheduler_config")
    for prefix, options in (("", additional), ("scheduler_config.", nested)):
        name = _chosen(options) if isinstance(options, Mapping) else ""
        if name:
            return _clause(prefix + name, _SWITCHES.get(name) or _SECTIONS[name])
    if _balance_by_variable(additional, environ):
        return f"the variable {_BALANCE} chooses Ascend's {_SWITCHES['enable_balance_scheduling']}"
    return ""


def check_scheduler(
    vllm_config: Any, environ: Mapping[str, str]
) -> None:  # Any: vLLM's, without types for us
    """Refuse to be the scheduler of an engine that is told to use one of Ascend's.

    Args:
        vllm_config: vLLM's configuration.
        environ: Variables of the engine.

    Raises:
        EngineError: An option of Ascend chooses another scheduler.
    """
    if "vllm_ascend" not in sys.modules:
        return
    additional = getattr(vllm_config, "additional_config", None)
    clause = scheduler_conflict(additional if isinstance(additional, Mapping) else {}, environ)
    if clause:
        msg = f"AgentSched cannot run: {clause}; take that out, or start without AgentSched (--no-sched)"
        raise EngineError(msg)


def _clause(option: str, scheduler: str) -> str:
    return f"{option} in --additional-config chooses Ascend's {scheduler}"


def _chosen(options: Mapping[str, Any]) -> str:
    for name in _SWITCHES:
        if options.get(name):
            return name
    for name in _SECTIONS:
        section = options.get(name)
        if isinstance(section, Mapping) and section.get("enabled"):
            return name
    return ""


def _balance_by_variable(additional: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether the variable counts, which the option overrides, and is set."""
    if "enable_balance_scheduling" in additional:
        return False
    value = environ.get(_BALANCE, "").strip()
    return value not in ("", "0")
