"""The worker extension: tells our proposer what vLLM's interface for proposers leaves out.

A proposer gets rows of token ids. This module, imported by vLLM in each worker process before the worker is made,
binds it to the model runner, so that it also sees request ids, session hints, the beginning and the end of requests,
and how long a step takes. Nothing of vLLM is replaced: one constructor is followed by the binding, and two methods of
one object are preceded by a look at their arguments. vLLM-Ascend needs a patch besides (`serving/ascend`), which is
applied here. Numba must not be imported here: vLLM's worker looks through the loaded modules and fails at its library.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

from agentinfer_lg.serving.ascend.patches import patch_runner, patch_worker
from agentinfer_lg.serving.parts.log import join_engine_log
from agentinfer_lg.serving.sam.vllm.binding import BoundProposer, note_proposer

_log = logging.getLogger(__name__)
_MARK = "_agentinfer_follows"


class AgentInferWorkerExtension:
    """Methods that vLLM adds to its worker, for `collective_rpc`."""

    def agentinfer_stats(self) -> dict[str, float]:
        """Return the counters of AgentSAM in this worker; empty where it does not draft."""
        drafter = getattr(getattr(self, "model_runner", None), "drafter", None)
        return drafter.stats() if isinstance(drafter, BoundProposer) else {}


def follow_model_runner(runner_class: type[Any]) -> None:  # Any: vLLM's class, without types for us
    """Bind the proposer of every model runner that will be made; does nothing the second time.

    Args:
        runner_class: vLLM's `GPUModelRunner`, which the runners of all devices extend.
    """
    if _MARK in vars(runner_class):
        return
    make: Callable[..., None] = runner_class.__init__

    @functools.wraps(make)
    def make_and_bind(self: Any, *args: Any, **kwargs: Any) -> None:
        patch_runner(type(self))
        make(self, *args, **kwargs)
        _bind(self)

    runner_class.__init__ = make_and_bind
    setattr(runner_class, _MARK, True)


def _bind(runner: Any) -> None:
    drafter = getattr(runner, "drafter", None)
    if not isinstance(drafter, BoundProposer):
        return
    note_proposer(runner, drafter)
    missing = [name for name in ("execute_model", "input_batch", "requests") if not hasattr(runner, name)]
    if missing:
        _log.warning(
            "AgentSAM knows requests by their content only: this vLLM's model runner has no %s",
            ", ".join(missing),
        )
        return
    drafter.bind_runner(runner)
    execute: Callable[..., Any] = runner.execute_model
    bound: BoundProposer = drafter

    @functools.wraps(execute)
    def note_and_execute(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal bound
        current = getattr(runner, "drafter", None)
        if current is not bound and isinstance(current, BoundProposer):
            current.bind_runner(runner)  # the runner of another device has replaced its proposer since
            bound = current
        if current is bound:
            current.begin_step(scheduler_output)
        return execute(scheduler_output, *args, **kwargs)

    runner.execute_model = note_and_execute
    _sample_plainly_without_drafts(runner)


def _sample_plainly_without_drafts(runner: Any) -> None:
    """Let a step that verifies no draft be sampled as without speculation.

    vLLM 0.32 sends every step through the rejection sampler once speculation is configured, at some cost.
    """
    sample: Callable[..., Any] | None = getattr(runner, "_sample", None)
    if sample is None or not hasattr(runner, "sampler"):
        return

    @functools.wraps(sample)
    def sample_or_verify(logits: Any, spec_decode_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        drafted = getattr(spec_decode_metadata, "num_draft_tokens", None)
        nothing = isinstance(drafted, list) and not any(drafted)
        return sample(logits, None if nothing else spec_decode_metadata, *args, **kwargs)

    runner._sample = sample_or_verify


def _follow_installed_runner() -> None:
    try:
        runner_class = importlib.import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner
    except (ImportError, AttributeError) as error:
        _log.warning(
            "AgentSAM knows requests by their content only: this vLLM has no such model runner (%s)", error
        )
        return
    follow_model_runner(runner_class)


join_engine_log()
patch_worker()
_follow_installed_runner()
