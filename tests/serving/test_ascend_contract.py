"""What holds with vLLM-Ascend, driven without an NPU: the released package, with the hardware's libraries replaced."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from vllm_versions import ASCEND, OLDEST

from agentinfer_lg.serving.diagnosis import explain_exit
from agentinfer_lg.serving.sam.flags import EXTENSION_CLASS

pytestmark = pytest.mark.engine

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START = f"""
import ascend_stubs
ascend_stubs.install()
ascend_stubs.start_worker({EXTENSION_CLASS!r})
"""
PYTEST = ("-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default")
"""The warnings are of other packages."""
WITH_STUBS = f"""
import sys, ascend_stubs, pytest
ascend_stubs.install()
import vllm.v1.core.sched.scheduler as scheduler
assert scheduler.Scheduler.__name__ == "BalanceScheduler"
sys.exit(pytest.main([*{PYTEST!r}, "tests/serving/test_sched_contract.py"]))
"""


def run_python(*arguments: str, vllm: Path, ascend: Path) -> subprocess.CompletedProcess[str]:
    folders = [vllm, ascend, ROOT, HERE]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "AGENTINFER_EXPECTED_VLLM": OLDEST,
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # a torch_npu that is installed would not load without its drivers
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contract_holds_with_ascend(oldest_vllm: Path, oldest_ascend: Path) -> None:
    checks = str(HERE / "ascend_checks.py")
    passed(run_python("-m", "pytest", *PYTEST, checks, vllm=oldest_vllm, ascend=oldest_ascend))


def test_the_contract_of_the_scheduler_holds_on_the_one_that_ascend_has_patched(
    oldest_vllm: Path, oldest_ascend: Path
) -> None:
    passed(run_python("-c", WITH_STUBS, vllm=oldest_vllm, ascend=oldest_ascend))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"\bget_spec_decode_method\b", "make_proposer", "get_spec_decode_method is not there"),
        (
            r"\bget_spec_decode_method\(method, ",
            "get_spec_decode_method(method, hint, ",
            "get_spec_decode_method takes (method, hint, vllm_config, device, runner) instead of "
            "(method, vllm_config, device, runner)",
        ),
        (r"\bAscendSuffixDecodingProposer\b", "AscendSuffix", "AscendSuffixDecodingProposer is not there"),
    ],
    ids=["function renamed", "function changed", "class renamed"],
)
def test_what_is_not_as_known_ends_the_start_with_a_sentence(
    oldest_vllm: Path, oldest_ascend: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    changed = tmp_path / "ascend"
    shutil.copytree(oldest_ascend, changed)
    change(changed / "vllm_ascend", old, new)
    done = run_python("-c", START, vllm=oldest_vllm, ascend=changed)
    assert done.returncode == 1
    told = explain_exit(done.stderr.splitlines(), code=1, model="m", port=1)
    assert told.endswith(
        f"Its last words: AgentSAM does not fit this vllm-ascend ({ASCEND}): "
        f"vllm_ascend.worker.model_runner_v1.{said}; it fits vllm-ascend 0.23.0 and 0.23.0.post1; "
        "start without AgentSAM: --no-sam, or AGENTINFER_SAM=0"
    )
    assert "AttributeError" not in done.stderr


def passed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout, done.stdout[-2_000:]


def change(package: Path, old: str, new: str) -> None:
    changes = 0
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        changed, count = re.subn(old, new, text)
        if count:
            path.write_text(changed, encoding="utf-8")
            changes += count
    assert changes
