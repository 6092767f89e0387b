"""What it costs an engine to verify one more drafted token, by batch size and context length.

Drafts are junk, so each step emits one token per request, whatever is drafted: the time of a step grows with the
number of drafted tokens k as t0 (1 + c k), and c is what AgentSAM calls the marginal cost. All values of k run on the
same server and the same prompts, in turns.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import httpx

from agentinfer_lg.errors import EngineError
from agentinfer_lg.evals.common.engine_client import http_client, read_stream, stream
from agentinfer_lg.evals.sam.verification.junk import JUNK_TOKENS
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.sam.vllm.flags import EXTENSION_CLASS

_START_SECONDS = 900.0
_PROPOSER = "agentinfer_lg.evals.sam.verification.junk.JunkProposer"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationOptions:
    """What is measured."""

    model: str
    """Model folder or name on the hub."""
    batches: Sequence[int] = (1, 4, 8, 16)
    contexts: Sequence[int] = (64, 2000)
    """Lengths of the prompts, in tokens."""
    drafted: Sequence[int] = (0, 1, 3, 7, 15)
    steps: int = 24
    """Decode steps per round."""
    repeats: int = 3
    kv_cache_gib: float = 2.0
    dtype: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One batch size at one context length."""

    batch: int
    context: int
    step_ms: Mapping[int, float]
    """Median time of a step by the number of drafted tokens per request."""
    cost: float
    """Marginal cost c of a drafted token of every request, as a share of a step without drafts."""


def measure(
    options: VerificationOptions, *, on_step: Callable[[str], None] = lambda step: None
) -> Iterator[Cell]:
    """Start a server and yield the figures cell by cell.

    Raises:
        EngineError: The server does not start, or fails.
    """
    on_step("loading the engine")
    with Server(_serve_options(options)) as server:
        server.wait_ready(_START_SECONDS)
        for context in options.contexts:
            for batch in options.batches:
                on_step(f"{batch} requests at {context} tokens")
                try:
                    yield asyncio.run(_cell(server, options, batch=batch, context=context))
                except httpx.HTTPError as error:
                    raise EngineError(server.last_words()) from error


async def _cell(server: Server, options: VerificationOptions, *, batch: int, context: int) -> Cell:
    draw = random.Random(context)
    prompts = [[draw.randrange(256, 4096) for _ in range(context)] for _ in range(batch)]
    gaps: dict[int, list[float]] = {count: [] for count in options.drafted}
    async with http_client() as http:
        await _round(
            http, server, prompts, drafted=0, steps=2
        )  # from now on the prompts are in the prefix cache
        for _ in range(options.repeats):
            for count in options.drafted:
                gaps[count] += await _round(http, server, prompts, drafted=count, steps=options.steps)
    step_ms = {count: median(found) * 1000 for count, found in gaps.items()}
    return Cell(batch=batch, context=context, step_ms=step_ms, cost=marginal_cost(step_ms))


async def _round(
    http: httpx.AsyncClient, server: Server, prompts: Sequence[list[int]], *, drafted: int, steps: int
) -> list[float]:
    """Run one request per prompt at the same time; returns the gaps between their tokens, in seconds."""

    async def one(prompt: list[int]) -> list[float]:
        body = {
            "model": server.model,
            "prompt": prompt,
            "max_tokens": steps + 1,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
            "vllm_xargs": {JUNK_TOKENS: drafted},
        }
        arrivals = await stream(http, f"{server.base_url}/completions", body)
        read_stream(arrivals, session="", turn=0)  # complains about an answer that was broken off
        return step_gaps([seconds for seconds, line in arrivals if '"token_ids"' in line])

    return [gap for gaps in await asyncio.gather(*map(one, prompts)) for gap in gaps]


def step_gaps(arrivals: Sequence[float]) -> list[float]:
    """Times between arrivals, without the first quarter: others may still be prefilled then."""
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    return gaps[len(gaps) // 4 :]


def marginal_cost(step_ms: Mapping[int, float]) -> float:
    """Fit t = t0 (1 + c k) by least squares and return c, at least 0; 0 too if there is only one k."""
    mean_count, mean_time = fmean(step_ms), fmean(step_ms.values())
    spread = sum((count - mean_count) ** 2 for count in step_ms)
    if spread == 0:
        return 0.0
    slope = sum((count - mean_count) * (time - mean_time) for count, time in step_ms.items()) / spread
    start = mean_time - slope * mean_count
    return max(0.0, slope / start) if start > 0 else 0.0


def _serve_options(options: VerificationOptions) -> ServeOptions:
    most = max(*options.drafted, 1)
    speculation = {"method": "custom_class", "model": _PROPOSER, "num_speculative_tokens": most}
    return ServeOptions(
        model=options.model,
        served_model_name="model",
        port=0,
        max_model_len=max(options.contexts) + options.steps + 2 * most + 64,
        max_num_seqs=max(options.batches),
        kv_cache_gib=options.kv_cache_gib,
        tool_call_parser="none",
        sam=None,
        sched=None,
        extra_args=(
            *("--dtype", options.dtype),
            *("--speculative-config", json.dumps(speculation)),
            *("--worker-extension-cls", EXTENSION_CLASS),
        ),
    )
