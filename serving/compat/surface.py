"""Every symbol of vLLM that the plugin leans on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agentinfer_lg.serving.compat.sources import Definition, SourceTree

Part = Literal["plugin", "sched", "sam"]
"""What leans on a symbol: the entry point, AgentSched, or AgentSAM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """A function, class, field or attribute of vLLM."""

    part: Part
    file: str
    """Relative to the package `vllm`."""
    name: str
    """`function`, `Class` or `Class.member`."""
    takes: tuple[str, ...] | None = None
    """Names of its first parameters, by which it is called or extended; None: not a function, or none of them matter."""
    called: bool = False
    """Whether we call it with those parameters alone, so that it may ask for no others."""
    optional: bool = False
    """Whether the plugin does without it."""

    def misfit(self, found: Definition | None) -> str:
        """Say why it is of no use as it was found, as the rest of a sentence about it; empty if it is.

        Args:
            found: Its definition; None: there is none.
        """
        if found is None:
            return "" if self.optional else "is gone"
        if self.takes is None:
            return ""
        if found.parameters[: len(self.takes)] != self.takes:
            return f"takes ({', '.join(found.parameters)}) instead of ({', '.join(self.takes)})"
        more = sorted(found.required - set(self.takes)) if self.called else []
        return f"also wants {', '.join(more)}" if more else ""


def misfits(tree: SourceTree, part: Part) -> list[str]:
    """Return what a part does not find in a vLLM as it needs it, one clause for each symbol.

    Args:
        tree: The package `vllm`.
        part: Which part; what the plugin needs counts for each of them.
    """
    needed = [symbol for symbol in SURFACE if symbol.part in (part, "plugin")]
    said = ((symbol, symbol.misfit(tree.find(symbol.file, symbol.name))) for symbol in needed)
    return [f"{symbol.name} ({symbol.file}) {misfit}" for symbol, misfit in said if misfit]


def _members(part: Part, file: str, owner: str, *names: str, optional: bool = False) -> Iterator[Symbol]:
    yield Symbol(part=part, file=file, name=owner, optional=optional)
    yield from (Symbol(part=part, file=file, name=f"{owner}.{name}", optional=optional) for name in names)


_SCHEDULER = "v1/core/sched/scheduler.py"
_POOL = "v1/core/block_pool.py"
_BLOCKS = "v1/core/kv_cache_utils.py"
_OUTPUT = "v1/core/sched/output.py"
_RUNNER = "v1/worker/gpu_model_runner.py"
_PARALLEL = "config/parallel.py"

SURFACE: tuple[Symbol, ...] = (
    *_members(
        "plugin",
        "engine/arg_utils.py",
        "EngineArgs",
        *(
            "create_engine_config",
            "additional_config",
            "scheduler_cls",
            "speculative_config",
            "worker_extension_cls",
        ),
    ),
    *_members("plugin", "sampling_params.py", "SamplingParams", "extra_args"),
    *_members(
        "plugin", "config/vllm.py", "VllmConfig", "additional_config", "scheduler_config", "parallel_config"
    ),
    *_members(
        "sched",
        _SCHEDULER,
        "Scheduler",
        *("vllm_config", "scheduler_config", "kv_cache_manager", "block_size", "waiting", "running"),
        *("schedule", "shutdown", "reset_prefix_cache", "max_num_scheduled_tokens"),
    ),
    Symbol(part="sched", file=_SCHEDULER, name="Scheduler.add_request", takes=("request",), called=True),
    Symbol(part="sched", file=_SCHEDULER, name="Scheduler._free_blocks", takes=("request",)),
    Symbol(part="sched", file=_SCHEDULER, name="Scheduler._preempt_request", takes=("request",)),
    Symbol(
        part="sched", file=_SCHEDULER, name="Scheduler.update_draft_token_ids", takes=("draft_token_ids",)
    ),
    Symbol(part="sched", file="v1/core/sched/async_scheduler.py", name="AsyncScheduler"),
    Symbol(part="sched", file="v1/core/sched/request_queue.py", name="FCFSRequestQueue"),
    *_members(
        "sched",
        "config/scheduler.py",
        "SchedulerConfig",
        "async_scheduling",
        "long_prefill_token_threshold",
        "scheduler_cls",
    ),
    *_members(
        "sched",
        "v1/request.py",
        "Request",
        *(
            "request_id",
            "sampling_params",
            "block_hashes",
            "num_tokens",
            "num_computed_tokens",
            "num_preemptions",
            "spec_token_ids",
        ),
    ),
    *_members(
        "sched",
        "v1/core/kv_cache_manager.py",
        "KVCacheManager",
        *("coordinator", "block_pool", "enable_caching", "kv_cache_config"),
    ),
    Symbol(
        part="sched",
        file="v1/core/kv_cache_manager.py",
        name="KVCacheManager.get_blocks",
        takes=("request_id",),
        called=True,
    ),
    Symbol(
        part="sched",
        file="v1/core/kv_cache_coordinator.py",
        name="KVCacheCoordinator.find_longest_cache_hit",
        takes=("block_hashes", "max_cache_hit_length"),
        called=True,
    ),
    Symbol(
        part="sched", file="v1/core/kv_cache_coordinator.py", name="KVCacheCoordinator.single_type_managers"
    ),
    *_members("sched", _POOL, "BlockPool", "num_gpu_blocks", "free_block_queue"),
    Symbol(part="sched", file=_POOL, name="BlockPool.get_num_free_blocks", takes=(), called=True),
    Symbol(
        part="sched",
        file=_POOL,
        name="BlockPool.get_cached_block",
        takes=("block_hash", "kv_cache_group_ids"),
        called=True,
    ),
    Symbol(part="sched", file=_POOL, name="BlockPool.touch", takes=("blocks",), called=True),
    Symbol(part="sched", file=_POOL, name="BlockPool.free_blocks", takes=("ordered_blocks",), called=True),
    *_members(
        "sched", _BLOCKS, "KVCacheBlock", "block_id", "ref_cnt", "block_hash", "next_free_block", "is_null"
    ),
    *_members("sched", _BLOCKS, "FreeKVCacheBlockQueue", "fake_free_list_head"),
    Symbol(part="sched", file=_BLOCKS, name="FreeKVCacheBlockQueue.remove", takes=("block",), called=True),
    Symbol(
        part="sched", file=_BLOCKS, name="FreeKVCacheBlockQueue.prepend_n", takes=("blocks",), called=True
    ),
    *_members("sched", "v1/outputs.py", "DraftTokenIds", "draft_token_ids"),
    *_members("sched", _OUTPUT, "SchedulerOutput", "num_scheduled_tokens", "scheduled_new_reqs"),
    *_members("sched", _OUTPUT, "NewRequestData", "num_computed_tokens"),
    Symbol(
        part="sam",
        file="v1/spec_decode/custom_class_proposer.py",
        name="create_custom_proposer",
        takes=("vllm_config",),
    ),
    *_members("sam", "config/speculative.py", "SpeculativeConfig", "num_speculative_tokens"),
    *_members("sam", _RUNNER, "GPUModelRunner", "drafter", "input_batch", "requests", "max_model_len"),
    Symbol(part="sam", file=_RUNNER, name="GPUModelRunner.execute_model", takes=("scheduler_output",)),
    Symbol(
        part="sam",
        file=_RUNNER,
        name="GPUModelRunner._sample",
        takes=("logits", "spec_decode_metadata"),
        optional=True,
    ),
    *_members("sam", _RUNNER, "GPUModelRunner", "effective_drafter_max_model_len", optional=True),
    *_members(
        "sam", "v1/worker/gpu_input_batch.py", "InputBatch", "req_ids", "num_tokens_no_spec", "token_ids_cpu"
    ),
    *_members(
        "sam",
        _OUTPUT,
        "SchedulerOutput",
        *("finished_req_ids", "scheduled_new_reqs", "scheduled_cached_reqs"),
        *("num_scheduled_tokens", "scheduled_spec_decode_tokens"),
    ),
    *_members("sam", _OUTPUT, "NewRequestData", "req_id", "prompt_token_ids", "sampling_params"),
    *_members("sam", _OUTPUT, "CachedRequestData", "resumed_req_ids"),
    *_members("sam", _PARALLEL, "ParallelConfig", "tensor_parallel_size", "rank", "worker_extension_cls"),
    Symbol(
        part="sam",
        file="v1/sample/rejection_sampler.py",
        name="expand_batch_to_tokens",
        takes=("x", "cu_num_tokens", "num_tokens"),
        optional=True,
    ),
)
"""What must be there, and what the plugin uses where it is there."""
