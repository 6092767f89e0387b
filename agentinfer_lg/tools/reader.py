"""Reading a document by its URI, wherever it is, and remembering it."""

from __future__ import annotations

import threading
from collections import OrderedDict

from agentinfer_lg.errors import ToolError
from agentinfer_lg.tools.crawl import Crawler
from agentinfer_lg.tools.formats import one_line
from agentinfer_lg.tools.search import Document, SearchProvider

_MAX_CACHED_CHARACTERS = 32_000_000


class Reader:
    """Reads documents of the search provider, and web pages.

    Args:
        provider: Asked first.
        crawler: Fetches what the provider does not have.
        cache: Most documents kept, the least recently read are dropped; 0 keeps none.
    """

    def __init__(self, provider: SearchProvider, crawler: Crawler, *, cache: int = 64) -> None:
        self._provider = provider
        self._crawler = crawler
        self._limit = cache
        self._cache: OrderedDict[str, tuple[Document, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    async def read(self, uri: str, *, timeout: float, max_bytes: int) -> Document:
        """Return the document of `uri`, from the cache where it was read before.

        Args:
            uri: As found in a search hit; written by a model, so it may be anything.
            timeout: Seconds.
            max_bytes: Most bytes of the document.

        Raises:
            ToolError: It cannot be read.
        """
        uri = uri.strip()
        cached = self._cached(uri, max_bytes)
        if cached is not None:
            return cached
        document = await self._provider.fetch(uri, timeout=timeout, max_bytes=max_bytes)
        if document is None and uri.lower().startswith(("http://", "https://")):
            document = await self._crawler.fetch(uri, timeout=timeout, max_bytes=max_bytes)
        if document is None:
            msg = f"There is no document {one_line(uri, limit=200)!r}. Use the address of a search result."
            raise ToolError(msg)
        self._keep(uri, document, max_bytes)
        return document

    def _cached(self, uri: str, max_bytes: int) -> Document | None:
        with self._lock:
            document, limit = self._cache.get(uri, (None, 0))
            if document is None or (document.truncated and limit < max_bytes):
                return None
            self._cache.move_to_end(uri)
            return document

    def _keep(self, uri: str, document: Document, max_bytes: int) -> None:
        with self._lock:
            before = self._cache.pop(uri, None)
            if before is not None:
                self._size -= len(before[0].text)
            self._cache[uri] = (document, max_bytes)
            self._size += len(document.text)
            while self._cache and (len(self._cache) > self._limit or self._size > _MAX_CACHED_CHARACTERS):
                _, (dropped, _) = self._cache.popitem(last=False)
                self._size -= len(dropped.text)
