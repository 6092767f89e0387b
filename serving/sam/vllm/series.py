"""The figures of AgentSAM at `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

from agentinfer_lg.serving.metrics import EngineMetrics, Series, SeriesTable
from agentinfer_lg.serving.sam.types import Source

_SOURCES: tuple[str, ...] = get_args(Source)

TABLE = SeriesTable(
    part="AgentSAM",
    prefix="agentinfer_sam",
    series={
        "drafts": Series("counter", "Drafts proposed."),
        "draft_tokens": Series("counter", "Drafted tokens, by source.", label="source", shown=_SOURCES),
        "accepted_tokens": Series(
            "counter", "Drafted tokens that the model confirmed, by source.", label="source", shown=_SOURCES
        ),
        "emitted_tokens": Series("counter", "Tokens generated in decode passes."),
        "decode_passes": Series("counter", "Decode passes, counted per request."),
        "unready_passes": Series(
            "counter",
            "Decode passes without a draft because the automaton of the request was still being built.",
        ),
        "built_tokens": Series("counter", "Tokens added to automata."),
        "build_seconds": Series("counter", "Time spent on adding them, in the background."),
        "failed_builds": Series("counter", "Background jobs that failed."),
        "resyncs": Series("counter", "Times that a request had to be read again from the batch."),
        "rejected_hints": Series("counter", "Session hints that were ignored for their type or range."),
        "errors": Series("counter", "Steps without drafts because of an error."),
        "ready": Series(
            "gauge", "Whether drafts can be made: 0 while kernels are compiled, and after repeated errors."
        ),
        "tokens_per_pass": Series(
            "gauge", "Generated tokens per decode pass since the start (OTE).", processes="mostrecent"
        ),
        "hit_rate": Series(
            "gauge", "Accepted share of the drafted tokens since the start (SHR).", processes="mostrecent"
        ),
        "build_backlog_jobs": Series(
            "gauge", "Background jobs that wait: requests to read, sessions to keep."
        ),
        "build_backlog_tokens": Series("gauge", "Tokens of the prompts among them."),
        "live_sessions": Series("gauge", "Sessions with an automaton of their own."),
        "live_tokens": Series("gauge", "Tokens in the automata of live sessions."),
        "history_tokens": Series("gauge", "Tokens of finished sessions that drafts may come from."),
        "memory_bytes": Series("gauge", "Memory of all automata."),
        "marginal_cost": Series(
            "gauge",
            "Cost of verifying one more token, as a share of a step, by batch size.",
            label="batch",
            processes="mostrecent",
        ),
    },
)
"""All of them."""


class SamMetrics(EngineMetrics):
    """Publishes the counters of AgentSAM."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Start publishing.

        Args:
            read: Returns the figures by name, a label after a colon.
        """
        super().__init__(TABLE, read)
