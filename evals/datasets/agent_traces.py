"""Recorded request traces of agents, read from public data sets.

Coding-agent traces: https://github.com/callanjfox/kv-cache-tester (Apache-2.0), in the compact form of the data folder: each
request names how many of its block hashes it has in common with the one before, and the runs of new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agentinfer_lg.errors import UserInputError

IdArray = npt.NDArray[np.int64]
Part = Literal["tune", "report"]
"""Sessions on which settings may be tuned, and the others on which figures are reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCall:
    """One recorded request."""

    prompt_tokens: int
    output_tokens: int
    gap_seconds: float
    """Time since the end of the request before, recorded."""
    block_ids: IdArray
    """Identity of each full block of the prompt, within the session."""
    after_tool: bool = False
    """Whether a tool ran in the gap, rather than a person thought."""
    children: tuple[TraceSession, ...] = ()
    """Sub-agents that ran before this session's next request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSession:
    """One recorded conversation."""

    name: str
    block_size: int
    shared_tokens: int
    """Tokens at the front (tools and system prompt) that sessions with the same number have in common."""
    calls: tuple[TraceCall, ...]


def load_coding_traces(folder: Path, *, part: Part | None = None, least_calls: int = 8) -> list[TraceSession]:
    """Read the coding-agent traces.

    Args:
        folder: The data folder, with the files `coding-agent-traces/traces_delta_*.jsonl`.
        part: Which half; None: all. Halves are by the parity of the trace's number, so both have all kinds of sessions.
        least_calls: Shorter sessions are left out.

    Raises:
        UserInputError: The folder has no such files.
    """
    files = sorted((folder / "coding-agent-traces").glob("traces_delta_*.jsonl"))
    if not files:
        msg = f"there are no coding-agent traces in {folder}: see docs/data.md"
        raise UserInputError(msg)
    found = (_session(json.loads(line)) for file in files for line in _lines(file))
    return [
        session
        for session in found
        if len(session.calls) >= least_calls and (part is None or _part(session.name) == part)
    ]


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as stream:
        yield from stream


def _part(name: str) -> Part:
    digits = "".join(letter for letter in name if letter.isdigit())
    return "tune" if int(digits or 0) % 2 else "report"


def _session(trace: dict[str, Any], *, name: str = "") -> TraceSession:  # Any: JSON
    return TraceSession(
        name=name or str(trace["id"]),
        block_size=int(trace["block_size"]),
        shared_tokens=int(trace.get("tool_tokens", 0)) + int(trace.get("system_tokens", 0)),
        calls=tuple(_calls(trace, trace["requests"])),
    )


def _calls(trace: dict[str, Any], requests: Iterable[dict[str, Any]]) -> Iterator[TraceCall]:
    ids = np.empty(0, dtype=np.int64)
    pending: dict[str, Any] | None = None
    children: list[TraceSession] = []
    for request in requests:
        if "requests" in request:
            nested = {**trace, "requests": request["requests"], "tool_tokens": 0, "system_tokens": 0}
            children.append(_session(nested, name=f"{trace['id']}-sub{len(children)}"))
            continue
        if pending is not None:
            yield _call(pending, ids, children)
            children = []
        ids = _ids(request, ids)
        pending = request
    if pending is not None:
        yield _call(pending, ids, children)


def _ids(request: dict[str, Any], before: IdArray) -> IdArray:
    common, runs = request["h"]
    new = [np.arange(start, start + count, dtype=np.int64) for start, count in runs]
    return np.concatenate([before[:common], *new])


def _call(request: dict[str, Any], ids: IdArray, children: list[TraceSession]) -> TraceCall:
    size = 64
    return TraceCall(
        prompt_tokens=max(1, int(request["in"])),
        output_tokens=int(request["out"]),
        gap_seconds=float(request.get("think_time", 0.0)),
        block_ids=ids[: int(request["in"]) // size],
        after_tool="tool_result" in request.get("input_types", ()),
        children=tuple(children),
    )
