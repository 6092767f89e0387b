"""The limits of vLLM's next step: how much of a prompt, and how many tokens in all.

vLLM reads them from its scheduler. They are set before a step and taken back after it.
"""

from __future__ import annotations

from typing import Any

from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.policy.step_limit import prefill_limit

_SEVERAL = 2
"""Requests from which on one may delay another."""


def may_split(scheduler: Any) -> bool:
    """Whether prompts may be computed in smaller pieces than vLLM's.

    After a piece vLLM takes back what it drew for a request with a seed. A generator on a CPU cannot do that: the engine
    would die.
    """
    if scheduler.vllm_config.device_config.device_type != "cpu":
        return True
    prompts = (*scheduler.waiting, *(request for request in scheduler.running if not _decodes(request)))
    return not any(_is_seeded(request) for request in prompts)


def limit_chunks(scheduler: Any, settings: SchedConfig) -> None:
    """Leave room beside long prompts for short ones that wait, where the operator has set no limit of his own."""
    tokens = int(settings.prefill_chunk_tokens)
    config = scheduler.scheduler_config
    if tokens and settings.admission and scheduler.waiting and not config.long_prefill_token_threshold:
        config.long_prefill_token_threshold = tokens


def limit_step(scheduler: Any, settings: SchedConfig, *, tokens_per_second: float) -> bool:
    """Let a step with several requests end soon; those that decode come first, and get all they need.

    Args:
        scheduler: vLLM's, whose running requests are put in order.
        settings: How long a step may take.
        tokens_per_second: Speed of prefill; 0 while it is unknown.

    Returns:
        Whether the step holds less than vLLM allows.
    """
    limit = prefill_limit(
        tokens_per_second=tokens_per_second,
        step_seconds=settings.step_seconds,
        least=int(settings.least_step_tokens),
    )
    running, waiting = scheduler.running, scheduler.waiting
    decoding = [request for request in running if _decodes(request)]
    several = len(running) + len(waiting) >= _SEVERAL
    if limit is None or not several or (len(decoding) == len(running) and not waiting):
        return False
    limit += sum(1 + len(request.spec_token_ids) for request in decoding)
    if limit >= scheduler.max_num_scheduled_tokens:
        return False
    running.sort(key=lambda request: not _decodes(request))
    scheduler.max_num_scheduled_tokens = limit
    return True


def uncomputed(request: Any) -> int:
    """Return the tokens of its text so far that are not in the cache, drafts aside."""
    return int(request.num_tokens - request.num_computed_tokens)


def _is_seeded(request: Any) -> bool:
    return getattr(request.sampling_params, "seed", None) is not None


def _decodes(request: Any) -> bool:
    return uncomputed(request) <= 1
