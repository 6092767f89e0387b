"""`agentinfer bench client`."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from agentinfer_lg.cli import bench
from agentinfer_lg.evals.agent.client_time.run import CLIENTS, session


def test_every_client_makes_the_same_calls(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    result = CliRunner().invoke(
        bench.app, ["client", "--turns", "0,2", "--calls", "5", "--json", str(file)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert len([line for line in result.stdout.splitlines() if line.startswith("| ")]) == 2 + 2 * len(CLIENTS)
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [(row["client"], row["turns"]) for row in rows] == [
        (name, turns) for turns in (0, 2) for name in CLIENTS
    ]
    assert all(row["cpu_ms"] > 0 and row["wall_ms"] > 0 for row in rows)


def test_a_session_grows_by_two_messages_a_turn() -> None:
    assert len(session(3)) == 2 + 2 * 3
    assert session(3)[: len(session(2))] == session(2)
