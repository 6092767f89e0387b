"""What the servers of a run counted, segment by segment: a run that is interrupted and continued has several.

`sittings.json` has a list of segments. Each holds two looks at `/metrics` per server: at its start, and after the question
that was finished last, so that a killed segment loses only what came after that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentinfer_lg.evals.common.metrics_page import ServerFigures, fetch_server_figures
from agentinfer_lg.evals.common.run_store import write_json

_FILE = "sittings.json"
_NAMES = [each.name for each in fields(ServerFigures)]


class Segment:
    """One start of a run.

    Args:
        folder: Of the run.
        servers: Base URL by the name of a server.
    """

    def __init__(self, folder: Path, servers: Mapping[str, str]) -> None:
        self._file = folder / _FILE
        self._servers = servers
        self._earlier = _rows(self._file)
        self._row: dict[str, Any] = {"started": _now(), "ended": None, "servers": {}}  # Any: JSON
        self._one_at_a_time = asyncio.Lock()

    async def begin(self) -> None:
        """Look at the servers for the first time; one without such a page is left out."""
        for name, figures in (await self._look()).items():
            self._row["servers"][name] = {"start": figures, "end": figures}
        self._write()

    async def look(self) -> None:
        """Look again; what a server that is gone had counted before stays."""
        async with self._one_at_a_time:
            for name, figures in (await self._look()).items():
                self._row["servers"].setdefault(name, {"start": figures})["end"] = figures
            self._row["ended"] = _now()
            self._write()

    async def _look(self) -> dict[str, dict[str, float]]:
        pages = await asyncio.gather(*map(fetch_server_figures, self._servers.values()))
        return {
            name: asdict(page) for name, page in zip(self._servers, pages, strict=True) if page is not None
        }

    def _write(self) -> None:
        write_json(self._file, [*self._earlier, self._row], indent=1)


def read_segments(folder: Path) -> dict[str, ServerFigures]:
    """Return by server what it counted during a run, all segments added up; empty where no server said anything."""
    sums: dict[str, dict[str, float]] = {}
    for row in _rows(folder / _FILE):
        for name, looks in row["servers"].items():
            mine = sums.setdefault(name, dict.fromkeys(_NAMES, 0.0))
            for figure, value in _between(looks["start"], looks["end"]).items():
                mine[figure] = mine.get(figure, 0.0) + value
    return {name: ServerFigures(**figures) for name, figures in sums.items()}


def _between(start: Mapping[str, float], end: Mapping[str, float]) -> dict[str, float]:
    anew = any(end[name] < start[name] for name in start)  # counters only fall when a server is started again
    return {name: value if anew else value - start[name] for name, value in end.items()}


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return rows


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="seconds")
