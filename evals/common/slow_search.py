"""A document folder that answers as late as the web does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentinfer_lg.tools import SearchProvider
from agentinfer_lg.tools.search import Document, SearchHit


class SlowSearch:
    """Another provider, with time added to each search: what goes on beside the agent has these gaps.

    Args:
        provider: The one that is asked.
        seconds: Added to each search.
    """

    def __init__(self, provider: SearchProvider, *, seconds: float) -> None:
        self._provider = provider
        self._seconds = seconds
        self.name = provider.name

    async def search(self, queries: Sequence[str], *, limit: int) -> list[list[SearchHit]]:
        """Search, and wait."""
        found = await self._provider.search(queries, limit=limit)
        await asyncio.sleep(self._seconds)
        return found

    async def fetch(self, uri: str, *, timeout: float, max_bytes: int) -> Document | None:
        """Return a document of the provider."""
        return await self._provider.fetch(uri, timeout=timeout, max_bytes=max_bytes)
