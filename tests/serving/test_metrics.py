"""Figures of both parts in one registry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentinfer_lg.serving.sam.vllm.series import TABLE as SAM
from agentinfer_lg.serving.sched.vllm.series import TABLE as SCHED
from agentinfer_lg.serving.sched.vllm.series import SchedMetrics

ROOT = Path(__file__).parents[2]

BOTH = """
import prometheus_client as client
from agentinfer_lg.serving.sam.vllm.series import SamMetrics
from agentinfer_lg.serving.sched.vllm.series import SchedMetrics
parts = [
    SamMetrics(lambda: {"errors": 2, "rejected_hints": 3, "ready": 1}),
    SchedMetrics(lambda: {"errors": 5, "rejected_hints": 7, "lambda": 0.5, "of another version": 1}),
]
for part in parts:
    part.close()
print(client.generate_latest().decode())
"""


TWO_RANKS = """
import os
import prometheus_client as client
from prometheus_client import multiprocess
from types import SimpleNamespace
from agentinfer_lg.serving.metrics import name_engine
from agentinfer_lg.serving.sched.vllm.series import SchedMetrics
# vLLM lets each engine of a dense model believe that it is the only one.
for parallel, price in (({}, 0.25), ({"data_parallel_index": 1, "data_parallel_rank": 0}, 3.0)):
    if os.fork() == 0:
        name_engine(SimpleNamespace(parallel_config=SimpleNamespace(**parallel)))
        SchedMetrics(lambda: {"lambda": price, "waiting": price, "steps": price}).close()
        os._exit(0)
    os.wait()
registry = client.CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(client.generate_latest(registry).decode())
"""


def samples(text: str, *, engine: str = "0") -> dict[str, float]:
    lines = re.findall(rf'^(\w+)\{{engine="{engine}"\}} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


def test_both_parts_publish_in_one_process() -> None:
    pytest.importorskip("prometheus_client")
    done = subprocess.run([sys.executable, "-c", BOTH], capture_output=True, text=True, check=True, cwd=ROOT)
    found = samples(done.stdout)
    assert found["agentinfer_sam_errors_total"] == 2
    assert found["agentinfer_sched_errors_total"] == 5
    assert found["agentinfer_sched_rejected_hints_total"] == 7
    assert (found["agentinfer_sam_ready"], found["agentinfer_sched_lambda"]) == (1, 0.5)


def test_engines_of_one_server_keep_their_figures_apart(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    done = subprocess.run(
        [sys.executable, "-c", TWO_RANKS],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
    )
    for engine, price in (("0", 0.25), ("1", 3.0)):
        found = samples(done.stdout, engine=engine)
        assert found["agentinfer_sched_lambda"] == found["agentinfer_sched_waiting"] == price
        assert found["agentinfer_sched_steps_total"] == price


def test_every_figure_of_the_scheduler_can_be_published() -> None:
    client = pytest.importorskip("prometheus_client")
    figures = {name: float(number) for number, name in enumerate(SCHED.series, 1)}
    counters = {name for name, series in SCHED.series.items() if series.kind == "counter"}

    def shown(name: str) -> float:
        full = f"agentinfer_sched_{name}{'_total' if name in counters else ''}"
        return float(client.REGISTRY.get_sample_value(full, {"engine": "0"}) or 0.0)

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
