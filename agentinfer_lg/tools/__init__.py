"""What the agent can do: search the web or a folder, fetch pages, find passages."""

from __future__ import annotations

from agentinfer_lg.settings import Settings
from agentinfer_lg.tools.addresses import check_public
from agentinfer_lg.tools.crawl import Crawler
from agentinfer_lg.tools.local import LocalFolder
from agentinfer_lg.tools.passages import best_passages, split_passages
from agentinfer_lg.tools.reader import Reader
from agentinfer_lg.tools.search import Document, SearchHit, SearchProvider
from agentinfer_lg.tools.tavily import TavilySearch

__all__ = (
    "Crawler",
    "Document",
    "LocalFolder",
    "Reader",
    "SearchHit",
    "SearchProvider",
    "TavilySearch",
    "best_passages",
    "check_public",
    "make_provider",
    "split_passages",
)


def make_provider(settings: Settings) -> SearchProvider | None:
    """Return the search that the settings ask for: the document folder, else the web with a key, else None."""
    if settings.docs is not None:
        return LocalFolder(settings.docs)
    if settings.tavily_api_key.get_secret_value().strip():
        return TavilySearch(settings.tavily_api_key)
    return None
