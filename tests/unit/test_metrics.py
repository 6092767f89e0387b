"""Figures of both parts in one registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentinfer_lg.serving.sam.series import TABLE as SAM
from agentinfer_lg.serving.sched.series import TABLE as SCHED
from agentinfer_lg.serving.sched.series import SchedMetrics

ROOT = Path(__file__).parents[2]

BOTH = """
import prometheus_client as client
from agentinfer_lg.serving.sam.series import SamMetrics
from agentinfer_lg.serving.sched.series import SchedMetrics
parts = [
    SamMetrics(lambda: {"errors": 2, "rejected_hints": 3, "ready": 1}),
    SchedMetrics(lambda: {"errors": 5, "rejected_hints": 7, "lambda": 0.5, "of another version": 1}),
]
for part in parts:
    part.close()
print(client.generate_latest().decode())
"""


def samples(text: str) -> dict[str, float]:
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_both_parts_publish_in_one_process() -> None:
    pytest.importorskip("prometheus_client")
    done = subprocess.run([sys.executable, "-c", BOTH], capture_output=True, text=True, check=True, cwd=ROOT)
    found = samples(done.stdout)
    assert found["agentinfer_sam_errors_total"] == 2
    assert found["agentinfer_sched_errors_total"] == 5
    assert found["agentinfer_sched_rejected_hints_total"] == 7
    assert (found["agentinfer_sam_ready"], found["agentinfer_sched_lambda"]) == (1, 0.5)


def test_every_figure_of_the_scheduler_can_be_published() -> None:
    client = pytest.importorskip("prometheus_client")
    figures = {name: float(number) for number, name in enumerate(SCHED.series, 1)}
    counters = {name for name, series in SCHED.series.items() if series.kind == "counter"}

    def shown(name: str) -> float:
        full = f"agentinfer_sched_{name}{'_total' if name in counters else ''}"
        return float(client.REGISTRY.get_sample_value(full) or 0.0)

    metrics = SchedMetrics(lambda: figures)
    before = {name: shown(name) for name in counters}  # other tests count in the same registry
    metrics.publish()
    metrics.close()
    for name, value in figures.items():
        assert shown(name) == value + before.get(name, 0.0)


def test_tables_are_apart() -> None:
    assert SAM.prefix != SCHED.prefix
    for series in (*SAM.series.values(), *SCHED.series.values()):
        assert series.text.endswith(".")
