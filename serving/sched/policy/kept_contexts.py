"""The idle contexts that are kept: as many as fit together, the most worthy first."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agentinfer_lg.serving.sched.policy.cached_context import CachedContext
from agentinfer_lg.serving.sched.policy.session import Session


@dataclass(slots=True)
class Kept:
    """The context of an idle session that is worth its blocks."""

    worth: float
    """What keeping it saves, from `retention.worth`."""
    blocks: int
    """Its blocks; once it is kept, those that the first one with the same beginning does not have."""
    session: Session


class KeptContexts:
    """A room of blocks, filled with contexts in the order of their worth; what they share counts once."""

    def __init__(self, room: int) -> None:
        """Keep nothing yet.

        Args:
            room: Most blocks that are kept.
        """
        self._room = room
        self._kept: list[Kept] = []
        self._first: dict[int, CachedContext] = {}  # by its first block, the most worthy that begins with it
        self.blocks = 0
        """Blocks of all of them together."""

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept)

    def __reversed__(self) -> Iterator[Kept]:
        return reversed(self._kept)

    def replace(self, found: Iterable[Kept]) -> None:
        """Keep those of `found` that fit together, and nothing else."""
        self._kept, self.blocks = [], 0
        self._first.clear()
        for kept in sorted(found, key=_by_worth):
            if self.blocks + self._own_blocks(kept) > self._room:
                self._forget_first(kept)
            elif kept.blocks:
                self._kept.append(kept)
                self.blocks += kept.blocks

    def add(self, kept: Kept) -> None:
        """Keep one more; where there is no room, less worthy ones give way to it."""
        if self.blocks + self._own_blocks(kept) > self._room:
            self.replace([*self._kept, kept])
        elif kept.blocks:
            insort(self._kept, kept, key=_by_worth)
            self.blocks += kept.blocks

    def discard(self, session: Session) -> None:
        """Keep the context of a session no longer."""
        for place, kept in enumerate(self._kept):
            if kept.session is session:
                del self._kept[place]
                self.blocks -= kept.blocks
                return

    def _own_blocks(self, kept: Kept) -> int:
        """Count the blocks of a context that the first one with the same beginning does not have."""
        context = kept.session.context
        if not context.blocks:  # it was evicted since it was valued
            kept.blocks = 0
            return 0
        other = self._first.setdefault(context.blocks[0].block_id, context)
        kept.blocks = len(context) - (0 if other is context else context.shared_with(other))
        return kept.blocks

    def _forget_first(self, kept: Kept) -> None:
        context = kept.session.context
        if context.blocks and self._first.get(context.blocks[0].block_id) is context:
            del self._first[context.blocks[0].block_id]


def _by_worth(kept: Kept) -> float:
    return -kept.worth
