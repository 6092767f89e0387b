"""The grid of replays, its figures and plots, and `agentinfer bench sched`."""

from __future__ import annotations

import importlib.util
import json
import statistics
import warnings
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sched_traces import SMALL, write_coding_traces
from typer.testing import CliRunner

from agentinfer_lg.cli import bench
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay import hardware
from agentinfer_lg.evals.sched.replay import run as scheduling
from agentinfer_lg.evals.sched.replay.belady import HitRates
from agentinfer_lg.evals.sched.replay.figures import (
    Measured,
    bound_covered,
    completion_ratio,
    measure,
    pool,
)
from agentinfer_lg.evals.sched.replay.plots import draw
from agentinfer_lg.evals.sched.replay.policies import OURS, find_policy, policy_names
from agentinfer_lg.evals.sched.replay.run import Cell, Grid, Run, cells, gap_scale, run_grid, workload_of
from agentinfer_lg.evals.sched.replay.simulation import CallRecord, Sample, SessionRecord, SimulationResult

with_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
with_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_coding_traces(tmp_path / "data")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a machine for small traces."""
    monkeypatch.setitem(hardware.PRESETS, SMALL.name, SMALL)
    return SMALL.name


def grid(data: Path, preset: str, **options: Any) -> Grid:
    given = {"policies": ("fcfs",), "concurrency": (3,), "one_shots": 0.4, "gaps": "short", **options}
    return Grid(presets=(preset,), data=data, **given)


def record(prompt: int, hit: int, *, one_shot: bool = False, wait: float = 1.0) -> CallRecord:
    return CallRecord(
        session="s",
        index=0,
        one_shot=one_shot,
        prompt_tokens=prompt,
        known_tokens=0,
        arrival=10.0,
        admitted=10.0 + wait,
        first_token=12.0 + wait,
        finished=20.0,
        hit_tokens=hit,
        preemptions=1,
        recomputed_tokens=5,
    )


def measured(*seconds: float, bounds: HitRates | None = None, hit: int = 0) -> Measured:
    sessions = [
        SessionRecord(name=f"s{number}", started=5.0, finished=5.0 + each)
        for number, each in enumerate(seconds)
    ]
    result = SimulationResult(calls=[record(1000, hit)], sessions=sessions, seconds=100.0)
    return measure(result, bounds=bounds)


class TestFigures:
    def test_hit_rates_are_by_tokens_and_length(self) -> None:
        calls = [record(2_000, 1_000), record(8_000, 2_000, one_shot=True), record(40_000, 30_000, wait=3.0)]
        row = measure(SimulationResult(calls=calls)).row()
        assert row["hit_rate"] == pytest.approx(33 / 50)
        assert (row["hit_rate_4k"], row["hit_rate_32k"], row["hit_rate_long"]) == (0.5, 0.25, 0.75)
        assert row["hit_rate_sessions"] == pytest.approx(31 / 42)
        assert row["max_wait_s"] == 3.0
        assert row["mean_ttft_s"] == pytest.approx((3 + 3 + 5) / 3)
        assert (row["preemptions"], row["recomputed_tokens"]) == (3, 15)

    def test_a_length_without_prompts_has_no_hit_rate(self) -> None:
        assert measure(SimulationResult(calls=[record(8_000, 2_000)])).row()["hit_rate_4k"] is None

    def test_completion_times(self) -> None:
        row = measured(*range(1, 101)).row()
        assert row["mean_completion_s"] == pytest.approx(50.5)
        assert row["p50_completion_s"] == pytest.approx(50.5)
        assert row["p99_completion_s"] == pytest.approx(99.01)
        assert row["max_completion_s"] == 100

    def test_the_ratio_is_of_means_on_the_same_sessions(self) -> None:
        found = completion_ratio(measured(1, 8, 30), measured(2, 10, 40))
        ratio, low, high = astuple(found)
        assert ratio == pytest.approx(39 / 52)
        assert 0.5 <= low <= ratio <= high <= 0.8
        with pytest.raises(ValueError, match="same sessions"):
            completion_ratio(measured(1), measured(1, 2))

    @given(st.lists(st.floats(1, 1000), min_size=2, max_size=30), st.floats(0.1, 3))
    def test_sessions_that_change_alike_leave_no_doubt(self, seconds: list[float], factor: float) -> None:
        ours = measured(*(each * factor for each in seconds))
        assert astuple(completion_ratio(ours, measured(*seconds))) == pytest.approx((factor,) * 3)

    def test_seeds_are_pooled(self) -> None:
        rates = [HitRates(lru=0.1, belady=0.2 * n, unlimited=0.9) for n in (1, 2)]
        both = pool([measured(1, 2, bounds=rates[0], hit=100), measured(3, 4, bounds=rates[1], hit=300)])
        row = both.row()
        assert (row["sessions"], row["calls"], row["hit_rate"]) == (4, 2, pytest.approx(0.2))
        assert row["belady_hit_rate"] == pytest.approx(0.3)
        assert row["mean_completion_s"] == 2.5

    def test_share_of_the_way_to_the_bound(self) -> None:
        bounds = HitRates(lru=0.4, belady=0.8, unlimited=0.9)
        fcfs = measured(1, hit=400)
        assert bound_covered(measured(1, hit=700, bounds=bounds), fcfs) == pytest.approx(0.75)
        assert bound_covered(measured(1, hit=300, bounds=bounds), fcfs) == pytest.approx(-0.25)
        assert bound_covered(measured(1, hit=700), fcfs) is None
        assert bound_covered(measured(1, hit=700, bounds=bounds), measured(1, hit=850)) is None


class TestGrid:
    def test_gaps_are_scaled_to_the_regime(self, data: Path, small: str) -> None:
        medians = {}
        for gaps in ("short", "recorded", "long"):
            one = grid(data, small, gaps=gaps, one_shots=0)
            workload = workload_of(one.cases[0])
            found = [call.gap_seconds for each in workload.sessions for call in each.calls[1:]]
            medians[gaps] = statistics.median(found)
        assert medians["short"] < 2 < medians["recorded"] < 10 < medians["long"]
        assert gap_scale(grid(data, small, gaps="recorded")) == 1

    def test_every_policy_gets_the_same_workload_and_every_seed_another(self, data: Path, small: str) -> None:
        two = grid(data, small, policies=("fcfs", "sjf-prompt"), seeds=2)
        names = {
            (case.policy, case.seed): [each.name for each in workload_of(case).sessions] for case in two.cases
        }
        assert names["fcfs", 0] == names["sjf-prompt", 0] != names["fcfs", 1] == names["sjf-prompt", 1]

    def test_what_exceeds_the_cache_is_left_out(self, data: Path, small: str) -> None:
        workload = workload_of(grid(data, small, kv_tokens=6_000).cases[0])
        assert max(call.prompt_tokens for each in workload.sessions for call in each.calls) < 6_000

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"policies": ("fcsf",)}, "no policy 'fcsf'; there are fcfs"),
            ({"concurrency": (0,)}, "from 1 on"),
            ({"trace": "mooncake", "gaps": "short"}, "no tools"),
            ({"kv_tokens": 8}, "1024 tokens or more"),
        ],
    )
    def test_what_cannot_be_run_is_told(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserInputError, match=message):
            grid(tmp_path, "h100-7b", **options)

    def test_without_data_it_says_where_to_name_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AGENTINFER_DATA", raising=False)
        with pytest.raises(UserInputError, match="AGENTINFER_DATA"):
            list(run_grid(Grid(policies=("fcfs",))))

    def test_settings_have_no_paths(self, data: Path, small: str) -> None:
        assert str(data) not in json.dumps(grid(data, small).settings)

    def test_policies_are_found_by_name(self) -> None:
        assert policy_names()[0] == "fcfs"
        assert set(OURS) <= set(policy_names())
        for name in policy_names():
            assert find_policy(name).name == name


def run_of(
    policy: str, *seconds: float, preset: str = "h100-7b", figures: dict[str, float] | None = None
) -> Run:
    case = Grid(policies=(policy,), concurrency=(4,), presets=(preset,)).cases[0]
    sessions = [
        SessionRecord(name=f"s{number}", started=0, finished=each) for number, each in enumerate(seconds)
    ]
    samples = [
        Sample(time=float(time), running=1, waiting=2, used_blocks=3, figures=figures or {})
        for time in range(9)
    ]
    calls = [record(1_000 * 2**number, 100 * number) for number in range(7)]
    return Run(case=case, measured=measure(SimulationResult(calls=calls, sessions=sessions, samples=samples)))


def test_cells_are_compared_with_the_reference() -> None:
    found = cells(
        [run_of("fcfs", 10, 20), run_of("sjf-prompt", 5, 10), run_of("sjf-prompt", 7, preset="h100-70b-tp4")]
    )
    rows = [cell.row() for cell in found]
    assert [row.get("vs_fcfs") for row in rows] == [None, 0.5, None]
    assert [row["preset"] for row in rows] == ["h100-7b", "h100-7b", "h100-70b-tp4"]


@with_matplotlib
@pytest.mark.parametrize("form", ["svg", "png"])
def test_plots(tmp_path: Path, form: Any) -> None:
    joined: list[Cell] = cells([run_of("fcfs", 10, 20), run_of("agentsched", 5, 10, figures={"lambda": 1.5})])
    files = draw(joined, tmp_path / "plots", form=form)
    assert sorted(file.name for file in files) == [
        f"{name}-coding-h100-7b-4.{form}" for name in ("completion", "hit-rate", "lambda")
    ]
    assert all(file.stat().st_size > 2_000 for file in files)
    if form == "svg":
        before = [file.read_bytes() for file in files]
        draw(joined, tmp_path / "plots", form=form)
        assert [file.read_bytes() for file in files] == before  # the same figures make the same files


@with_matplotlib
def test_lambda_is_not_drawn_where_there_is_none(tmp_path: Path) -> None:
    files = draw(cells([run_of("fcfs", 10, 20)]), tmp_path)
    assert not [file for file in files if file.name.startswith("lambda")]


REQUIRED = (
    *("policy", "preset", "trace", "concurrency", "hit_rate", "mean_completion_s", "p99_completion_s"),
    *("mean_ttft_s", "p99_ttft_s", "max_wait_s", "preemptions", "recomputed_tokens"),
)


@with_vllm
class TestCommand:
    @pytest.fixture(autouse=True)
    def _vllm(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies'
            importlib.import_module("vllm.v1.core.sched.scheduler")

    def invoke(self, *arguments: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CliRunner().invoke(bench.app, ["sched", *arguments])

    def test_a_table_figures_and_plots(self, data: Path, small: str, tmp_path: Path) -> None:
        file = tmp_path / "figures.json"
        options = ("--data", str(data), "--presets", small, "--gaps", "short", "--one-shots", "0.4")
        more = ("--policies", "fcfs,agentsched", "--concurrency", "2,4", "--jobs", "1", "--json", str(file))
        done = self.invoke(*options, *more)
        assert done.exit_code == 0, done.output
        assert "small, 4 at the same time: 8 sessions" in done.stdout
        assert "median of tools 1.5 s" in done.stdout
        written = json.loads(file.read_text(encoding="utf-8"))
        rows = written["rows"]
        assert [(row["policy"], row["concurrency"]) for row in rows] == [
            *(("fcfs", 2), ("agentsched", 2), ("fcfs", 4), ("agentsched", 4)),
        ]
        for row in rows:
            assert set(REQUIRED) <= set(row)
            assert 0 <= row["hit_rate"] <= row["unlimited_hit_rate"] + 0.01
            assert np.isfinite([row[name] for name in REQUIRED[4:]]).all()
        assert rows[0]["sessions"] == rows[1]["sessions"]
        assert written["pooled"][1]["vs_fcfs_low"] <= written["pooled"][1]["vs_fcfs"]
        assert written["settings"]["gap_scale"] < 1
        assert str(data) not in file.read_text(encoding="utf-8")
        assert written["versions"]["python"]

    def test_a_wrong_name_is_told_before_anything_runs(self, data: Path) -> None:
        done = self.invoke("--data", str(data), "--presets", "h200")
        assert isinstance(done.exception, UserInputError)
        assert "h100-7b" in str(done.exception)

    def test_ctrl_c_shows_what_was_measured(
        self, data: Path, small: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        once = scheduling._run

        def interrupted(case: Any, on_progress: Any) -> Run:
            if case.concurrency == 3:
                raise KeyboardInterrupt
            return once(case, on_progress)

        monkeypatch.setattr(scheduling, "_run", interrupted)
        options = ("--data", str(data), "--presets", small, "--gaps", "short", "--one-shots", "0")
        done = self.invoke(*options, "--policies", "fcfs", "--concurrency", "2,3", "--jobs", "1")
        assert done.exit_code == 130
        assert "small, 2 at the same time" in done.stdout
        assert "small, 3 at the same time" not in done.stdout


@with_vllm
@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(data: Path) -> None:
    both = Grid(
        policies=("fcfs",),
        concurrency=(3,),
        presets=("h100-7b",),
        kv_tokens=20_000,
        one_shots=0.4,
        data=data,
    )
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = {run.case.policy: run.row() for run in run_grid(both, jobs=1)}
    together = {run.case.policy: run.row() for run in run_grid(both, jobs=2, on_session=told.append)}
    assert together == alone
    assert len(told) == 6
