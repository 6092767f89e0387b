"""Whose context a cached block belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from agentinfer_lg.serving.sched.policy.cached_context import Block
from agentinfer_lg.serving.sched.policy.session import Session

_NOBODY: Mapping[Any, Any] = MappingProxyType({})


class BlockOwners:
    """The sessions of each block."""

    def __init__(self) -> None:
        self._owners: dict[int, dict[Session, Any]] = {}

    def of(self, block: Block) -> Mapping[Session, Any]:
        """Return the sessions whose context contains a block, each with what the block held then.

        What it holds now may be something else. A beginning that all agents share has thousands: do not walk through them.
        """
        return self._owners.get(block.block_id, _NOBODY)

    def has(self, block: Block) -> bool:
        """Return whether what a block holds at present is part of a session's context."""
        return any(held == block.block_hash for held in self.of(block).values())

    def add(self, session: Session) -> None:
        """Let the blocks of a session's context belong to it."""
        context = session.context
        for block, held in zip(context.blocks, context.hashes, strict=True):
            self._owners.setdefault(block.block_id, {})[session] = held

    def remove(self, session: Session) -> None:
        """Let the blocks of a session's context, also those that were evicted since, belong to it no more."""
        for block_id in session.context.all_ids:
            owners = self._owners.get(block_id)
            if owners is not None:
                owners.pop(session, None)
                if not owners:
                    del self._owners[block_id]
