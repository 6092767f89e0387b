"""What gets installed: one package, with the code of the linked folders in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_one_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"agentinfer_lg"}
    for needed in (
        "py.typed",
        "graphs/deep_research.py",
        "nodes/think.py",
        "serving/engine/launch.py",
        "evals/agent/benchmark/run.py",
        "evals/datasets/closed_world/prose.json",
        "evals/compression/granularity/vocabulary.json",
    ):
        assert f"agentinfer_lg/{needed}" in names
    (points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    found = archive.read(points).decode()
    assert "[vllm.general_plugins]\nagentinfer = agentinfer_lg.serving.plugin:register" in found
