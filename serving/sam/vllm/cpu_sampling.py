"""Two faults of vLLM 0.32 that make speculation change sampled answers on a CPU, put right.

Before it verifies drafts, vLLM gives each drafted token the temperature, `top_k` and `top_p` of its request. Its CPU
kernel for that writes whole numbers into a copy, so what comes back is whatever was in memory: sampled answers follow
no temperature at all, or the engine ends with an error. And a step in which nothing was drafted ends it if `top_k` is
set without `top_p`. Greedy answers are not concerned, nor are GPUs.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)


def repair_cpu_sampling() -> None:
    """Replace vLLM's function by a correct one, in this process, if it runs on a CPU and gives a wrong result."""
    platforms: Any = sys.modules.get("vllm.platforms")
    sampler: Any = sys.modules.get("vllm.v1.sample.rejection_sampler")
    if platforms is None or sampler is None:
        return  # not inside an engine
    expand = getattr(sampler, "expand_batch_to_tokens", None)
    constrain = getattr(sampler, "apply_sampling_constraints", None)
    if expand is None or constrain is None or not platforms.current_platform.is_cpu():
        return
    if not _is_right(expand):
        sampler.expand_batch_to_tokens = _expand_batch_to_tokens
        _log.info("This vLLM loses the temperature of drafted tokens on a CPU; that is put right")
    if constrain.__module__ == sampler.__name__ and not hasattr(constrain, "__wrapped__"):
        sampler.apply_sampling_constraints = _unless_empty(constrain)


def _is_right(expand: Any) -> bool:  # Any: a function of vLLM, on tensors
    """Try the function; twice, because memory that was not written may hold the right values by chance."""
    import torch

    ends = torch.tensor([2, 2, 3], dtype=torch.int32)
    for values in (torch.tensor([0.75, 3.0, 1.5]), torch.tensor([5, 6, 7], dtype=torch.int32)):
        try:
            found = expand(values, ends, 3)
        except Exception:
            return False
        if found.tolist() != [values[0].item(), values[0].item(), values[2].item()]:
            return False
    return True


def _expand_batch_to_tokens(
    x: Any, cu_num_tokens: Any, num_tokens: int, replace_from: float = 0, replace_to: float = 0
) -> Any:
    """Repeat each request's value once per token of it; the signature is vLLM's.

    Args:
        x: One value per request.
        cu_num_tokens: Number of tokens up to and including each request.
        num_tokens: Number of all tokens.
        replace_from: Value that is replaced.
        replace_to: What it is replaced by.
    """
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1)).long()
    return x.masked_fill(x == replace_from, replace_to).repeat_interleave(counts, output_size=num_tokens)


def _unless_empty(constrain: Any) -> Any:
    @functools.wraps(constrain)
    def constrain_some(logits: Any, *args: Any, **kwargs: Any) -> Any:
        return constrain(logits, *args, **kwargs) if logits.shape[0] else logits

    return constrain_some
