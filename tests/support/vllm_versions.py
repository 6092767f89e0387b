"""Versions of vLLM and of vLLM-Ascend other than the installed one, as folders to put first on the path.

Only their pure Python parts are needed, so each is installed into a folder of its own, without dependencies: those of the
installed engine serve it too. Compiled operators of vLLM would want another torch, and are left out; those of Ascend would
want its compiler, and are not made.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.vllm_trial.wheel import fetch_vllm

OLDEST = "0.23.0"
CONTRACT = "tests/serving/sched/vllm/test_contract.py"
CONTRACT_PART = tuple(
    f"{CONTRACT}::{name}"
    for name in (
        "TestRequests::test_every_request_completes_with_the_expected_tokens[plain-sync-default]",
        "TestRequests::test_every_request_completes_with_the_expected_tokens[drafts-async-default]",
        "TestRequests::test_preempted_requests_complete[plain-async-default]",
        "TestRequests::test_preempted_requests_complete[drafts-sync-hard retention]",
        "TestRequests::test_aborts_at_any_time[drafts-async-default]",
        "TestFairness::test_nobody_starves[sessions-default-async-short ones against a long one]",
        "TestFairness::test_nobody_starves[anonymous-default-sync-cached ones against a new one]",
    )
)
"""What could break first on another base: order, preemption, aborts, drafts, and waits."""
MISSING = re.compile(r"^ERROR: (?:Could not find a version|No matching distribution).*", re.MULTILINE)


def vllm_folder(version: str) -> Path:
    """Return a folder with that vLLM (100 to 340 MB), downloaded only once and kept in the environment; skips without one."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (python -m agentinfer_lg.serving.engine.install)")
    try:
        with alone(f"vllm-{version}"):
            return fetch_vllm(version, folder=Path(sys.prefix) / "vllm")
    except UserInputError as error:
        pytest.skip(str(error))


def vllm_python(version: str) -> Path:
    """Return Python in a virtual environment with that vLLM; what it lacks comes from the environment of the tests."""
    site = vllm_folder(version)
    environment = site.parent / f"{version}-environment"
    with alone(environment.name):
        if environment.is_dir():
            return environment / "bin" / "python"
        with tempfile.TemporaryDirectory(prefix=f"{version}-", dir=site.parent) as fresh:
            made = Path(fresh) / "environment"
            venv.create(made, symlinks=True, with_pip=False)
            (packages,) = made.glob("lib/python*/site-packages")
            ours = [path for path in sys.path if path.endswith("site-packages")]
            lines = [str(site), *(f"import site; site.addsitedir({path!r})" for path in ours)]
            (packages / "versions.pth").write_text("\n".join(lines) + "\n")
            made.rename(environment)
    return environment / "bin" / "python"


def ascend_folder(version: str) -> Path:
    """Return a folder with that vLLM-Ascend (15 MB of source), built only once; the vLLM that it pairs with is another."""
    return kept(f"vllm-ascend-{version}", lambda site: build_ascend(version, site))


def kept(name: str, fill: Callable[[Path], None]) -> Path:
    folder = Path(sys.prefix) / name
    with alone(name):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=sys.prefix) as fresh:
                fill(Path(fresh) / "site")
                (Path(fresh) / "site").rename(folder)  # never half a folder
    return folder


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process of the tests at a time make what is kept under a name."""
    with (Path(sys.prefix) / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_ascend(version: str, site: Path) -> None:
    tools = site.parent / "tools"
    pip_install("setuptools_scm>=8", tools)
    without_kernels = {
        "COMPILE_CUSTOM_KERNELS": "0",
        "SOC_VERSION": "ascend910b1",
        "PYTHONPATH": str(tools),
    }
    pip_install(
        f"vllm-ascend=={version}", site, "--no-deps", "--no-build-isolation", variables=without_kernels
    )


def pip_install(what: str, folder: Path, *options: str, variables: Mapping[str, str] | None = None) -> None:
    """Install into a folder; skips the test where no index has it."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "install")
    done = subprocess.run(
        [*pip, "--no-compile", "--target", str(folder), *options, what],
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    missing = MISSING.search(done.stderr)
    if missing:
        pytest.skip(f"{what} cannot be downloaded here: {missing.group().removeprefix('ERROR: ')}")
    assert done.returncode == 0, done.stderr
