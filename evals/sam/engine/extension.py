"""A worker extension that makes vLLM emit given tokens, at the full cost of computing its own.

A small model serves at the speed that is to be measured but does not write what an agent writes: it repeats itself,
which is what every drafter guesses best. So a request may name its output, in `vllm_xargs` under `forced_tokens`. The
model computes everything as usual; then the logit of the named token is raised above all others, at each position,
so that greedy sampling returns it and the drafts are accepted or rejected against it.

Only for measurements, with `--worker-extension-cls`, and at temperature 0. Importing this module, which only a worker
of vLLM does, changes how the worker samples.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from agentinfer_lg.evals.sam.engine.forcing import FORCED_TOKENS, forced_positions
from agentinfer_lg.serving.sam.vllm.extension import AgentInferWorkerExtension

_LOGIT = 1e9


class ForcedOutputs(AgentInferWorkerExtension):
    """vLLM takes one extension, so this one is also what AgentSAM needs; other proposers do not notice."""


def _force(runner: Any, logits: Any, metadata: Any) -> None:  # Any: vLLM's runner, a tensor, vLLM's metadata
    batch = runner.input_batch
    requests = [runner.requests[name] for name in batch.req_ids]
    outputs = [
        (request.sampling_params.extra_args or {}).get(FORCED_TOKENS) if request.sampling_params else None
        for request in requests
    ]
    emitted = [len(request.output_token_ids) for request in requests]
    drafted = [0] * len(requests) if metadata is None else metadata.num_draft_tokens
    pairs = list(forced_positions(outputs, emitted, drafted))
    if pairs:
        rows, tokens = zip(*pairs, strict=True)
        logits[list(rows), list(tokens)] = _LOGIT


_sample = GPUModelRunner._sample


@wraps(_sample)
def _forced_sample(self: Any, logits: Any, spec_decode_metadata: Any) -> Any:
    if logits is not None:
        _force(self, logits, spec_decode_metadata)
    return _sample(self, logits, spec_decode_metadata)


GPUModelRunner._sample = _forced_sample
