"""What holds with vLLM-Ascend, driven without an NPU: released packages, with the hardware's libraries replaced."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.vllm_versions import CONTRACT, CONTRACT_PART, ascend_folder, vllm_folder

from agentinfer_lg.serving.ascend.releases import RELEASES, Release

ROOT = Path(__file__).parents[3]
ALWAYS = ("0.23.0.post1",)
"""The stable release."""
START = """
import sys, pytest
from support import ascend_stubs
ascend_stubs.install()
import vllm.v1.core.sched.scheduler as scheduler
assert scheduler.Scheduler.__name__ == "BalanceScheduler"
sys.exit(pytest.main(sys.argv[1:]))
"""
PYTEST = ("-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default")
"""The warnings are of other packages."""

pytestmark = pytest.mark.vllm


def releases(*, slow: bool) -> list[object]:
    """Return the releases as parameters; all of them are slow, or those that are not checked always."""
    return [
        pytest.param(
            release,
            id=release.vllm_ascend,
            marks=[pytest.mark.slow] if slow or release.vllm_ascend not in ALWAYS else [],
        )
        for release in RELEASES
    ]


@pytest.mark.parametrize("release", releases(slow=False))
def test_the_contract_holds_with_ascend(release: Release) -> None:
    passed(run_tests(release, "tests/support/ascend_checks.py", *CONTRACT_PART))


@pytest.mark.parametrize("release", releases(slow=True))
def test_the_whole_contract_of_the_scheduler_holds_on_the_one_that_ascend_has_patched(
    release: Release,
) -> None:
    passed(run_tests(release, CONTRACT))


def run_tests(release: Release, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests in a process that has this release, and the stand-ins for the hardware."""
    folders = [vllm_folder(release.vllm), ascend_folder(release.vllm_ascend), ROOT, ROOT / "tests"]
    return subprocess.run(
        [sys.executable, "-c", START, *PYTEST, *tests],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "AGENTINFER_EXPECTED_VLLM": release.vllm,
            "AGENTINFER_EXPECTED_ASCEND": release.vllm_ascend,
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # a torch_npu that is installed would not load without its drivers
        },
        capture_output=True,
        text=True,
        check=False,
    )


def passed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout, done.stdout[-2_000:]
