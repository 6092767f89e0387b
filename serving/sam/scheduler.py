"""A scheduler under which a new request does not wait longer because others speculate.

A step that computes a prompt also verifies the drafts of the requests that decode; on a device that is busy with the
prompt already, that delays the first token of the new request and of all that wait behind it. So such steps verify no
drafts: they wait for nothing but what they would compute without speculation. The drafts were cheap, and are made anew.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

__all__ = ("SCHEDULER", "drop_drafts_before_prefill", "make_scheduler")

SCHEDULER = "agentinfer_lg.serving.sam.scheduler.make_scheduler"
"""Value of vLLM's `--scheduler-cls`."""


def make_scheduler(**parts: Any) -> Any:  # Any: vLLM's scheduler and what it is made of
    """Return vLLM's own scheduler, extended; vLLM calls this as if it were a class."""
    asynchronous = parts["vllm_config"].scheduler_config.async_scheduling
    return _extended(bool(asynchronous))(**parts)


def drop_drafts_before_prefill(scheduler: Any) -> int:
    """Drop all drafts if the next step will compute a prompt; return how many tokens that were.

    Args:
        scheduler: vLLM's; `waiting` and `running` are read, and the drafts of running requests emptied.
    """
    admits = bool(scheduler.waiting) and len(scheduler.running) < scheduler.max_num_running_reqs
    if not admits and not any(
        request.num_computed_tokens < request.num_prompt_tokens for request in scheduler.running
    ):
        return 0
    dropped = 0
    for request in scheduler.running:
        dropped += len(request.spec_token_ids)
        request.spec_token_ids = []
    return dropped


@functools.cache
def _extended(asynchronous: bool) -> Any:
    # Imported here: a plugin for another device may have replaced the class when the engine makes its scheduler.
    name = "async_scheduler.AsyncScheduler" if asynchronous else "scheduler.Scheduler"
    module, _, kind = name.partition(".")
    base: Any = getattr(importlib.import_module(f"vllm.v1.core.sched.{module}"), kind)

    class PrefillFirst(base):  # type: ignore[misc]  # a class of vLLM
        """Steps with a prefill verify no drafts."""

        def schedule(self, *args: Any, **kwargs: Any) -> Any:
            """See vLLM's scheduler."""
            drop_drafts_before_prefill(self)
            return super().schedule(*args, **kwargs)

    return PrefillFirst
