"""Web search through Tavily."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from agentinfer_lg.errors import ToolError
from agentinfer_lg.settings import Settings
from agentinfer_lg.tools.formats import clean_text, one_line
from agentinfer_lg.tools.search import Document, ProviderEntry, SearchCheck, SearchHit

_CONCURRENCY = 4
_MAX_QUERY_CHARACTERS = 400
"""A longer query is refused by the service."""
_MAX_RESULTS = 20


class TavilySearch:
    """Web search; pages are read by the crawler.

    Args:
        api_key: Key of the service.
        timeout: Seconds per query.
        base_url: Another server that speaks the same API.
    """

    name = "tavily"

    def __init__(self, api_key: SecretStr, *, timeout: float = 30.0, base_url: str | None = None) -> None:
        self._api_key = api_key
        self._timeout = timeout
        self._base_url = base_url

    async def search(self, queries: Sequence[str], *, limit: int) -> list[list[SearchHit]]:
        """See `SearchProvider.search`. Where some of the queries fail, theirs are the empty lists.

        Raises:
            ToolError: The key is refused, the quota is used up, or no query succeeded.
        """
        if not any(query.strip() for query in queries) or limit < 1:
            return [[] for _ in queries]
        # One client per batch, because connections belong to an event loop; making it reads files.
        client = await asyncio.to_thread(self._client)
        slots = asyncio.Semaphore(_CONCURRENCY)
        async with client:
            answers = await asyncio.gather(
                *(self._search(client, slots, query, limit) for query in queries), return_exceptions=True
            )
        hits: list[list[SearchHit]] = []
        errors: list[ToolError] = []
        for answer in answers:
            if isinstance(answer, ToolError):
                errors.append(answer)
                hits.append([])
            elif isinstance(answer, BaseException):
                raise answer
            else:
                hits.append(answer)
        if errors and (not any(hits) or any(isinstance(error, _RefusedError) for error in errors)):
            raise errors[0]
        return hits

    async def fetch(self, uri: str, *, timeout: float, max_bytes: int) -> Document | None:
        """Return None: pages are for the crawler."""
        return None

    def _client(self) -> Any:  # Any: the library is imported lazily and has no types
        from tavily import AsyncTavilyClient

        return AsyncTavilyClient(api_key=self._api_key.get_secret_value(), api_base_url=self._base_url)

    async def _search(self, client: Any, slots: asyncio.Semaphore, query: str, limit: int) -> list[SearchHit]:
        query = one_line(query, limit=_MAX_QUERY_CHARACTERS)
        if not query:
            return []
        async with slots:
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await client.search(
                        query=query, max_results=min(limit, _MAX_RESULTS), timeout=self._timeout
                    )
            except Exception as error:
                # `from None`: what the library raises may quote the request.
                raise _tool_error(error, self._timeout) from None
        return _hits(answer)[:limit]


class _RefusedError(ToolError):
    """The service will refuse the other queries too."""


def _tool_error(error: Exception, timeout: float) -> ToolError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    match type(error).__name__:
        case "InvalidAPIKeyError" | "MissingAPIKeyError":
            return _RefusedError("Tavily refuses the key (401). Check TAVILY_API_KEY.")
        case "ForbiddenError":
            return _RefusedError(
                "Tavily refuses the request: the plan's limit is reached or the key lacks permission."
            )
        case "UsageLimitExceededError":
            return _RefusedError(
                "Tavily answered 429: too many requests or the quota is used up. Wait, or use another key."
            )
        case "BadRequestError":
            return ToolError("Tavily does not accept the query (400). Rephrase it.")
        case "TimeoutError":
            return ToolError(f"The web search took longer than {timeout:g} s.")
        case "HTTPStatusError":
            return ToolError(f"Tavily answered {status}. Try later.")
        case "ConnectError" | "ConnectTimeout":
            return ToolError(
                "Tavily cannot be reached. Check the network, or research a folder of documents instead."
            )
        case name:
            return ToolError(f"The web search failed ({name}).")


def _hits(answer: object) -> list[SearchHit]:
    """Read the hits of an answer; what is not as documented is left out."""
    results = answer.get("results") if isinstance(answer, dict) else None
    hits: dict[str, SearchHit] = {}
    for result in results if isinstance(results, list) else []:
        uri = result.get("url") if isinstance(result, dict) else None
        if not isinstance(uri, str) or not uri.startswith(("http://", "https://")) or uri in hits:
            continue
        score = result.get("score")
        hits[uri] = SearchHit(
            uri=uri,
            title=one_line(str(result.get("title") or uri)),
            snippet=clean_text(str(result.get("content") or "")),
            score=float(score) if isinstance(score, int | float) else 0.0,
        )
    return list(hits.values())


def _make(settings: Settings) -> TavilySearch:
    return TavilySearch(settings.tavily_api_key)


async def _check(settings: Settings) -> SearchCheck:
    hits = await _make(settings).search(["lighthouse"], limit=1)
    return SearchCheck(detail=f"the web search answered with {sum(map(len, hits))} result")


ENTRY = ProviderEntry(
    needs="TAVILY_API_KEY for web search",
    configured=lambda settings: bool(settings.tavily_api_key.get_secret_value().strip()),
    make=_make,
    check=_check,
)
