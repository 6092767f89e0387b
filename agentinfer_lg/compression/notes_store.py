"""Where the results of distillations are kept: in the store of the graph, or in this process where that is missing or fails."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from langgraph.store.base import BaseStore

_log = logging.getLogger(__name__)

_SECONDS = 10.0
"""Time for one look into a store: a round must not wait for one that hangs."""


class NotesStore:
    """One namespace of a store, with a spare: what can be made again must never end a run.

    The spare holds everything until it is told to forget: a store may take what it does not keep.

    Args:
        store: The store; None if there is none.
        spare: Used where `store` is missing, fails, or does not keep what it was given.
        space: The namespace.
    """

    problem: str
    """What is wrong with the store, as a sentence; empty while it works."""

    def __init__(self, store: BaseStore | None, spare: BaseStore, space: tuple[str, ...]) -> None:
        self._stores = [spare] if store is None else [store, spare]
        self._space = space
        self.problem = ""

    async def get(self, key: str) -> dict[str, Any] | None:  # Any: JSON
        """Return what was put under `key`, None if nothing was or it cannot be read."""
        for store in self._stores:
            try:
                async with asyncio.timeout(_SECONDS):
                    item = await store.aget(self._space, key)
                value = None if item is None else dict(item.value)
            except Exception as error:
                self._failed(f"The store cannot be read ({_sentence(error)}): notes may be made again.")
                continue
            if value is not None:
                if store is not self._stores[0] and not self.problem:
                    self._failed("The store does not keep notes: they stay in memory.")
                return value
        return None

    async def put(self, key: str, value: dict[str, Any]) -> None:  # Any: JSON
        """Put `value` under `key`."""
        for store in self._stores:
            try:
                async with asyncio.timeout(_SECONDS):
                    await store.aput(self._space, key, value, index=False)
            except Exception as error:
                self._failed(f"The store cannot be written ({_sentence(error)}): notes stay in memory.")

    async def forget(self, key: str) -> None:
        """Let the spare forget what is under `key`; the store of the graph keeps it, for forks of a run."""
        await self._stores[-1].adelete(self._space, key)

    def _failed(self, sentence: str) -> None:
        self.problem = sentence
        _log.warning("%s", sentence)


def _sentence(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
