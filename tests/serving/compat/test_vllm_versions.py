"""What holds with every supported vLLM, each in a virtual environment of its own, without a model.

The newest one that has an engine for CPUs is the installed one: all other tests run with it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.vllm_versions import CONTRACT, CONTRACT_PART, OLDEST, vllm_folder, vllm_python

from agentinfer_lg.evals.vllm_trial.process import Outcome, rehearse
from agentinfer_lg.evals.vllm_trial.rehearsal import STEPS
from agentinfer_lg.serving.compat.releases import RELEASES
from agentinfer_lg.serving.compat.sources import SourceTree
from agentinfer_lg.serving.compat.surface import Part, misfits

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[3]
CONTRACTS = [release.tested for release in RELEASES if release.proof == "contract"]
every_contract = pytest.mark.parametrize(
    "version",
    [pytest.param(v, marks=() if v == OLDEST else pytest.mark.slow) for v in CONTRACTS],
)


@pytest.mark.parametrize(
    ("version", "tests"),
    [
        pytest.param(OLDEST, CONTRACT_PART, id=f"{OLDEST}, a part"),
        *(pytest.param(version, (CONTRACT,), marks=pytest.mark.slow, id=version) for version in CONTRACTS),
    ],
)
def test_the_contract_of_the_scheduler_holds(version: str, tests: Sequence[str]) -> None:
    done = subprocess.run(
        [str(vllm_python(version)), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "AGENTINFER_EXPECTED_VLLM": version},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout, done.stdout[-2_000:]


@every_contract
def test_the_plugin_works_inside_it(version: str) -> None:
    assert [*rehearse(python=vllm_python(version))] == [Outcome(step, "") for step in STEPS]


@pytest.mark.slow
@pytest.mark.parametrize("version", [release.tested for release in RELEASES])
@pytest.mark.parametrize("part", ["sched", "sam"])
def test_it_has_every_symbol(version: str, part: Part) -> None:
    assert misfits(SourceTree(vllm_folder(version) / "vllm"), part) == []
