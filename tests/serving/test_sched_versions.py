"""The contract of the scheduler with the oldest vLLM that is supported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from vllm_versions import OLDEST

ROOT = Path(__file__).parents[2]


@pytest.mark.engine
def test_the_contract_holds_with_the_oldest_vllm(oldest_vllm: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/serving/test_sched_contract.py",
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(oldest_vllm), str(ROOT)]),
            "AGENTINFER_EXPECTED_VLLM": OLDEST,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout, done.stdout[-2_000:]
