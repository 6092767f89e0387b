"""vLLM's scheduler on small made-up traces."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.sched_traces import SMALL, write_coding_traces

from agentinfer_lg.evals.datasets.agent_traces import load_coding_traces
from agentinfer_lg.evals.sched.replay.belady import hit_rates
from agentinfer_lg.evals.sched.replay.simulation import SimulationResult, simulate
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession, build_workload


@pytest.fixture(scope="module", autouse=True)
def _vllm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies'
        pytest.importorskip("vllm.v1.core.sched.scheduler", reason="vLLM is not installed")


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    sessions = load_coding_traces(write_coding_traces(tmp_path_factory.mktemp("data")))
    return build_workload(sessions, name="small", concurrency=4, one_shots=0.4, gap_scale=0.2)


def fcfs(clock: Callable[[], float], parts: dict[str, Any]) -> Any:
    from vllm.v1.core.sched.scheduler import Scheduler

    return Scheduler(**parts)


def run(workload: Workload, **options: Any) -> SimulationResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return simulate(workload, fcfs, SMALL, max_model_len=32_768, **options)


@pytest.fixture(scope="module")
def result(workload: Workload) -> SimulationResult:
    return run(workload)


def all_calls(sessions: tuple[WorkloadSession, ...]) -> list[Call]:
    return [
        one
        for each in sessions
        for call in each.calls
        for one in (call, *call.one_shots, *all_calls(call.children))
    ]


def times(result: SimulationResult) -> list[tuple[object, ...]]:
    return [
        (
            call.session,
            call.index,
            call.arrival,
            call.admitted,
            call.first_token,
            call.finished,
            call.hit_tokens,
        )
        for call in result.calls
    ]


def hit_share(result: SimulationResult) -> float:
    return sum(call.hit_tokens for call in result.calls) / sum(call.prompt_tokens for call in result.calls)


def test_a_replay_is_deterministic(workload: Workload, result: SimulationResult) -> None:
    again = run(workload)
    assert times(again) == times(result)
    assert again.sessions == result.sessions
    assert again.steps == result.steps


def test_every_call_finishes_once(workload: Workload, result: SimulationResult) -> None:
    assert sorted(each.name for each in result.sessions) == sorted(each.name for each in workload.sessions)
    asked = sorted(call.prompt_tokens for call in all_calls(workload.sessions))
    assert sorted(call.prompt_tokens for call in result.calls) == asked
    for call in result.calls:
        assert call.arrival <= call.admitted < call.first_token <= call.finished <= result.seconds


def test_calls_wait_for_what_goes_before(workload: Workload, result: SimulationResult) -> None:
    ends = {(call.session, call.index): call.finished for call in result.calls if not call.one_shot}
    arrivals = {(call.session, call.index): call.arrival for call in result.calls if not call.one_shot}
    shots: dict[tuple[str, int], float] = {}
    for call in result.calls:
        if call.one_shot:
            key = (call.session.split("#")[0], call.index)
            shots[key] = max(shots.get(key, 0.0), call.finished)
    assert shots
    for session in workload.sessions:
        for index, call in enumerate(session.calls[1:]):
            arrival = arrivals[session.name, index + 1]
            assert arrival >= ends[session.name, index] + call.gap_seconds - 1e-9
            assert arrival >= shots.get((session.name, index), 0.0)


def test_hits_are_real_and_no_more_than_can_be(workload: Workload, result: SimulationResult) -> None:
    assert any(call.hit_tokens for call in result.calls)
    for call in result.calls:
        assert call.hit_tokens % workload.block_size == 0
        assert call.hit_tokens < call.prompt_tokens
    rates = hit_rates(result.calls, blocks=SMALL.kv_tokens // 64, block_size=64)
    assert hit_share(result) <= rates.belady + 1e-9
    assert rates.belady <= rates.unlimited


def test_with_a_cache_for_everything_all_known_tokens_are_hits(workload: Workload) -> None:
    large = run(workload, kv_tokens=2_000_000)
    for call in large.calls:
        if call.index:
            # the last token of an answer is sampled, not computed: a block that it would fill is not cached
            assert call.hit_tokens >= call.known_tokens // 64 * 64 - 64
    assert not sum(call.preemptions for call in large.calls)
    assert hit_share(large) == pytest.approx(
        hit_rates(large.calls, blocks=1 << 20, block_size=64).unlimited, abs=0.01
    )


def test_a_small_cache_hits_less_and_takes_longer(workload: Workload, result: SimulationResult) -> None:
    large = run(workload, kv_tokens=200_000)
    assert hit_share(result) < hit_share(large) - 0.05
    assert sum(call.recomputed_tokens for call in result.calls) > 0
    assert result.seconds > large.seconds


def test_steps_that_are_taken_together_change_next_to_nothing(
    workload: Workload, result: SimulationResult
) -> None:
    exact = run(workload, exact=True)
    assert result.steps == pytest.approx(exact.steps, rel=0.02)
    one, other = (
        np.mean([each.finished - each.started for each in each_result.sessions])
        for each_result in (result, exact)
    )
    assert one == pytest.approx(other, rel=0.02)
    assert hit_share(result) == pytest.approx(hit_share(exact), abs=0.02)


def test_what_is_preempted_is_computed_again() -> None:
    calls = [
        Call(
            prompt_tokens=640,
            output_tokens=1280,
            block_ids=np.arange(30, dtype=np.int64) + 100 * number,
            last=True,
        )
        for number in range(4)
    ]
    sessions = tuple(WorkloadSession(name=f"s{number}", calls=(call,)) for number, call in enumerate(calls))
    four = Workload(name="four", block_size=64, sessions=sessions, start_seconds=(0.0,) * 4)
    tight = run(four, kv_tokens=64 * 60)
    assert sum(call.preemptions for call in tight.calls) > 0
    assert sum(call.recomputed_tokens for call in tight.calls) > 0
    assert len(tight.sessions) == 4


def test_an_open_loop_keeps_to_the_clock() -> None:
    def one(start: float) -> tuple[Call, ...]:
        first = Call(
            prompt_tokens=640, output_tokens=64, block_ids=np.arange(11) + int(start) * 1000, not_before=start
        )
        return first, replace(first, not_before=start + 20, last=True)

    starts = (0.0, 3.0, 5.0, 400.0)
    sessions = tuple(WorkloadSession(name=f"s{start:.0f}", calls=one(start)) for start in starts)
    result = run(
        Workload(name="open", block_size=64, sessions=sessions, start_seconds=starts, open_loop=True)
    )
    arrivals = {(call.session, call.index): call.arrival for call in result.calls}
    for start in starts:
        assert arrivals[f"s{start:.0f}", 0] == pytest.approx(start, abs=0.1)
        assert arrivals[f"s{start:.0f}", 1] == pytest.approx(start + 20, abs=0.1)


def test_more_places_than_sessions_end_too() -> None:
    call = Call(prompt_tokens=640, output_tokens=8, block_ids=np.arange(10), last=True)
    session = WorkloadSession(name="only", calls=(call,))
    result = run(Workload(name="few", block_size=64, sessions=(session,), start_seconds=(0.0, 50.0)))
    assert len(result.sessions) == 1


def test_samples_and_progress(workload: Workload) -> None:
    seen: list[int] = []
    result = run(workload, sample_seconds=1.0, on_progress=seen.append)
    assert seen == list(range(1, len(workload.sessions) + 1))
    assert len(result.samples) > 5
    assert all(0 <= sample.used_blocks <= SMALL.kv_tokens // 64 for sample in result.samples)
    assert [sample.time for sample in result.samples] == sorted(sample.time for sample in result.samples)
