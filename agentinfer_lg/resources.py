"""What the nodes of a graph share: the two tiers, the tools, and what was learned about their speed.

Made once per graph and lazily, since `langgraph dev` imports a graph before anybody asks it a question.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from typing import TYPE_CHECKING

from agentinfer_lg.compression.background import BackgroundTasks
from agentinfer_lg.context import Context
from agentinfer_lg.llm.given_model import check_model
from agentinfer_lg.llm.models import Models
from agentinfer_lg.settings import Settings
from agentinfer_lg.tools import Crawler, Reader, SearchProvider
from agentinfer_lg.tools.providers import find_provider

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.store.base import BaseStore


_MOST_VARIANTS = 16
"""Choices of models that are kept at the same time."""


class ToolClock:
    """Running mean of how long each tool takes, in seconds: the engine is told what gap to expect."""

    def __init__(self, *, first_guess: float = 1.0) -> None:
        self._first_guess = first_guess
        self._means: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))

    def record(self, tool: str, seconds: float) -> None:
        """Learn from one finished call."""
        count, mean = self._means[tool]
        count = min(count + 1, 50)  # forget slowly, so that a changed network is noticed
        self._means[tool] = (count, mean + (seconds - mean) / count)

    def expect(self, tools: list[str]) -> float:
        """Return the expected seconds of a round that runs `tools` in parallel."""
        known = [self._means[tool][1] for tool in tools if tool in self._means]
        return max(known, default=self._first_guess if tools else 0.0)


class Resources:
    """Models and tools of a graph.

    Args:
        settings: Endpoints and keys; None reads the environment and `.env` on first use.
        small: A chat model to use for the small tier instead of an endpoint.
        large: The same for the large tier.
        search: Where to search; None: the document folder or the web search of the settings.

    Raises:
        ConfigurationError: `small` or `large` is no chat model.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        small: BaseChatModel | None = None,
        large: BaseChatModel | None = None,
        search: SearchProvider | None = None,
    ) -> None:
        self._settings = settings
        self._given = check_model(small, tier="small"), check_model(large, tier="large")
        self._search = search
        self._models: Models | None = None
        self._reader: Reader | None = None
        self._store: BaseStore | None = None
        self._variants: dict[tuple[str, str], Resources] = {}
        self.clock = ToolClock()
        self.background = BackgroundTasks()

    @property
    def settings(self) -> Settings:
        """The settings, read once."""
        if self._settings is None:
            self._settings = Settings()
        return self._settings

    @property
    def models(self) -> Models:
        """Both tiers.

        Raises:
            ConfigurationError: No endpoint is configured.
        """
        if self._models is None:
            small, large = self._given
            self._models = Models(self.settings, small=small, large=large)
        return self._models

    @property
    def search(self) -> SearchProvider:
        """The search provider.

        Raises:
            ConfigurationError: There is neither a document folder nor a key for web search.
        """
        if self._search is None:
            self._search = find_provider(self.settings).make(self.settings)
        return self._search

    @property
    def reader(self) -> Reader:
        """Reads documents of the provider and pages of the web."""
        if self._reader is None:
            crawler = Crawler(allow_private=self.settings.allow_private_addresses)
            self._reader = Reader(self.search, crawler)
        return self._reader

    @property
    def store(self) -> BaseStore:
        """Keeps distillates where the graph was given no store; it lives as long as the process."""
        if self._store is None:
            from langgraph.store.memory import InMemoryStore

            self._store = InMemoryStore()
        return self._store

    async def for_run(self, context: Context) -> Resources:
        """Return the resources of a run, ready: with the models that its knobs name, if they name any.

        Raises:
            ConfigurationError: Something needed is not configured.
        """
        named = context.small_model_name, context.large_model_name
        if not any(named):
            await self.ready()
            return self
        if named not in self._variants:
            if len(self._variants) >= _MOST_VARIANTS:
                del self._variants[next(iter(self._variants))]
            self._variants[named] = await asyncio.to_thread(self._variant, *named)
        return self._variants[named]

    def _variant(self, small: str, large: str) -> Resources:
        """Return the same with other models."""
        _ = self.store  # one for all runs
        made = copy.copy(self)
        made._settings = self.settings.with_models(small=small, large=large)
        made._given = (None if small else self._given[0], None if large else self._given[1])
        made._models, made._variants = None, {}
        made.prepare()
        return made

    async def ready(self) -> None:
        """Do the blocking part (settings, certificates) off the event loop; a resumed run enters at any node.

        Raises:
            ConfigurationError: Something needed is not configured.
        """
        if self._models is None or self._reader is None:
            await asyncio.to_thread(self.prepare)

    def prepare(self) -> None:
        """Read settings and build models and tools; blocking, so async callers use a thread.

        Raises:
            ConfigurationError: Something needed is not configured.
        """
        _ = self.models, self.reader
