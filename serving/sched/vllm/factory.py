"""Makes AgentSched on top of the scheduler of the engine at hand, or that one alone where AgentSched cannot be made."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from agentinfer_lg.errors import AgentInferError
from agentinfer_lg.serving.ascend.conflicts import check_scheduler
from agentinfer_lg.serving.parts.log import join_engine_log

_log = logging.getLogger(__name__)


def make_scheduler(**parts: Any) -> Any:  # Any: vLLM's objects, without types for us
    """Make the scheduler that fits the engine; the value of vLLM's `--scheduler-cls`.

    Where this vLLM has not what AgentSched needs, the log says so once, and vLLM schedules alone. Settings that are wrong are
    errors.

    Args:
        parts: Keyword arguments with which vLLM makes its scheduler.

    Raises:
        ConfigurationError: A setting is wrong.
        EngineError: An option of vLLM-Ascend chooses another scheduler.
    """
    check_scheduler(parts["vllm_config"], os.environ)
    base = _base(overlapping=bool(parts["vllm_config"].scheduler_config.async_scheduling))
    try:
        mixin = importlib.import_module("agentinfer_lg.serving.sched.vllm.scheduler").AgentSchedMixin
        return type("AgentScheduler", (mixin, base), {})(**parts)
    except AgentInferError:
        raise
    except Exception:
        join_engine_log()
        _log.exception(
            "AgentSched cannot start in this vLLM, which schedules alone; `agentinfer try-vllm` says more"
        )
        return base(**parts)


def _base(*, overlapping: bool) -> Any:
    if overlapping:
        return importlib.import_module("vllm.v1.core.sched.async_scheduler").AsyncScheduler
    return importlib.import_module("vllm.v1.core.sched.scheduler").Scheduler
