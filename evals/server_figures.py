"""What a vLLM server counts at `/metrics`: tokens, prefix cache, queueing, speculation."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Self

import httpx

__all__ = ("ServerFigures", "fetch_server_figures", "read_server_figures")

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
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? (\S+)", re.MULTILINE)


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


def read_server_figures(text: str) -> ServerFigures:
    """Read a page in Prometheus' format; series that are not there count as 0."""
    sums: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        if name in _SERIES:
            sums[_SERIES[name]] = sums.get(_SERIES[name], 0.0) + float(value)
    return ServerFigures(**sums)


async def fetch_server_figures(base_url: str) -> ServerFigures | None:
    """Ask a server; None where it has no such page.

    Args:
        base_url: Of its API, ending in `/v1`.
    """
    try:
        async with httpx.AsyncClient(timeout=10.0) as http:
            page = await http.get(f"{base_url.rstrip('/').removesuffix('/v1')}/metrics")
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    return read_server_figures(page.text) if page.is_success and "vllm:" in page.text else None
