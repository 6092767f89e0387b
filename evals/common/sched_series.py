"""AgentSched's figures as a server publishes them at `/metrics`."""

from __future__ import annotations

import re

_SERIES = re.compile(r"^agentinfer_sched_(\w+?)(?:_total)?(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def read_sched_series(text: str) -> dict[str, float]:
    """Return counters and gauges by the names of `serving.sched.series.TABLE`; empty where AgentSched is not on.

    Args:
        text: The page in Prometheus' format.
    """
    return {name: float(value) for name, value in _SERIES.findall(text)}
