"""The contract between the agent and whatever it searches: the web, a folder, or something of your own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agentinfer_lg.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """One search result."""

    uri: str
    """URL, or whatever the provider's `fetch` accepts."""
    title: str
    snippet: str
    """The part of the document that answers the query best."""
    complete: bool = False
    """Whether the snippet is the whole document, so that reading it would bring nothing more."""
    score: float = 0.0
    """Higher is better; comparable only within the results of one query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A fetched document, as text."""

    uri: str
    title: str
    text: str
    """Plain text or markdown."""
    truncated: bool = False
    """Whether a limit cut the document short."""


@runtime_checkable
class SearchProvider(Protocol):
    """Something that can be searched."""

    name: str
    """Short name for events and logs, for example `tavily`."""

    async def search(self, queries: Sequence[str], *, limit: int) -> list[list[SearchHit]]:
        """Search for several queries at once.

        Args:
            queries: Texts as a person or a model wrote them.
            limit: Most hits per query.

        Returns:
            One list per query, in the order of the queries, best hit first.

        Raises:
            ToolError: The search failed.
        """
        ...

    async def fetch(self, uri: str, *, timeout: float, max_bytes: int) -> Document | None:
        """Return a document of this provider.

        Args:
            uri: As found in a hit; written by a model, so it may be anything.
            timeout: Seconds.
            max_bytes: Most bytes of the document; the rest is cut off.

        Returns:
            The document, or None when `uri` is not one of this provider.

        Raises:
            ToolError: It is one, but cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCheck:
    """What a trial of a provider showed."""

    detail: str
    """A sentence, without a full stop."""
    warning: bool = False
    """Whether it works, but not as the user may expect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """How a provider is chosen, made and checked: its line in `agentinfer_lg.tools.providers`."""

    needs: str
    """What to set, as it goes on after "Set ": the variable, and what it is for."""
    configured: Callable[[Settings], bool]
    """Whether the settings ask for it."""
    make: Callable[[Settings], SearchProvider]
    """Make it from settings that ask for it."""
    check: Callable[[Settings], Awaitable[SearchCheck]]
    """Try it with one real call, for `agentinfer doctor`; raises an `AgentInferError` where it does not work."""
