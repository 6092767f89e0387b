"""Load that could starve requests, and that AgentSched lets none of them starve."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agentinfer_lg.cli import bench
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay.adversarial import ATTACKS, Attack, build_attack
from agentinfer_lg.evals.sched.replay.figures import measure, pool
from agentinfer_lg.evals.sched.replay.hardware import find_preset
from agentinfer_lg.evals.sched.replay.policies import find_policy
from agentinfer_lg.evals.sched.replay.run import Grid, workload_of
from agentinfer_lg.evals.sched.replay.simulation import CallRecord, SessionRecord, SimulationResult, simulate
from agentinfer_lg.evals.sched.replay.workload import Workload, WorkloadSession

with_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
every_attack = pytest.mark.parametrize("name", ATTACKS)

PRESET = "ascend-910b3-7b-tp2"
KV_TOKENS = 360_000
MAX_WAIT_SECONDS = 5.0
"""Low, so that it matters in a short replay."""


def parts(workload: Workload) -> tuple[list[WorkloadSession], list[WorkloadSession]]:
    """The sessions under attack, and the requests of the stream."""
    attacked = [each for each in workload.sessions if each.name in workload.attacked]
    return attacked, [each for each in workload.sessions if each.name not in workload.attacked]


def prompts(sessions: list[WorkloadSession]) -> list[int]:
    return [call.prompt_tokens for each in sessions for call in each.calls]


def plain(workload: Workload) -> list[object]:
    calls = [(each.name, call) for each in workload.sessions for call in each.calls]
    return [(name, replace(call, block_ids=None), call.block_ids.tolist()) for name, call in calls]  # type: ignore[arg-type]


@every_attack
def test_the_same_seed_makes_the_same_load(name: Attack) -> None:
    one, again, other = (build_attack(name, concurrency=3, max_calls=5, seed=seed) for seed in (1, 1, 2))
    assert plain(one) == plain(again) != plain(other)
    assert one.start_seconds == again.start_seconds


@every_attack
def test_sessions_grow_and_share_nothing(name: Attack) -> None:
    workload = build_attack(name, concurrency=3)
    attacked, stream = parts(workload)
    assert len(attacked) == 3
    assert all(len(each.calls) == 1 for each in stream)
    firsts = [int(each.calls[0].block_ids[0]) for each in workload.sessions]
    assert len(set(firsts)) == len(firsts)
    for session in attacked:
        assert session.calls[-1].last
        for before, call in zip(session.calls[:-1], session.calls[1:], strict=True):
            end = before.prompt_tokens + before.output_tokens
            assert call.prompt_tokens > end
            assert call.known_tokens == end // 64 * 64
            assert np.array_equal(call.block_ids[: end // 64], before.block_ids)
            assert 2.5 <= call.gap_seconds <= 7.5


@every_attack
def test_the_stream_may_keep_from_telling_that_nothing_follows(name: Attack) -> None:
    for final in (True, False):
        attacked, stream = parts(build_attack(name, concurrency=2, final=final))
        assert {each.calls[0].last for each in stream} == {final}
        assert all(each.calls[-1].last for each in attacked)


@pytest.mark.parametrize(
    ("name", "contexts", "requests"),
    [
        ("short-stream", (20_000, 60_000), (1_500, 2_500)),
        ("long-stream", (2_000, 4_000), (58_000, 62_000)),
        ("bursts", (20_000, 60_000), (7_000, 9_000)),
    ],
)
def test_lengths_are_as_told(name: Attack, contexts: tuple[int, int], requests: tuple[int, int]) -> None:
    attacked, stream = parts(build_attack(name, concurrency=4))
    found = prompts(attacked)
    assert (min(found), max(found)) == pytest.approx(contexts, rel=0.05)
    assert requests[0] <= min(prompts(stream)) <= max(prompts(stream)) <= requests[1]


def test_bursts_come_whole_and_by_the_clock() -> None:
    workload = build_attack("bursts", concurrency=3)
    starts = workload.start_seconds[3:]
    assert workload.open_loop
    assert {starts.count(time) for time in starts} == {40}
    assert sorted(set(starts)) == [60.0 * (1 + number) for number in range(len(starts) // 40)]


def test_the_attack_is_no_part_of_the_recorded_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTINFER_DATA", raising=False)
    workload = workload_of(Grid(policies=("fcfs",), concurrency=(2,), trace="bursts").cases[0])
    assert len(workload.attacked) == 2


def test_what_cannot_be_run_is_told() -> None:
    with pytest.raises(UserInputError, match="gaps of its own"):
        Grid(trace="bursts", gaps="short")
    with pytest.raises(UserInputError, match="more than the 30000 that fit"):
        workload_of(Grid(trace="bursts", kv_tokens=30_000).cases[0])


def result(**waits: float) -> SimulationResult:
    calls = [
        CallRecord(
            session=name,
            index=0,
            one_shot=False,
            prompt_tokens=100,
            known_tokens=0,
            arrival=1.0,
            admitted=1.0 + wait,
            first_token=2.0 + wait,
            finished=3.0 + wait,
        )
        for name, wait in waits.items()
    ]
    sessions = [SessionRecord(name=each.session, started=1.0, finished=each.finished) for each in calls]
    return SimulationResult(calls=calls, sessions=sessions)


def test_victims_are_told_from_the_stream() -> None:
    first = measure(result(a=5.0, b=7.0, c=1.0), attacked={"a", "b"})
    row = first.row()
    assert (row["victim_max_wait_s"], row["victim_mean_completion_s"]) == (7.0, 8.0)
    assert (row["stream_max_wait_s"], row["stream_mean_completion_s"]) == (1.0, 3.0)
    both = pool([first, measure(result(a=9.0, b=7.0, c=2.0), attacked={"a", "b"})]).row()
    assert (both["victim_max_wait_s"], both["victim_mean_completion_s"]) == (9.0, 9.0)
    assert both["stream_max_wait_s"] == 2.0
    assert both["max_wait_s"] == 9.0
    assert "victim_max_wait_s" not in measure(result(a=5.0)).row()


@with_vllm
class TestReplay:
    @pytest.fixture(autouse=True)
    def _vllm(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies'
            importlib.import_module("vllm.v1.core.sched.scheduler")

    def replay(self, name: Attack, policy: str) -> SimulationResult:
        chosen = find_policy(policy)
        settings = {**chosen.settings, "max_wait_seconds": MAX_WAIT_SECONDS} if chosen.settings else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return simulate(
                build_attack(name, concurrency=3, max_calls=6),
                chosen.make,
                find_preset(PRESET),
                kv_tokens=KV_TOKENS,
                settings=settings,
                sample_seconds=0.5,
            )

    @every_attack
    def test_nobody_starves(self, name: Attack) -> None:
        done = self.replay(name, "agentsched")
        assert longest_excess(done, bound=largest_bound(done)) <= 0

    @pytest.mark.parametrize("name", ["short-stream", "long-stream"])
    def test_somebody_does_where_short_prompts_come_first(self, name: Attack) -> None:
        assert longest_excess(self.replay(name, "sjf-prompt"), bound=MAX_WAIT_SECONDS) > 0

    @every_attack
    def test_some_always_wait(self, name: Attack) -> None:
        """Until either side is through; bursts are over at times."""
        done = self.replay(name, "fcfs")
        names = {call.session for call in done.calls if call.session.startswith("attacked")}
        end = min(
            max(call.admitted for call in done.calls if (call.session in names) == attacked)
            for attacked in (True, False)
        )
        idle = [each.waiting == 0 for each in done.samples if 10 < each.time < end - 5]
        assert idle
        assert any(idle) == (name == "bursts")

    def test_the_command(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("AGENTINFER_DATA", raising=False)
        file = tmp_path / "figures.json"
        options = ("--trace", "long-stream", "--policies", "fcfs,agentsched", "--concurrency", "2")
        more = ("--kv-tokens", str(KV_TOKENS), "--max-calls", "4", "--jobs", "1", "--json", str(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = CliRunner().invoke(bench.app, ["sched", *options, *more])
        assert done.exit_code == 0, done.output
        assert "trace long-stream, KV cache" in done.stdout
        assert "victims: completion s" in done.stdout
        written = json.loads(file.read_text(encoding="utf-8"))
        for row in (*written["rows"], *written["pooled"]):
            longest = max(row["victim_max_wait_s"], row["stream_max_wait_s"])
            assert longest == row["max_wait_s"]
            assert row["victim_mean_completion_s"] > 0


def largest_bound(done: SimulationResult) -> float:
    return max(each.figures["wait_bound_seconds"] for each in done.samples)


def longest_excess(done: SimulationResult, *, bound: float) -> float:
    """Longest wait beyond the bound and what the requests need that are then ahead: running, or earlier."""
    return max(
        wait - bound - sum(_alone(other) for other in _ahead(call, done.calls, at=call.arrival + bound))
        for call in done.calls
        if (wait := call.admitted - call.arrival) > bound or call is done.calls[0]
    )


def _ahead(call: CallRecord, calls: list[CallRecord], *, at: float) -> list[CallRecord]:
    return [
        other
        for other in calls
        if other is not call
        and other.finished > at
        and (other.admitted <= at or other.arrival <= call.arrival)
    ]


def _alone(call: CallRecord) -> float:
    """Seconds that the prompt takes on an otherwise idle engine, in chunks, without what is cached."""
    chunk = 2048
    hardware = find_preset(PRESET)
    ends = range(chunk, call.prompt_tokens + chunk, chunk)
    return sum(hardware.step_seconds([(chunk, end)]) for end in ends)
