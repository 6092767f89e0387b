"""The flags of a study make its command."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.evals.common.study import INTERRUPTED, StudyFlags, measuring, study


@dataclass(frozen=True, kw_only=True)
class SmallFlags(StudyFlags):
    """Flags of the study under test."""

    size: Annotated[int, typer.Option(min=1, help="How large.")]
    kind: Annotated[Literal["a", "b"], typer.Option(help="Which one.")] = "a"
    out: Annotated[Path | None, typer.Option(help="Folder.")] = None


def invoke(run: Any, *arguments: str) -> Any:
    app = typer.Typer()
    study(app, SmallFlags, name="small-study")(run)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["small-study", *arguments])


def test_fields_are_flags_with_their_types_limits_defaults_and_help() -> None:
    seen: list[SmallFlags] = []
    done = invoke(seen.append, "--size", "3", "--kind", "b")
    assert done.exit_code == 0, done.output
    assert seen == [SmallFlags(size=3, kind="b")]
    assert invoke(seen.append, "--size", "0").exit_code == 2
    assert invoke(seen.append, "--size", "1", "--kind", "c").exit_code == 2
    assert invoke(seen.append).exit_code == 2, "a field without a default must be given"
    listed = invoke(seen.append, "--help").output
    assert [listed.index(flag) for flag in ("--size", "--kind", "--out", "--json")] == sorted(
        listed.index(flag) for flag in ("--size", "--kind", "--out", "--json")
    )
    assert "How large." in listed


def test_figures_are_written_where_json_says(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    def run(flags: SmallFlags) -> None:
        flags.write({"settings": flags.told("size", "kind"), "name": "é"})

    assert invoke(run, "--size", "3").exit_code == 0
    assert invoke(run, "--size", "3", "--json", str(file)).exit_code == 0
    assert json.loads(file.read_text(encoding="utf-8")) == {"settings": {"size": 3, "kind": "a"}, "name": "é"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_measurement_and_not_the_command(number: signal.Signals) -> None:
    def run(flags: SmallFlags) -> ExitCode:
        found = []
        with measuring(2) as measurement:
            measurement.step("first")
            found.append(1)
            os.kill(os.getpid(), number)
            while (
                True
            ):  # another thread may have taken the signal: `signal.pause` would wait for the next one
                time.sleep(0.01)
        typer.echo(f"found {found}")
        return measurement.code

    done = invoke(run, "--size", "1")
    assert done.exit_code == 130
    assert "found [1]" in done.output
    assert INTERRUPTED in done.output
