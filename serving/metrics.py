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
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ("EngineMetrics", "Series", "SeriesTable")

_log = logging.getLogger(__name__)

_SECONDS = 0.5
"""Time between two updates."""


@dataclass(frozen=True, slots=True)
class Series:
    """One figure, or one for each value of a label."""

    kind: Literal["counter", "gauge"]
    text: str
    """What it is, as a sentence."""
    label: str = ""
    """Name of the label, if there is one."""
    shown: tuple[str, ...] = ()
    """Values of the label of a counter that are shown from the start, as 0."""
    processes: Literal["sum", "max", "mostrecent"] = "sum"
    """What becomes of a gauge that several processes publish; counters are added."""


@dataclass(frozen=True, slots=True)
class SeriesTable:
    """The figures of one part of the plugin."""

    part: str
    """Its name, for the log."""
    prefix: str
    """What the names of the figures begin with at `/metrics`."""
    series: Mapping[str, Series]
    """Name of each figure, without prefix, to what it is."""


class EngineMetrics:
    """Publishes figures twice a second from a thread of its own; nothing runs per token."""

    def __init__(self, table: SeriesTable, read: Callable[[], Mapping[str, float]]) -> None:
        """Start publishing.

        Args:
            table: What is published.
            read: Returns cumulative counters and present values; the label of a figure follows its name after a colon, as in
                `draft_tokens:own`. Names that are not in the table are left out.
        """
        self._table = table
        self._read = read
        self._published: dict[str, float] = {}
        self._stop = threading.Event()
        self._collectors = _collectors(table)
        self._thread: threading.Thread | None = None
        if self._collectors:
            self._thread = threading.Thread(target=self._run, name=f"{table.prefix}-metrics", daemon=True)
            self._thread.start()

    def publish(self) -> None:
        """Bring the figures up to date."""
        for key, value in self._read().items():
            name, _, label = key.partition(":")
            collector = self._collectors.get(name)
            if collector is None:
                continue
            if label:
                collector = collector.labels(label)
            if self._table.series[name].kind == "gauge":
                collector.set(value)
            else:
                collector.inc(max(0.0, value - self._published.get(key, 0.0)))
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
                _log.warning("%s publishes no more figures at /metrics", self._table.part, exc_info=True)
                return


_made: dict[str, dict[str, Any]] = {}  # a process has one registry, and a series can be added to it once
_making = threading.Lock()


def _collectors(table: SeriesTable) -> dict[str, Any]:  # Any: prometheus_client may be missing
    with _making:
        if table.prefix not in _made:
            try:
                _made[table.prefix] = _make(table)
            except ImportError:
                return {}
        return _made[table.prefix]


def _make(table: SeriesTable) -> dict[str, Any]:
    from prometheus_client import Counter, Gauge

    made: dict[str, Any] = {}
    for name, series in table.series.items():
        full, labels = f"{table.prefix}_{name}", [series.label] if series.label else []
        if series.kind == "gauge":
            made[name] = Gauge(full, series.text, labels, multiprocess_mode=series.processes)
            continue
        made[name] = Counter(full, series.text, labels)
        for value in series.shown:
            made[name].labels(value)
    return made
