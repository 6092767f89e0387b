"""Which waiting requests may start: those that fit beside the contexts worth keeping, and those that waited long enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Claim(Protocol):
    """What a waiting request would take."""

    need_blocks: int
    """New blocks."""
    hit_blocks: int
    """Cached blocks."""
    must: bool
    """It has waited long enough, or was preempted."""


def admit(
    claims: Iterable[Claim],
    *,
    free_blocks: int,
    spare_blocks: int,
    long_blocks: int,
    long_running: bool,
    idle: bool,
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
        need = claim.need_blocks
        total = need + claim.hit_blocks
        long = need >= long_blocks
        fits = total <= free_blocks or idle  # an idle engine can do no better than to try
        wanted = claim.must or need <= spare_blocks or need <= claim.hit_blocks or idle
        may = fits and wanted and not blocked and not (long and long_running)
        blocked = blocked or (claim.must and not fits)  # or what it needs would go to others for ever
        decisions.append(may)
        if may:
            idle = False
            long_running = long_running or long
            free_blocks -= total
            spare_blocks -= need
    return decisions


def wait_bound(
    *,
    max_wait_seconds: float,
    round_share: float,
    context_tokens: int,
    cache_tokens: int,
    tokens_per_second: float,
) -> float:
    """Return the wait after which a request comes first.

    A fixed bound cannot hold when the sessions together are more than the engine can serve in that time: every request
    would exceed it, and first come, first served would be left, which is what makes a cache thrash. While the contexts do
    not fit into the cache, the bound is therefore a share of a round: the time in which the engine could compute every
    context once, from the beginning. That is how long requests wait when they are served in turn.

    Args:
        max_wait_seconds: The operator's bound.
        round_share: Share of a round; 0: `max_wait_seconds` always holds.
        context_tokens: Tokens of the contexts of all sessions that are here or expected back.
        cache_tokens: Tokens that the cache holds.
        tokens_per_second: Measured speed of prefill; 0: not known yet.
    """
    if context_tokens <= cache_tokens or tokens_per_second <= 0:
        return max_wait_seconds
    # from twice the cache on, a session served in turn finds nothing any more
    thrashing = min(1.0, 2.0 * (1.0 - cache_tokens / context_tokens))
    return max(max_wait_seconds, round_share * thrashing * context_tokens / tokens_per_second)
