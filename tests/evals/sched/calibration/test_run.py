"""`agentinfer bench calibration` without a server."""

import json
from pathlib import Path

import pytest
from support.text import one_spaced
from typer.testing import CliRunner

from agentinfer_lg.cli import app
from agentinfer_lg.evals.sched.calibration import run as calibration
from agentinfer_lg.evals.sched.calibration.fit import Kind, StepTime, Work
from agentinfer_lg.evals.sched.calibration.run import CalibrationOptions, step_seconds
from agentinfer_lg.evals.sched.replay.hardware import find_preset

CONFIG = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
}


def test_the_first_quarter_of_the_tokens_does_not_count() -> None:
    assert step_seconds([0.0, 5.0, 6.0, 7.0, 8.0]) == 1.0


def test_tokens_that_come_together_count_each() -> None:
    assert step_seconds([0.0, 1.0, 3.0, 3.0, 5.0]) == pytest.approx(4 / 3)


def measured_steps() -> list[StepTime]:
    machine = find_preset("cpu-smollm2-135m")
    prompts: list[tuple[Kind, Work]] = [("prompt", ((length, length),)) for length in (64, 256, 1024, 2048)]
    decode: list[tuple[Kind, Work]] = [
        ("decode", ((1, context),) * batch) for context in (128, 3072) for batch in (1, 2, 4, 8)
    ]
    return [
        StepTime(kind=kind, work=work, seconds=machine.step_seconds(work)) for kind, work in prompts + decode
    ]


def test_the_command_tells_how_far_the_model_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CalibrationOptions] = []

    def measure(options: CalibrationOptions, **_: object) -> list[StepTime]:
        seen.append(options)
        return measured_steps()

    monkeypatch.setattr(calibration, "measure_steps", measure)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    file = tmp_path / "figures.json"
    arguments = ["bench", "calibration", "--model", str(tmp_path), "--repeats", "5", "--json", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert seen[0].repeats == 5
    assert "median 0.0%" in result.output
    milliseconds = find_preset("cpu-smollm2-135m").step_seconds([(1, 3072)] * 8) * 1000
    line = f"| decode | 8 | 8 | 24576 | {milliseconds:.1f} | {milliseconds:.1f} | check |"
    assert line in one_spaced(result.output)
    written = json.loads(file.read_text())
    assert len(written["rows"]) == len(measured_steps())
    assert written["fit"]["hardware"]["overlap"] is False
    assert str(tmp_path) not in file.read_text()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "calibration", "--model", str(tmp_path)])
    assert result.exit_code != 0
    assert "config.json cannot be read" in str(result.exception or result.output)
