"""Virtual environments of other projects' servers, kept in the user's cache: one for each set of packages."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs
import pytest
from support.vllm_versions import alone

__all__ = ("server_environment",)


def server_environment(
    name: str, packages: Sequence[str], *, variables: Mapping[str, str] | None = None
) -> Path:
    """Return the folder of the commands of an environment with these packages; made only once.

    Skips the test, with the reason, where pip cannot install them.

    Args:
        name: What the folder is called.
        packages: Requirements, pinned.
        variables: More variables for pip, such as options of a compiler.
    """
    made_from = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:8]
    folder = _cache() / f"{name}-{made_from}"
    ready = folder / "ready"
    with alone(folder.name):
        if not ready.exists():  # an environment cannot be moved, so half a one is made anew in its place
            venv.create(folder, clear=True, symlinks=True, with_pip=True)
            _install(folder / "bin" / "python", packages, variables or {})
            ready.touch()
    return folder / "bin"


def _cache() -> Path:
    return Path(platformdirs.user_cache_dir("agentinfer", appauthor=False)) / "test-servers"


def _install(python: Path, packages: Sequence[str], variables: Mapping[str, str]) -> None:
    pip = (str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "--retries", "1", "install")
    inherited = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(
        [*pip, *packages], env=inherited | variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = re.findall(r"^ERROR: (.*)", done.stderr, re.MULTILINE) or done.stderr.strip().splitlines()[-1:]
        where = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        pytest.skip(f"pip cannot install {' '.join(packages)} ({where}): {' '.join(said)[:300]}")
