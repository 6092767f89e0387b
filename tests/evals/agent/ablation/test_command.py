"""`agentinfer bench ablation` on fake servers, and its flags."""

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fake_engines import FakeEngines
from typer.testing import CliRunner

from agentinfer_lg.cli import bench
from agentinfer_lg.errors import AgentInferError, ConfigurationError, UserInputError
from agentinfer_lg.evals.agent.ablation import plots as ablation_plots
from agentinfer_lg.evals.agent.ablation import run as ablation
from agentinfer_lg.evals.agent.ablation.run import read_cells
from agentinfer_lg.evals.common import charts

Run = Callable[..., Any]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> FakeEngines:
    """Let the command start these."""
    fake = FakeEngines()
    monkeypatch.setattr(ablation, "Ablation", functools.partial(ablation.Ablation, start_engines=fake))
    return fake


def arguments(folder: Path, *more: str) -> list[str]:
    models = ["--small-model", "owner/small", "--large-model", "owner/large", "--out", str(folder / "run")]
    few = ["--concurrency", "1,2", "--min-questions", "2", "--tool-seconds", "0"]
    knobs = ["--set", "max_seekers=1", "--set", "max_turns=2"]
    return ["ablation", *models, *few, *knobs, *more]


def invoke(folder: Path, *more: str) -> Any:
    return CliRunner().invoke(bench.app, arguments(folder, *more), catch_exceptions=False)


def hotpotqa(folder: Path, *, questions: int) -> Path:
    data = folder / "hotpotqa"
    data.mkdir()
    asked = [
        {"_id": f"h{number}", "question": f"Where is town {number}?", "answer": f"in land {number}"}
        for number in range(questions)
    ]
    (data / "questions_dev.json").write_text(json.dumps(asked))
    towns = {f"Town {number}": [f"Town {number} is in land {number}."] for number in range(8)}
    (data / "corpus_dev.json").write_text(json.dumps(towns))
    return data


def test_from_flags_to_table_and_files_and_on(
    tmp_path: Path, engines: FakeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ablation_plots, "draw_ablation", lambda cells, folder: [folder / f"{len(cells)}-cells.svg"]
    )
    monkeypatch.setattr(charts, "require_matplotlib", lambda: None)
    file = tmp_path / "rows.json"
    flags = ["--configurations", "one-shot,baseline,baseline", "--json", str(file)]
    result = invoke(
        tmp_path, *flags, "--large-env", "DEVICES=1,2=3", "--large-args", "--seed '7'", "--plots", "p"
    )
    assert result.exit_code == 0, result.output
    assert "drawn: p/4-cells.svg" in result.stderr
    rows, totals = result.stdout.split("All n together:")
    assert [line.split("|")[1:3] for line in totals.splitlines()[3:]] == [
        [" one-shot      ", " 4         "],
        [" baseline      ", " 4         "],
    ]
    lines = [line for line in rows.splitlines() if line.startswith("|")]
    assert [column.strip() for column in lines[0].split("|")[1:4]] == ["n", "configuration", "questions"]
    shown = [tuple(column.strip() for column in line.split("|")[1:4]) for line in lines[2:]]
    assert shown == [(str(n), name, "2") for n in (1, 2) for name in ("one-shot", "baseline")]
    written = json.loads(file.read_text())
    assert written == json.loads((tmp_path / "run" / "rows.json").read_text())
    assert [(row["n"], row["configuration"]) for row in written["rows"]] == [
        (1, "one-shot"),
        (1, "baseline"),
        (2, "one-shot"),
        (2, "baseline"),
    ]
    assert all(row["failures"] == 0 for row in written["rows"])
    large = written["settings"]["engines"]["large"]
    assert (large["args"], large["environment"]) == (["--seed", "7"], ["DEVICES"])

    engines.started.clear()
    assert invoke(tmp_path, *flags, "--large-env", "DEVICES=0", "--large-args", "--seed 7").exit_code == 0
    assert engines.started == []  # everything is there
    again = invoke(tmp_path, *flags, "--blocks", "2", "--large-env", "DEVICES=0", "--large-args", "--seed 7")
    assert again.exit_code == 0, again.output
    assert [name for name, _ in engines.started] == ["baseline", "one-shot"]
    assert len(read_cells(tmp_path / "run")) == 8


def test_charts_that_cannot_be_drawn_are_told_before_anything_is_measured(
    tmp_path: Path, engines: FakeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserInputError, match="Plots need matplotlib"):
        invoke(tmp_path, "--plots", "p")
    assert engines.started == []


def test_benchmarks_take_turns(tmp_path: Path, engines: FakeEngines) -> None:
    data = hotpotqa(tmp_path, questions=6)
    flags = ["--benchmarks", "closed-world,hotpotqa", "--data", str(data), "--configurations", "one-shot"]
    result = invoke(tmp_path, *flags, "--offset", "1", "--languages", "en", "--hops", "2")
    assert result.exit_code == 0, result.output
    for cell in read_cells(tmp_path / "run"):
        assert [question["benchmark"] for question in cell.questions] == ["closed-world", "hotpotqa"]
    ids = [question["id"] for cell in read_cells(tmp_path / "run") for question in cell.questions]
    assert ids == ["cw-1-0001", "h1", "cw-1-0002", "h2"]


def test_another_world_is_refused_and_leaves_the_run_alone(tmp_path: Path, engines: FakeEngines) -> None:
    flags = ["--configurations", "one-shot", "--languages", "en"]
    assert invoke(tmp_path, *flags, "--hops", "2").exit_code == 0

    def kept() -> dict[Path, bytes]:
        made = (tmp_path / "run" / "corpora" / "closed-world" / "1-en-2").iterdir()
        files = [tmp_path / "run" / "rows.json", *made]
        return {file: file.read_bytes() for file in files}

    before = kept()
    assert len(before) > 20
    for other in (["--hops", "3"], ["--hops", "2", "--seed", "2"]):
        with pytest.raises(ConfigurationError, match=r"holds a run with other settings \(questions\)"):
            invoke(tmp_path, *flags, *other)
    assert kept() == before


def test_an_interrupt_shows_what_was_measured(tmp_path: Path, engines: FakeEngines) -> None:
    def interrupted() -> None:
        if engines.started[-1][0] == "baseline":
            raise KeyboardInterrupt

    engines.check = interrupted
    result = CliRunner().invoke(bench.app, arguments(tmp_path, "--configurations", "one-shot,baseline"))
    assert result.exit_code == 130
    assert "one-shot" in result.stdout
    assert "baseline" not in result.stdout


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--configurations", "base"], "There is no configuration 'base'. There are: one-shot, baseline"),
        (["--small-env", "DEVICES"], "--small-env 'DEVICES' is not of the form NAME=VALUE."),
        (["--large-env", "=0"], "--large-env '=0' is not of the form NAME=VALUE."),
        (
            ["--benchmarks", "closed-world,gaia"],
            "--benchmarks takes some of closed-world, hotpotqa, separated",
        ),
        (
            ["--benchmarks", ""],
            "--benchmarks takes some of closed-world, hotpotqa, separated by commas, not nothing",
        ),
        (["--languages", "en,fr"], "--languages takes en, zh, or both"),
        (["--hops", "two"], "--hops takes different whole numbers"),
        (["--hops", "9"], "The hops of a closed world are 9"),
        (["--concurrency", "4,4"], "--concurrency takes different whole numbers from 1 on"),
        (["--concurrency", "0"], "--concurrency takes different whole numbers from 1 on"),
        (["--set", "max_turn=3"], "--set max_turn: there is no such knob. Did you mean max_turns"),
        (["--small-args", "--seed '7"], '--small-args "--seed \'7" cannot be split into arguments'),
        (["--benchmarks", "hotpotqa", "--data", "nowhere"], "Point --data to the HotpotQA folder"),
    ],
)
def test_wrong_flags_are_told_in_one_sentence(
    tmp_path: Path, engines: FakeEngines, flags: list[str], sentence: str
) -> None:
    with pytest.raises(AgentInferError, match=re.escape(sentence)):
        invoke(tmp_path, *flags)
    assert engines.started == []
    assert not (tmp_path / "run" / "cells").exists()


def test_too_few_questions_are_told(tmp_path: Path, engines: FakeEngines) -> None:
    data = hotpotqa(tmp_path, questions=4)
    with pytest.raises(UserInputError, match="5 questions are needed, and there are 4: lower --concurrency"):
        invoke(tmp_path, "--benchmarks", "hotpotqa", "--data", str(data))
    assert engines.started == []
