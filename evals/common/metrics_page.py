"""What a vLLM server tells at `/metrics`: tokens, prefix cache, queueing, speculation, and the figures of AgentSched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

_SERIES = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generated_tokens",
    "vllm:prefix_cache_queries_total": "cache_queries",
    "vllm:prefix_cache_hits_total": "cache_hits",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:request_queue_time_seconds_sum": "queue_seconds",
    "vllm:request_prefill_time_seconds_sum": "prefill_seconds",
    "vllm:request_decode_time_seconds_sum": "decode_seconds",
    "vllm:request_queue_time_seconds_count": "requests",
    "vllm:spec_decode_num_draft_tokens_total": "drafted_tokens",
    "vllm:spec_decode_num_accepted_tokens_total": "accepted_tokens",
}
_SCHED = "agentinfer_sched_"

_STATE = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prefix_cache_queries_total": "cache_queries",
    "vllm:prefix_cache_hits_total": "cache_hits",
    "vllm:num_preemptions_total": "preemptions",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """Counters since the start of a server, or between two looks; several engines are added up."""

    requests: float = 0.0
    prompt_tokens: float = 0.0
    generated_tokens: float = 0.0
    cache_queries: float = 0.0
    """Prompt tokens looked up in the prefix cache."""
    cache_hits: float = 0.0
    preemptions: float = 0.0
    queue_seconds: float = 0.0
    """Sum over requests, as are the next two."""
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted_tokens: float = 0.0
    accepted_tokens: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens that were in the prefix cache."""
        return self.cache_hits / self.cache_queries if self.cache_queries else 0.0

    @property
    def ote(self) -> float | None:
        """Generated tokens per forward pass of a request (OTE): a pass emits one token, and what it accepts of a draft."""
        passes = self.generated_tokens - self.accepted_tokens
        return self.generated_tokens / passes if passes > 0 else None

    @property
    def shr(self) -> float | None:
        """Share of the drafted tokens that were accepted (SHR)."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None

    def since(self, earlier: Self) -> Self:
        """Return what came on top of `earlier`."""
        return type(self)(
            **{each.name: getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What a server is doing at one moment, and what it has counted until then; several engines are joined."""

    running: float = 0.0
    """Requests, as is the next one."""
    waiting: float = 0.0
    kv_usage: float = 0.0
    """Share of the KV cache that is held by running requests; of the fullest engine."""
    cache_queries: float = 0.0
    cache_hits: float = 0.0
    preemptions: float = 0.0
    price: float | None = None
    """AgentSched's lambda, the highest; None where it is not on, as in the next one."""
    pressure: float | None = None
    """Blocks that waiting requests need, by the capacity (z)."""


def read_samples(text: str) -> Mapping[str, Sequence[float]]:
    """Return the finite values of a page in Prometheus' format by the names of their series, whatever their labels.

    A line that cannot be read is left out: a page must not end a run that has taken hours.
    """
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        try:
            families = list(text_string_to_metric_families(f"{line}\n"))
        except ValueError:
            continue
        for sample in (sample for family in families for sample in family.samples):
            if math.isfinite(sample.value):
                found.setdefault(sample.name, []).append(sample.value)
    return found


def summed_series(text: str, names: Mapping[str, str]) -> dict[str, float]:
    """Return the sums of series over their labels.

    Args:
        text: The page.
        names: Name of a series to its name in the result; one that is not on the page is left out.
    """
    samples = read_samples(text)
    return {name: sum(samples[series]) for series, name in names.items() if series in samples}


def read_server_figures(text: str) -> ServerFigures:
    """Return the counters of a page; series that are not there count as 0."""
    return ServerFigures(**summed_series(text, _SERIES))


def read_server_state(text: str) -> ServerState:
    """Return what a server is doing; values that are not there count as 0."""
    found = read_samples(text)
    return ServerState(
        **summed_series(text, _STATE),
        kv_usage=max(found.get("vllm:kv_cache_usage_perc", ()), default=0.0),
        price=max(found.get(f"{_SCHED}lambda", ()), default=None),
        pressure=max(found.get(f"{_SCHED}pressure", ()), default=None),
    )


def read_sched_series(text: str) -> dict[str, float]:
    """Return AgentSched's counters and gauges by the names of its table of series; empty where it is not on."""
    return {
        name.removeprefix(_SCHED).removesuffix("_total"): values[-1]
        for name, values in read_samples(text).items()
        if name.startswith(_SCHED)
    }


async def fetch_server_figures(base_url: str) -> ServerFigures | None:
    """Ask a server; None where it has no such page.

    Args:
        base_url: Of its API, ending in `/v1`.
    """
    async with httpx.AsyncClient(timeout=10.0) as http:
        page = await fetch_page(http, base_url)
    return None if page is None else read_server_figures(page)


async def fetch_page(http: httpx.AsyncClient, base_url: str) -> str | None:
    """Return a server's page; None where it does not answer, or with something else.

    Args:
        http: Connections, and how long to wait.
        base_url: Of its API, ending in `/v1`.
    """
    try:
        page = await http.get(f"{base_url.rstrip('/').removesuffix('/v1')}/metrics")
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    return page.text if page.is_success and "vllm:" in page.text else None
