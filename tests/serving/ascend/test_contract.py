"""What holds with vLLM-Ascend, driven without an NPU: released packages, with the hardware's libraries replaced."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.vllm_versions import ascend_folder, vllm_folder

from agentinfer_lg.serving.ascend.releases import RELEASES, Release

ROOT = Path(__file__).parents[3]
ALWAYS = ("0.23.0.post1", "0.30.0rc2")
"""The stable release, and the newest one that is known."""
SCHEDULER = "tests/serving/sched/vllm/test_contract.py"
PART_OF_SCHEDULER = (
    "TestRequests::test_every_request_completes_with_the_expected_tokens[plain-sync-default]",
    "TestRequests::test_every_request_completes_with_the_expected_tokens[drafts-async-default]",
    "TestRequests::test_preempted_requests_complete[plain-async-default]",
    "TestRequests::test_preempted_requests_complete[drafts-sync-hard retention]",
    "TestRequests::test_aborts_at_any_time[drafts-async-default]",
    "TestFairness::test_nobody_starves[sessions-default-async-short ones against a long one]",
    "TestFairness::test_nobody_starves[anonymous-default-sync-cached ones against a new one]",
)
"""What could break first on another base: order, preemption, aborts, drafts, and waits."""
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

pytestmark = pytest.mark.engine


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
    part = [f"{SCHEDULER}::{name}" for name in PART_OF_SCHEDULER]
    passed(run_tests(release, "tests/support/ascend_checks.py", *part))


@pytest.mark.parametrize("release", releases(slow=True))
def test_the_whole_contract_of_the_scheduler_holds_on_the_one_that_ascend_has_patched(
    release: Release,
) -> None:
    passed(run_tests(release, SCHEDULER))


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
