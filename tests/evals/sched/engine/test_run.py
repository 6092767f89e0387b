"""`agentinfer bench sched-engine` without a server."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.text import one_spaced
from typer.testing import CliRunner

from agentinfer_lg.cli import bench
from agentinfer_lg.errors import EngineError, UserInputError
from agentinfer_lg.evals.datasets import agent_traces
from agentinfer_lg.evals.sched.engine import run as sched_engine
from agentinfer_lg.evals.sched.engine.figures import compare, side_by_side
from agentinfer_lg.evals.sched.engine.run import Policy, Round, SchedEngineBenchmark, SchedEngineOptions
from agentinfer_lg.evals.sched.replay.figures import Measured


def figures(seconds: float, *, hits: int = 50) -> Measured:
    return Measured(
        prompt_tokens=np.array([100, 100]),
        hit_tokens=np.array([hits, hits]),
        one_shot=np.array([False, True]),
        waits=np.array([0.1, 0.2]),
        ttft=np.array([0.3, 0.4]),
        preemptions=1,
        recomputed_tokens=10,
        completion={"a": seconds, "b": seconds},
        seconds=2 * seconds,
        steps=9,
    )


def rounds() -> list[Round]:
    seconds: list[tuple[Policy, int, float, float]] = [
        ("fcfs", 0, 10, 12),
        ("agentsched", 0, 8, 9),
        ("fcfs", 1, 20, 22),
        ("agentsched", 1, 10, 11),
        ("fcfs", 2, 10, 10),
        ("agentsched", 2, 9, 8),
    ]
    return [
        Round(
            policy=policy,
            number=number,
            predicted=figures(predicted, hits=50 if policy == "fcfs" else 60),
            measured=figures(measured, hits=50 if policy == "fcfs" else 65),
        )
        for policy, number, predicted, measured in seconds
    ]


def test_ratios_are_of_the_same_round() -> None:
    (found,) = compare(rounds())
    assert found.completion_predicted == pytest.approx(0.8)
    assert found.completion_measured == pytest.approx(0.75)
    assert found.hit_points_predicted == pytest.approx(10)
    assert found.hit_points_measured == pytest.approx(15)
    assert [one for one, _ in found.rounds] == pytest.approx([0.8, 0.5, 0.9])


def test_figures_are_medians_over_rounds() -> None:
    sides = {(side.policy, side.figure): side for side in side_by_side(rounds())}
    assert sides["fcfs", "mean_completion_s"].predicted == 10
    assert sides["fcfs", "mean_completion_s"].measured == 12
    assert sides["agentsched", "hit_rate"].measured == pytest.approx(0.65)


def test_what_was_not_measured_is_left_open() -> None:
    done = [Round(policy=each.policy, number=each.number, predicted=each.predicted) for each in rounds()]
    assert compare(done)[0].completion_measured is None
    assert side_by_side(done)[0].measured is None


def test_both_servers_differ_in_the_scheduler_only() -> None:
    options = SchedEngineOptions(model="folder", kv_tokens=3200)
    benchmark = SchedEngineBenchmark(sessions=[], options=options)
    plain, ours = (benchmark._serve_options(policy) for policy in ("fcfs", "agentsched"))
    assert plain.sched is None
    assert ours.sched is not None
    assert plain.sam is ours.sam is None
    assert plain.extra_args == ours.extra_args
    # vLLM keeps one block for itself
    assert plain.extra_args[plain.extra_args.index("--num-gpu-blocks-override") + 1] == "101"


class FakeBenchmark(SchedEngineBenchmark):
    """Has been interrupted after the first measured round."""

    stop: BaseException | None = None

    def run(self, *, on_step: Callable[[str], None] = lambda step: None) -> None:
        self.rounds = rounds()
        if self.stop:
            raise self.stop


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeBenchmark]:
    monkeypatch.setattr(sched_engine, "SchedEngineBenchmark", FakeBenchmark)
    monkeypatch.setattr(agent_traces, "load_coding_traces", lambda folder, part: [])
    monkeypatch.setattr(FakeBenchmark, "stop", None)
    return FakeBenchmark


def arguments(folder: Path, *more: str) -> list[str]:
    return ["sched-engine", "--model", str(folder), "--data", str(folder), *more]


@pytest.mark.usefixtures("fake")
def test_prediction_and_measurement_stand_side_by_side(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    result = CliRunner().invoke(bench.app, arguments(tmp_path, "--json", str(file)))
    assert result.exit_code == 0, result.output
    assert "| mean completion s | 10.0 | 12.0 | 9.000 | 9.000 |" in one_spaced(result.output)
    assert "agentsched against fcfs: mean completion x0.800 predicted, x0.750 measured" in result.output
    assert "hit rate +10.0 points predicted, +15.0 measured" in result.output
    written = json.loads(file.read_text())
    assert len(written["rounds"]) == 6
    assert written["rounds"][0]["measured"]["completion"] == {"a": 12, "b": 12}
    assert written["comparisons"][0]["policy"] == "agentsched"
    assert str(tmp_path) not in file.read_text()


def test_an_interrupt_shows_what_was_measured(
    tmp_path: Path, fake: type[FakeBenchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "stop", KeyboardInterrupt())
    result = CliRunner().invoke(bench.app, arguments(tmp_path))
    assert result.exit_code == 130
    assert "mean completion" in result.output


def test_a_dead_server_is_an_error(
    tmp_path: Path, fake: type[FakeBenchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "stop", EngineError("no memory left"))
    result = CliRunner().invoke(bench.app, arguments(tmp_path))
    assert isinstance(result.exception, EngineError)


@pytest.mark.parametrize("policies", ["", "fcfs,fcfs", "fcfs,magic"])
def test_unknown_schedulers_are_refused(tmp_path: Path, policies: str) -> None:
    result = CliRunner().invoke(bench.app, arguments(tmp_path, "--policies", policies))
    assert isinstance(result.exception, UserInputError)
    assert "--policies takes some of fcfs, agentsched" in str(result.exception)
