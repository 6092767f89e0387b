"""vLLM's scheduler and KV cache manager without a model: what they need to be made, and requests for them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 1024,
    "max_position_embeddings": 1 << 20,
    "torch_dtype": "float16",
}
"""The scheduler wants the configuration of some model; nothing of it matters but the longest context."""


@contextmanager
def _same_environment() -> Iterator[None]:
    """vLLM's CPU platform sets variables for the engines that this process would start; one started later must not get them."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@_same_environment()
def make_scheduler_parts(
    *,
    blocks: int,
    block_size: int,
    max_model_len: int,
    step_tokens: int,
    max_seqs: int,
    additional_config: Mapping[str, Any] | None = None,  # Any: JSON
    asynchronous: bool = False,
) -> dict[str, Any]:  # Any: objects of vLLM
    """Return the keyword arguments with which vLLM makes a scheduler.

    Args:
        blocks: Usable blocks of the KV cache.
        block_size: Tokens per block.
        max_model_len: Longest context in tokens.
        step_tokens: Most tokens computed in one step.
        max_seqs: Most requests computed together.
        additional_config: As given to vLLM with `--additional-config`.
        asynchronous: Whether steps overlap.
    """
    import torch
    from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    model = ModelConfig(
        model=model_folder(),
        skip_tokenizer_init=True,
        dtype="float16",
        max_model_len=max_model_len,
    )
    scheduler = SchedulerConfig(
        max_num_batched_tokens=step_tokens,
        max_num_seqs=max_seqs,
        max_model_len=max_model_len,
        enable_chunked_prefill=True,
        is_encoder_decoder=False,
        async_scheduling=asynchronous,
    )
    cache = CacheConfig(block_size=block_size, enable_prefix_caching=True)
    config = VllmConfig(
        model_config=model,
        scheduler_config=scheduler,
        cache_config=cache,
        additional_config=dict(additional_config or {}),
    )
    config.cache_config.num_gpu_blocks = blocks + 1  # one is never used: vLLM's null block
    config.scheduler_config.async_scheduling = asynchronous  # the platform may have changed it
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=64, dtype=torch.float16)
    groups = [KVCacheGroupSpec(["layer"], spec)]
    return {
        "vllm_config": config,
        "kv_cache_config": KVCacheConfig(num_blocks=blocks + 1, kv_cache_tensors=[], kv_cache_groups=groups),
        "structured_output_manager": StructuredOutputManager(config),
        "block_size": block_size,
        "log_stats": True,
    }


def make_request(
    name: str,
    *,
    prompt_tokens: Sequence[int],
    output_tokens: int,
    arrival: float,
    xargs: Mapping[str, str | int | float] | None = None,
    hasher: Callable[[Any], list[Any]],  # Any: vLLM's request, its block hashes
) -> Any:  # Any: vLLM's request
    """Return a request that ends after `output_tokens` tokens.

    Args:
        name: Its id.
        prompt_tokens: Token ids of the prompt.
        output_tokens: Tokens that it generates.
        arrival: Time of its arrival in seconds.
        xargs: Session hints on the wire.
        hasher: Returns the hashes of the request's full blocks that are new since the last call.
    """
    from vllm import SamplingParams
    from vllm.v1.request import Request

    parameters = SamplingParams(
        max_tokens=output_tokens, ignore_eos=True, temperature=0.0, extra_args=dict(xargs or {})
    )
    return Request(
        name,
        list(prompt_tokens),
        parameters,
        None,
        arrival_time=arrival,
        block_hasher=hasher,
    )


@cache
def model_folder() -> str:
    """Return a folder with the configuration of a tiny model and nothing else; it goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="agentinfer-replay-")
    _folders.append(folder)
    (Path(folder.name) / "config.json").write_text(json.dumps(_MODEL), encoding="utf-8")
    return folder.name


_folders: list[Any] = []  # removed when the process ends
