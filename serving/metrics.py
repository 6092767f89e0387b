"""Figures of the engine plugin at the server's `/metrics`.

vLLM's server collects what every process of the engine writes below `PROMETHEUS_MULTIPROC_DIR`, which must be set before
the processes start (`agentinfer serve` does). Without that variable the figures stay in the process, and without the
package `prometheus_client` nothing happens at all. As with vLLM's own figures, the label `engine` is the rank of the
engine in data parallel.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_log = logging.getLogger(__name__)

_SECONDS = 0.5
"""Time between two updates."""


_engine = "0"
"""Whose figures these are: a process belongs to one engine, and has one registry."""


@dataclass(frozen=True, slots=True)
class Series:
    """One figure, or one for each value of a label."""

    kind: Literal["counter", "gauge"]
    text: str
    """What it is, as a sentence."""
    label: str = ""
    """Name of the label, if there is one besides `engine`."""
    shown: tuple[str, ...] = ()
    """Values of the label of a counter that are shown from the start, as 0."""
    processes: Literal["sum", "max", "mostrecent"] = "sum"
    """What becomes of a gauge that several processes of one engine publish; counters are added."""


@dataclass(frozen=True, slots=True)
class SeriesTable:
    """The figures of one part of the plugin."""

    part: str
    """Its name, for the log."""
    prefix: str
    """What the names of the figures begin with at `/metrics`."""
    series: Mapping[str, Series]
    """Name of each figure, without prefix, to what it is."""


def name_engine(vllm_config: Any) -> None:  # Any: vLLM's types are not ours
    """Tell whose figures this process publishes from now on: those of the engine that has this configuration.

    Args:
        vllm_config: vLLM's configuration in a process of the engine.
    """
    global _engine
    # The index, since vLLM lets each engine of a dense model believe that it is the only one, with rank 0.
    _engine = str(int(getattr(vllm_config.parallel_config, "data_parallel_index", 0) or 0))


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
        self._engine = _engine
        self._published: dict[str, float] = {}
        self._stop = threading.Event()
        self._collectors = _collectors(table)
        self._show_zeros()
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
            collector = collector.labels(self._engine, *([label] if label else []))
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

    def _show_zeros(self) -> None:
        for name, collector in self._collectors.items():
            series = self._table.series[name]
            for value in series.shown if series.label else ("",):
                collector.labels(self._engine, *([value] if value else []))

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
        full, labels = f"{table.prefix}_{name}", ["engine", *([series.label] if series.label else [])]
        if series.kind == "gauge":
            made[name] = Gauge(full, series.text, labels, multiprocess_mode=series.processes)
        else:
            made[name] = Counter(full, series.text, labels)
    return made
