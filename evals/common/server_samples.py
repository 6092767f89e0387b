"""Servers looked at every few seconds while something else runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from agentinfer_lg.evals.common.metrics_page import ServerState, fetch_page, read_server_state

_PATIENCE = 5.0
"""Seconds after which a page is a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """All servers at one moment."""

    time: float
    """Seconds since the first sample was asked for."""
    finished: int
    """Questions answered so far."""
    servers: Mapping[str, ServerState]
    """By tier; a server whose page did not answer is not there."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:  # Any: JSON
        """Return what `to_json` wrote."""
        servers = {tier: ServerState(**state) for tier, state in content["servers"].items()}
        return cls(time=content["time"], finished=content["finished"], servers=servers)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Takes a sample at the start of a block, every `seconds` inside it, and at its end.

    Example:
        async with Sampler(urls={"large": "http://127.0.0.1:8000/v1"}, seconds=2.0) as sampler:
            ...  # sampler.finished += 1
        sampler.samples
    """

    urls: Mapping[str, str]
    """Base URL of each tier's API, ending in `/v1`."""
    seconds: float
    finished: int = 0
    """Questions answered so far; whoever runs them counts."""
    samples: list[Sample] = field(default_factory=list)
    _began: float = 0.0
    _http: httpx.AsyncClient | None = None
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        self._http = httpx.AsyncClient(timeout=_PATIENCE)
        await self._take(self._http)
        self._task = asyncio.create_task(self._run(self._http))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._http is not None:
            if error is None:
                await self._take(self._http)
            await self._http.aclose()

    async def _run(self, http: httpx.AsyncClient) -> None:
        while True:
            passed = time.monotonic() - self._began
            await asyncio.sleep(self.seconds - passed % self.seconds)
            await self._take(http)

    async def _take(self, http: httpx.AsyncClient) -> None:
        pages = await asyncio.gather(*(fetch_page(http, url) for url in self.urls.values()))
        sample = Sample(
            time=round(time.monotonic() - self._began, 3),
            finished=self.finished,
            servers={
                tier: read_server_state(page)
                for tier, page in zip(self.urls, pages, strict=True)
                if page is not None
            },
        )
        self.samples.append(sample)
