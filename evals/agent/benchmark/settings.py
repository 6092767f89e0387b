"""What a run was started with, so that questions of different settings never come together in one folder."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import get_args

from agentinfer_lg.evals.common.run_store import keep_settings
from agentinfer_lg.evals.common.versions import versions
from agentinfer_lg.llm.connection import public_url
from agentinfer_lg.settings import Settings, Tier

_KEYS = ("--small-key", "--large-key")
_URLS = ("--small-url", "--large-url")


def keep_benchmark_settings(
    folder: Path, *, benchmark: str, data: str, docs: Path | None, flags: Sequence[str]
) -> None:
    """Write the settings of a new run, with versions and time; compare those of one that goes on.

    Versions and time may change in between. Keys among the flags are not written down, nor passwords in URLs.

    Raises:
        ConfigurationError: The folder holds a run with other settings.
    """
    settings = Settings()
    wanted: dict[str, object] = {
        "benchmark": benchmark,
        "data": data,
        "docs": _place(docs, folder),
        "flags": list(_without_secrets(flags)),
        "small": [public_url(settings.small.base_url), settings.small.model],
        "large": [public_url(settings.large.base_url), settings.large.model],
    }
    told = {
        "created": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions(),
    }
    keep_settings(folder, wanted, told=told)


def server_urls(flags: Sequence[str]) -> dict[str, str]:
    """Return the base URL of each tier's server; two tiers at the same one are one entry, `small, large`.

    Args:
        flags: Those of `agentinfer research`; `--small-url` and `--large-url` win over the environment.
    """
    settings = Settings()
    given = dict(_urls(flags))
    own = {tier: given.get(tier, getattr(settings, tier).base_url) for tier in get_args(Tier)}
    tiers: dict[str, list[str]] = {}
    for tier, url in own.items():
        known = url or own["large" if tier == "small" else "small"]
        if known:
            tiers.setdefault(known.rstrip("/"), []).append(tier)
    return {", ".join(names): url for url, names in tiers.items()}


def _without_secrets(flags: Sequence[str]) -> Iterator[str]:
    before = ""
    for flag in flags:
        name, equals, value = flag.partition("=")
        if before in _KEYS or (name in _KEYS and equals):
            yield f"{name}=***" if name in _KEYS else "***"
        elif before in _URLS:
            yield public_url(flag)
        elif name in _URLS and equals:
            yield f"{name}={public_url(value)}"
        else:
            yield flag
        before = flag


def _urls(flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    for flag, after in pairwise([*flags, ""]):
        name, equals, value = flag.partition("=")
        if name in _URLS:
            yield name.removeprefix("--").removesuffix("-url"), value if equals else after


def _place(docs: Path | None, folder: Path) -> str:
    """Return where documents are, from the folder on if they are in it: it may be moved."""
    if docs is None:
        return "the web"
    return str(docs.relative_to(folder)) if docs.is_relative_to(folder) else str(docs)
