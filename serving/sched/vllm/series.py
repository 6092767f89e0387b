"""The figures of AgentSched at `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentinfer_lg.serving.metrics import EngineMetrics, Series, SeriesTable

TABLE = SeriesTable(
    part="AgentSched",
    prefix="agentinfer_sched",
    series={
        "lambda": Series("gauge", "Price that pressure adds to a needed block (lambda).", processes="max"),
        "pressure": Series(
            "gauge", "Blocks that waiting requests need, as a share of the capacity (z).", processes="max"
        ),
        "demand_blocks": Series("gauge", "Blocks that waiting requests need (D)."),
        "capacity_blocks": Series("gauge", "Free blocks that no waiting request would hit (U)."),
        "hit_blocks": Series(
            "gauge", "Cached blocks that waiting requests would hit, each counted once (H)."
        ),
        "free_blocks": Series("gauge", "Blocks that no running request holds; many still cache something."),
        "retained_blocks": Series("gauge", "Free blocks that are kept for sessions expected back."),
        "pinned_blocks": Series("gauge", "Blocks that are held by force for sessions expected back."),
        "waiting": Series("gauge", "Requests that wait, those held back included."),
        "held": Series(
            "gauge", "Requests held back because letting them in would evict more than they bring."
        ),
        "max_wait_seconds": Series(
            "gauge", "Longest wait of a request for its start, so far.", processes="max"
        ),
        "wait_bound_seconds": Series(
            "gauge", "Wait after which a request comes first at present.", processes="max"
        ),
        "known_sessions": Series("gauge", "Sessions that are remembered."),
        "hit_tokens": Series("counter", "Prompt tokens found in the cache when their request was let in."),
        "queried_tokens": Series("counter", "Prompt tokens of the requests that were let in."),
        "refreshes": Series("counter", "Times that cached blocks of a session were kept from eviction."),
        "demotions": Series("counter", "Times that cached blocks were given up early."),
        "superseded_blocks": Series(
            "counter", "Blocks given up because a request took the place of its session's old context."
        ),
        "preemptions": Series("counter", "Running requests that lost their blocks to others."),
        "forced_admissions": Series("counter", "Requests that came first because they had waited too long."),
        "holds": Series("counter", "Times that a request was held back."),
        "cut_draft_tokens": Series("counter", "Drafted tokens that were dropped under pressure."),
        "rejected_hints": Series("counter", "Session hints that were ignored for their type or range."),
        "overhead_seconds": Series("counter", "Time spent on all this."),
        "steps": Series("counter", "Steps of the scheduler."),
        "limited_steps": Series(
            "counter", "Steps that got less prefill than vLLM allows, so that they end soon."
        ),
        "errors": Series("counter", "Steps that vLLM scheduled alone because of an error."),
    },
)
"""All of them."""


class SchedMetrics(EngineMetrics):
    """Publishes the figures of AgentSched."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Start publishing.

        Args:
            read: Returns cumulative counters and present values by name.
        """
        super().__init__(TABLE, read)
