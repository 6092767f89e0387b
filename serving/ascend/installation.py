"""What an NPU machine has installed, and whether it belongs together: read from files and metadata, nothing is imported."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from agentinfer_lg.serving.ascend.devices import VISIBLE, npus, visible_npus
from agentinfer_lg.serving.ascend.releases import RELEASES, Release, known_release
from agentinfer_lg.serving.compat.releases import PROJECTS
from agentinfer_lg.serving.engine.findings import Finding, Site

_DRIVER = "usr/local/Ascend/driver/version.info"
_SET_ENV = ("usr/local/Ascend/ascend-toolkit/set_env.sh", "usr/local/Ascend/cann/set_env.sh")
_HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
"""Variables that CANN's `set_env.sh` sets."""


def npu_findings(site: Site | None = None) -> list[Finding]:
    """Look at devices, driver, CANN, torch-npu and vLLM-Ascend; nothing is said of a machine that has no NPU.

    Except that torch-npu without CANN is reported there too: torch cannot be imported then.

    Args:
        site: Where to look; by default this machine and environment.
    """
    site = site or Site()
    devices = npus(site.root / "dev")
    if not devices:
        return _stray_torch_npu(site)
    return [
        _check_devices(site, devices),
        _check_driver(site),
        _check_cann(site),
        _check_torch_npu(site),
        _check_vllm_ascend(site),
    ]


def _stray_torch_npu(site: Site) -> list[Finding]:
    version = site.version("torch-npu")
    if not version or _cann_home(site) or site.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
        return []
    detail = (
        f"torch-npu {version} is installed, but no CANN: `import torch` fails, and vLLM with it. "
        "Remove it (pip uninstall torch-npu), or set TORCH_DEVICE_BACKEND_AUTOLOAD=0"
    )
    return [Finding("warn", "torch-npu", detail)]


def _check_devices(site: Site, devices: tuple[int, ...]) -> Finding:
    there = f"{len(devices)} found (/dev/davinci{', '.join(map(str, devices))})"
    listed = site.environ.get(VISIBLE, "").strip()
    if not listed:
        return Finding("ok", "npus", f"{there}, all visible")
    names = [name.strip() for name in listed.split(",") if name.strip()]
    missing = [name for name in names if name.isdecimal() and int(name) >= len(devices)]
    if missing:
        detail = (
            f"{there}, but {VISIBLE}={listed} names {', '.join(missing)}: they are counted from 0 to "
            f"{len(devices) - 1}"
        )
        return Finding("FAIL", "npus", detail)
    visible = visible_npus(site.environ, present=len(devices))
    return Finding("ok", "npus", f"{there}, {visible} of them visible ({VISIBLE}={listed})")


def _check_driver(site: Site) -> Finding:
    version = _version_in(site.root / _DRIVER)
    if not version:
        detail = (
            f"there is no version in /{_DRIVER}: install the driver (Ascend HDK); in a container, mount "
            "that file and the folder /usr/local/Ascend/driver/lib64"
        )
        return Finding("warn", "npu driver", detail)
    if shutil.which("npu-smi", path=site.environ.get("PATH", "")) is None:
        detail = f"{version}, but no npu-smi on the PATH; in a container, mount /usr/local/bin/npu-smi"
        return Finding("warn", "npu driver", detail)
    return Finding("ok", "npu driver", f"{version}; `npu-smi info` shows what the NPUs do")


def _check_cann(site: Site) -> Finding:
    wanted = (_release(site) or RELEASES[-1]).cann
    home = _cann_home(site)
    if home is None:
        script = next((path for path in _SET_ENV if (site.root / path).is_file()), "")
        detail = (
            f"installed, but its variables are not set: source /{script}, then start the server from that shell"
            if script
            else f"neither {' nor '.join(_HOMES)} is set, and /usr/local/Ascend has no set_env.sh: install CANN "
            f"{wanted}, or work in the image of vLLM-Ascend"
        )
        return Finding("FAIL", "cann", detail)
    if not home.is_dir():
        return Finding(
            "FAIL", "cann", f"{_shown(site, home)} is not there: source set_env.sh of this CANN again"
        )
    version = next(
        (
            found
            for path in sorted(home.glob("*-linux/ascend_toolkit_install.info"))
            if (found := _version_in(path))
        ),
        "",
    )
    if not version:
        return Finding("ok", "cann", f"{_shown(site, home)}, of unknown version; wanted is {wanted}")
    release = _release(site)
    if release is not None and not version.startswith(release.cann):
        detail = f"{version}, but vllm-ascend {release.vllm_ascend} is made for CANN {release.cann}: install that one"
        return Finding("warn", "cann", detail)
    return Finding("ok", "cann", f"{version} in {_shown(site, home)}")


def _check_torch_npu(site: Site) -> Finding:
    torch, npu, release = site.version("torch"), site.version("torch-npu"), _release(site)
    pair = release or RELEASES[-1]
    install = f"pip install torch=={pair.torch} torch-npu=={pair.torch_npu}"
    if not npu or not torch:
        missing = "torch-npu" if torch else "torch"
        return Finding("FAIL", "torch-npu", f"{missing} is not installed: {install}")
    if _numbers(npu) != _numbers(torch):
        detail = f"torch-npu {npu} does not belong to torch {torch}: {install}"
        return Finding("FAIL", "torch-npu", detail)
    if release is not None and npu.partition("+")[0] != release.torch_npu:
        detail = f"{npu}, but vllm-ascend {release.vllm_ascend} is made for {release.torch_npu}: {install}"
        return Finding("warn", "torch-npu", detail)
    return Finding("ok", "torch-npu", f"{npu}, with torch {torch}")


def _check_vllm_ascend(site: Site) -> Finding:
    ascend = site.version("vllm-ascend")
    vllm = next((version for name in PROJECTS if (version := site.version(name))), "")
    if not ascend:
        detail = "not installed: pip install 'agentinfer-lg[ascend]' with VLLM_TARGET_DEVICE=empty, or use its image"
        return Finding("FAIL", "vllm-ascend", detail)
    release = _release(site)
    wanted = release.vllm if release else _numbers(ascend)
    if vllm.partition("+")[0] != wanted:
        found = f"vllm {vllm}" if vllm else "no vllm"
        detail = (
            f"{ascend} belongs to vllm {wanted}, but {found} is installed: "
            f"VLLM_TARGET_DEVICE=empty pip install --no-binary vllm vllm=={wanted}"
        )
        return Finding("FAIL", "vllm-ascend", detail)
    if release is None:
        known = ", ".join(known.vllm_ascend for known in RELEASES)
        detail = (
            f"{ascend} was not looked at; known are {known}. If the server does not start, take one of those"
        )
        return Finding("warn", "vllm-ascend", detail)
    return Finding("ok", "vllm-ascend", f"{ascend}, with vllm {vllm}")


def _release(site: Site) -> Release | None:
    return known_release(site.version("vllm-ascend"))


def _cann_home(site: Site) -> Path | None:
    named = next((home for name in _HOMES if (home := site.environ.get(name, "").strip())), "")
    return site.root / named.lstrip("/") if named else None


def _shown(site: Site, path: Path) -> str:
    return f"/{path.relative_to(site.root)}"


def _version_in(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^\s*version\s*=\s*(\S+)", text, re.MULTILINE | re.IGNORECASE)
    return found.group(1) if found else ""


def _numbers(version: str) -> str:
    """The three numbers that a version begins with."""
    found = re.match(r"\d+(\.\d+){0,2}", version)
    return found.group() if found else version
