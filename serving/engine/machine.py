"""What a command line must know about this machine: accelerator, free memory, OpenMP library, parsers of its vLLM."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agentinfer_lg.serving.ascend.devices import npus
from agentinfer_lg.serving.compat.parsers import installed_parsers

Device = Literal["cpu", "cuda", "npu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts about this machine that a command line depends on."""

    python: str = sys.executable
    memory_gib: float = 8.0
    """Free memory, in GiB."""
    openmp: Path | None = None
    """Intel's OpenMP library of this environment, if it is installed."""
    npus: int = 0
    """NPUs that it has; 0: none was seen."""
    tool_parsers: frozenset[str] | None = None
    """Parsers of tool calls that its vLLM has; None: not known, any."""
    reasoning_parsers: frozenset[str] | None = None
    """The same for parsers of thoughts."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables that are set already; they win over defaults."""

    @classmethod
    def detect(cls) -> Machine:
        """Look at this machine."""
        library = Path(sys.prefix) / "lib" / "libiomp5.so"
        return cls(
            memory_gib=_free_memory_gib(),
            openmp=library if library.exists() else None,
            npus=len(npus()),
            tool_parsers=installed_parsers("tool"),
            reasoning_parsers=installed_parsers("reasoning"),
            environ=dict(os.environ),
        )


def detect_device() -> Device:
    """Return the kind of accelerator of this machine, without importing torch."""
    if npus():
        return "npu"
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return "cpu"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=20, check=False)
        if listed.returncode == 0 and "GPU" in listed.stdout:
            return "cuda"
    return "cpu"


def _free_memory_gib() -> float:
    """Memory that can be had now, within the limits of the container."""
    free = 8.0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free = int(match.group(1)) / 2**20 if match else free
    with contextlib.suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        free = min(free, (int(limit) - int(used)) / 2**30)
    return max(free, 0.0)
