"""What the agent can do: search the web or a folder, fetch pages, find passages."""

from __future__ import annotations

from agentinfer_lg.tools.addresses import check_public
from agentinfer_lg.tools.crawl import Crawler
from agentinfer_lg.tools.local import LocalFolder
from agentinfer_lg.tools.passages import best_passages, split_passages
from agentinfer_lg.tools.providers import make_provider
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
