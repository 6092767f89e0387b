"""`agentinfer bench overhead` and `agentinfer bench price`."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentinfer_lg.cli import bench
from agentinfer_lg.errors import UserInputError

with_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
with_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


@pytest.fixture
def quiet() -> Iterator[None]:
    """vLLM's dependencies warn of each other, which is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@with_vllm
class TestOverhead:
    def test_shows_each_scheduler_and_writes_all_figures(self, quiet: None, tmp_path: Path) -> None:
        file = tmp_path / "figures.json"
        size = ["--context", "8192", "--running", "4", "--idle", "4", "--steps", "60"]
        result = CliRunner().invoke(
            bench.app, ["overhead", "--waiting", "0,30", *size, "--json", str(file)], catch_exceptions=False
        )
        assert result.exit_code == 0
        table = [line for line in result.stdout.splitlines() if line.startswith("| ")]
        assert len(table) == 2 + 2 * 3
        written = json.loads(file.read_text(encoding="utf-8"))
        assert written["settings"]["context"] == 8192
        assert written["versions"]
        rows = written["rows"]
        assert [row["waiting"] for row in rows] == [0] * 3 + [30] * 3
        for row in rows:
            ours = row["scheduler"] != "vllm"
            assert row["errors"] == 0 if ours else "errors" not in row
            assert (row["own_ms"] > 0) == ours
            assert row["own_ms"] <= row["schedule_ms"] <= row["all_ms"]
            assert row["schedule_p50_ms"] <= row["schedule_p99_ms"]
            assert row["own_share"] == pytest.approx(row["own_ms"] / 20.0)
            assert 1.0 <= row["running"] <= 4.0

    def test_the_number_that_waits_stays_the_same(self, quiet: None) -> None:
        from agentinfer_lg.evals.sched.overhead.run import OverheadOptions, _Server

        options = OverheadOptions(waiting=20, running=4, idle=4, context_tokens=8192)
        server = _Server(options, {"overhead_share": 0.0})
        server.fill()
        ended = 0
        for _ in range(300):
            server.step()
            assert len(server._live) == 24
            ended = max(ended, sum(session.turn > 1 for _, session in server._live.values()))
        assert ended > 1
        figures = server._scheduler.agentinfer_stats()
        assert figures["errors"] == 0
        assert figures["hit_tokens"] > 0

    def test_a_context_that_is_too_short_is_named(self, quiet: None) -> None:
        result = CliRunner().invoke(bench.app, ["overhead", "--waiting", "1", "--context", "100"])
        assert isinstance(result.exception, UserInputError)
        assert "6144 tokens or more, not 100" in str(result.exception)

    def test_numbers_are_read_before_anything_is_measured(self, quiet: None) -> None:
        result = CliRunner().invoke(bench.app, ["overhead", "--waiting", "many"])
        assert isinstance(result.exception, UserInputError)
        assert "--waiting" in str(result.exception)


class TestPrice:
    def test_shows_every_edge(self) -> None:
        result = CliRunner().invoke(bench.app, ["price", "--periods", "2"], catch_exceptions=False)
        rows = [line.split("|")[1:-1] for line in result.stdout.splitlines()[2:]]
        assert [float(row[0]) for row in rows] == [30.0, 60.0, 90.0]
        assert [float(row[1]) > 2.0 for row in rows] == [True, False, True]
        assert {int(row[3]) for row in rows} == {0}

    @with_matplotlib
    @pytest.mark.parametrize("ending", [".svg", ".png"])
    def test_is_drawn_the_same_every_time_and_small(self, tmp_path: Path, ending: str) -> None:
        files = [tmp_path / "new" / f"{name}{ending}" for name in ("one", "two")]
        for file in files:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of matplotlib's own dependencies
                result = CliRunner().invoke(bench.app, ["price", "--plot", str(file)], catch_exceptions=False)
            assert result.exit_code == 0
        one, two = (file.read_bytes() for file in files)
        assert one == two
        assert 1000 < len(one) < 60_000

    def test_another_ending_is_refused(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(bench.app, ["price", "--plot", str(tmp_path / "price.docx")])
        assert isinstance(result.exception, UserInputError)
        assert ".svg or .png" in str(result.exception)
