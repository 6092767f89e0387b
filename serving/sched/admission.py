"""Which waiting requests may start: those that fit beside the contexts worth keeping, and those that waited long enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ("Claim", "admit", "wait_bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a waiting request would take."""

    need_blocks: int
    """New blocks."""
    hit_blocks: int
    """Cached blocks."""
    must: bool = False
    """It has waited long enough, or has started before."""


def admit(
    claims: Iterable[Claim], *, free_blocks: int, spare_blocks: int, long_blocks: int, long_running: bool, idle: bool
) -> list[bool]:
    """Return for each request whether it may start, in the order in which they would.

    A request is held back while it would evict contexts that are worth keeping. One that mostly uses what is cached may
    start anyway, because it is the one for which its context was kept. Only one long prefill runs at a time: several
    would share the engine, and all of them end late. An idle engine always lets the first one in.

    Args:
        claims: Waiting requests, the best first.
        free_blocks: Blocks that no request holds or will need for the rest of its prompt.
        spare_blocks: Those of them that are neither kept nor about to be used by waiting requests as they are.
        long_blocks: New blocks from which on a prefill is long.
        long_running: Whether a long prefill is going on.
        idle: Whether nothing runs.
    """
    decisions: list[bool] = []
    blocked = False
    for claim in claims:
        long = claim.need_blocks >= long_blocks
        fits = claim.need_blocks + claim.hit_blocks <= free_blocks
        wanted = claim.must or claim.need_blocks <= max(spare_blocks, claim.hit_blocks) or idle
        may = fits and wanted and not blocked and not (long and long_running)
        blocked = blocked or (claim.must and not fits)  # or what it needs would go to others for ever
        decisions.append(may)
        if may:
            idle = False
            long_running = long_running or long
            free_blocks -= claim.need_blocks + claim.hit_blocks
            spare_blocks -= claim.need_blocks
    return decisions


def wait_bound(
    *, max_wait_seconds: float, round_share: float, contexts: int, tokens: float, tokens_per_second: float
) -> float:
    """Return the wait after which a request comes first.

    A fixed bound cannot hold when all sessions together are more than the engine can serve in that time: every request
    would exceed it, and first come, first served would be left, which is what makes a cache thrash. Then the bound is a
    share of a round: the time in which the engine could compute every known context once, from the beginning.

    Args:
        max_wait_seconds: The operator's bound.
        round_share: Share of a round; 0: `max_wait_seconds` always holds.
        contexts: Number of sessions with a request at present or expected back.
        tokens: Tokens of all their contexts together.
        tokens_per_second: Measured speed of prefill; 0: not known yet.
    """
    if contexts < 2 or tokens_per_second <= 0:
        return max_wait_seconds
    return max(max_wait_seconds, round_share * tokens / tokens_per_second)
