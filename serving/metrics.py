"""Figures of the engine plugin at the server's `/metrics`.

vLLM's server collects what every process of the engine writes below `PROMETHEUS_MULTIPROC_DIR`, which must be set before
the processes start (`agentinfer serve` does). Without that variable the figures stay in the process, and without the
package `prometheus_client` nothing happens at all.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, get_args

from agentinfer_lg.serving.sam.types import Source

__all__ = ("SamMetrics",)

_log = logging.getLogger(__name__)

_SECONDS = 0.5
"""Time between two updates."""
_SOURCES: tuple[str, ...] = get_args(Source)

_COUNTERS = {
    "drafts": ("Drafts proposed.", ""),
    "draft_tokens": ("Drafted tokens, by source.", "source"),
    "accepted_tokens": ("Drafted tokens that the model confirmed, by source.", "source"),
    "emitted_tokens": ("Tokens generated in decode passes.", ""),
    "decode_passes": ("Decode passes, counted per request.", ""),
    "unready_passes": (
        "Decode passes without a draft because the automaton of the request was still being built.",
        "",
    ),
    "built_tokens": ("Tokens added to automata.", ""),
    "build_seconds": ("Time spent on adding them, in the background.", ""),
    "failed_builds": ("Background jobs that failed.", ""),
    "resyncs": ("Times that a request had to be read again from the batch.", ""),
    "rejected_hints": ("Session hints that were ignored for their type or range.", ""),
    "errors": ("Steps without drafts because of an error.", ""),
}
_Mode = Literal["mostrecent", "sum"]

_GAUGES: dict[str, tuple[str, str, _Mode]] = {
    "ready": (
        "Whether drafts can be made: 0 while kernels are compiled, and after repeated errors.",
        "",
        "sum",
    ),
    "tokens_per_pass": ("Generated tokens per decode pass since the start (OTE).", "", "mostrecent"),
    "hit_rate": ("Accepted share of the drafted tokens since the start (SHR).", "", "mostrecent"),
    "build_backlog_jobs": ("Background jobs that wait: requests to read, sessions to keep.", "", "sum"),
    "build_backlog_tokens": ("Tokens of the prompts among them.", "", "sum"),
    "live_sessions": ("Sessions with an automaton of their own.", "", "sum"),
    "live_tokens": ("Tokens in the automata of live sessions.", "", "sum"),
    "history_tokens": ("Tokens of finished sessions that drafts may come from.", "", "sum"),
    "memory_bytes": ("Memory of all automata.", "", "sum"),
    "marginal_cost": (
        "Cost of verifying one more token, as a share of a step, by batch size.",
        "batch",
        "mostrecent",
    ),
}


class SamMetrics:
    """Publishes the counters of AgentSAM twice a second from a thread of its own; nothing runs per token."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Start publishing.

        Args:
            read: Returns cumulative counters and present sizes; the label of a figure follows its name after a colon, as in
                `draft_tokens:own`. Names that are not known here are left out.
        """
        self._read = read
        self._published: dict[str, float] = {}
        self._stop = threading.Event()
        self._series = _series()
        self._thread: threading.Thread | None = None
        if self._series:
            self._thread = threading.Thread(target=self._run, name="agentinfer-metrics", daemon=True)
            self._thread.start()

    def publish(self) -> None:
        """Bring the figures up to date."""
        for key, value in self._read().items():
            name, _, label = key.partition(":")
            series = self._series.get(name)
            if series is None:
                continue
            if label:
                series = series.labels(label)
            if name in _GAUGES:
                series.set(value)
            else:
                series.inc(max(0.0, value - self._published.get(key, 0.0)))
                self._published[key] = value

    def close(self) -> None:
        """Publish once more and stop."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2)
            self._thread = None
            with contextlib.suppress(Exception):
                self.publish()

    def _run(self) -> None:
        while not self._stop.wait(_SECONDS):
            try:
                self.publish()
            except Exception:
                _log.warning("AgentSAM publishes no more figures at /metrics", exc_info=True)
                return


@cache  # a process has one registry, and a series can be added to it once
def _series() -> dict[str, Any]:  # Any: prometheus_client may be missing
    try:
        from prometheus_client import Counter, Gauge
    except ImportError:
        return {}
    made: dict[str, Any] = {}
    for name, (text, label) in _COUNTERS.items():
        made[name] = Counter(f"agentinfer_sam_{name}", text, [label] if label else [])
        for source in _SOURCES if label == "source" else ():
            made[name].labels(source)  # shown from the start, as 0
    for name, (text, label, mode) in _GAUGES.items():
        made[name] = Gauge(f"agentinfer_sam_{name}", text, [label] if label else [], multiprocess_mode=mode)
    return made
