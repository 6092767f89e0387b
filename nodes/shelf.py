"""Where distillates are kept: in the store of the graph, or in this process where that is missing or fails."""

from __future__ import annotations

import logging
from typing import Any

from langgraph.store.base import BaseStore

__all__ = ("Shelf",)

_log = logging.getLogger(__name__)


class Shelf:
    """One namespace of a store, with a spare: what can be made again must never end a run.

    Args:
        store: The store; None if there is none.
        spare: Used where `store` is missing or fails.
        space: The namespace.
    """

    def __init__(self, store: BaseStore | None, spare: BaseStore, space: tuple[str, ...]) -> None:
        self._stores = [spare] if store is None else [store, spare]
        self._space = space

    async def get(self, key: str) -> dict[str, Any] | None:  # Any: JSON
        """Return what was put under `key`, None if nothing was or it cannot be read."""
        for store in self._stores:
            try:
                item = await store.aget(self._space, key)
            except Exception as error:
                _log.warning("the store cannot be read (%s): distillates may be made again", error)
                continue
            if item is not None:
                return dict(item.value)
        return None

    async def put(self, key: str, value: dict[str, Any]) -> None:  # Any: JSON
        """Put `value` under `key`."""
        for store in self._stores:
            try:
                await store.aput(self._space, key, value, index=False)
            except Exception as error:
                _log.warning("the store cannot be written (%s): a distillate stays in memory", error)
                continue
            return
