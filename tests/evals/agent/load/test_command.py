"""`agentinfer bench load` on servers that only seem to be some."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from support.load_servers import LoadServers
from typer.testing import CliRunner

from agentinfer_lg.cli import bench
from agentinfer_lg.errors import ConfigurationError, EngineError, UserInputError
from agentinfer_lg.evals.agent.load import run as load

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs the command in `tmp_path / "run"` with small settings; the last of each flag counts."""

    def call(*more: str, servers: LoadServers | None = None) -> Result:
        run = partial(load.LoadRun, start_engines=servers or LoadServers())
        monkeypatch.setattr(load, "LoadRun", run)
        small = ["--concurrency", "1,2", "--questions-per-place", "1", "--tool-seconds", "0"]
        world = ["--languages", "en", "--hops", "2", "--set", "max_turns=2", "--set", "max_seekers=1"]
        models = ["--small-model", "owner/small", "--large-model", "owner/large"]
        flags = [*models, *small, *world, "--sample-seconds", "0.1", "--out", str(tmp_path / "run"), *more]
        found = CliRunner().invoke(bench.app, ["load", *flags])
        monkeypatch.undo()
        return found

    return call


def test_table_and_figures(tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "figures.json"
    result = invoke("--json", str(file), "--window", "5")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines] == ["n", "-", "1", "1", "2", "2"]
    assert [cell.strip() for cell in lines[2].split("|")][2:5] == ["+compress", "1", "0"]
    assert "40%" in lines[2]
    assert lines[2].count(" - ") == 5  # no lambda without AgentSched
    assert " - " not in lines[3]

    written = json.loads(file.read_text())
    assert file.read_text() == (tmp_path / "run" / "rows.json").read_text()
    assert [row["configuration"] for row in written["rows"]] == ["+compress", "all"] * 2
    series = written["series"][1]
    assert series["window_seconds"] == 5
    assert set(series["prices"]) == {"small", "large"}
    assert len(series["times"]) == len(series["prices"]["large"])
    assert written["settings"]["concurrency"] == [1, 2]
    assert "agentinfer-lg" in json.dumps(written["versions"])


def test_an_error_shows_what_was_measured_and_the_same_command_goes_on(invoke: Invoke) -> None:
    calls = []

    def dies_later() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise EngineError("no memory left")

    broken = invoke(servers=LoadServers(check=dies_later))
    assert isinstance(broken.exception, EngineError)
    assert "| 1 | all " in broken.output
    servers = LoadServers()
    assert invoke("--configurations", "all", servers=servers).exit_code == 0
    assert servers.started == ["all"]


def test_a_run_of_other_settings_stays_as_it_is(tmp_path: Path, invoke: Invoke) -> None:
    one = ("--configurations", "baseline", "--concurrency", "1")
    assert invoke(*one).exit_code == 0
    before = (tmp_path / "run" / "rows.json").read_text()
    refused = invoke(*one, "--max-model-len", "2048")
    assert isinstance(refused.exception, ConfigurationError)
    assert "engines" in str(refused.exception)
    assert "| n |" not in refused.output
    assert (tmp_path / "run" / "rows.json").read_text() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--concurrency", "4,4"), "--concurrency takes different whole numbers"),
        (("--configurations", "most"), "There is no configuration 'most'"),
        (("--configurations", ""), "--configurations takes some of"),
        (("--benchmarks", "trivia"), "--benchmarks takes some of"),
        (("--small-env", "DEVICES"), "--small-env 'DEVICES' is not of the form NAME=VALUE"),
        (("--large-args", "'"), '--large-args "\'" cannot be split into arguments'),
        (("--languages", "de"), "--languages takes en, zh"),
    ],
)
def test_wrong_flags_are_told(invoke: Invoke, flags: tuple[str, ...], said: str) -> None:
    result = invoke(*flags)
    assert isinstance(result.exception, UserInputError)
    assert said in str(result.exception)
