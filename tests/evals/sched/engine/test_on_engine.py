"""`agentinfer bench sched-engine` with real servers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from agentinfer_lg.evals.datasets.agent_traces import TraceCall, TraceSession
from agentinfer_lg.evals.sched.engine.figures import compare, side_by_side
from agentinfer_lg.evals.sched.engine.run import SchedEngineBenchmark, SchedEngineOptions
from agentinfer_lg.evals.sched.engine.workload import Scale


def recorded() -> list[TraceSession]:
    return [
        TraceSession(
            name=f"trace_{number}",
            block_size=64,
            shared_tokens=12_000,
            calls=tuple(
                TraceCall(
                    prompt_tokens=60_000 + number * 5_000 + index * 2_000,
                    output_tokens=200,
                    gap_seconds=float(5 + (number * 7 + index * 5) % 20),
                    block_ids=np.arange(1),
                )
                for index in range(4)
            ),
        )
        for number in range(6)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_hits_move_as_the_replay_predicts(demo_model_folder: Path) -> None:
    options = SchedEngineOptions(
        model=str(demo_model_folder),
        places=4,
        sessions=4,
        rounds=1,
        kv_tokens=4096,
        max_model_len=2048,
        scale=Scale(max_tokens=1800, calls=4, gap=1.5, gaps=(0.5, 3.0), one_shot_tokens=(200, 500)),
    )
    benchmark = SchedEngineBenchmark(sessions=recorded(), options=options)
    before = os.environ.copy()
    seen: list[str] = []
    benchmark.run(on_step=seen.append)
    assert os.environ == before  # or servers would inherit what importing vLLM leaves there
    assert len(seen) == benchmark.steps
    assert all(each.measured is not None for each in benchmark.rounds)
    sides = {(side.policy, side.figure): side for side in side_by_side(benchmark.rounds)}
    for policy in ("fcfs", "agentsched"):
        side = sides[policy, "hit_rate"]
        # how long steps take depends on what else the machine does, and with it what is evicted first
        assert side.measured == pytest.approx(side.predicted, abs=0.2), policy
    (ours,) = compare(benchmark.rounds)
    assert ours.hit_points_predicted > 0
    assert ours.hit_points_measured is not None
    assert ours.hit_points_measured > 0
    (round_of_ours,) = (each for each in benchmark.rounds if each.policy == "agentsched")
    assert round_of_ours.measured is not None
    assert (round_of_ours.measured.figures or {})["errors"] == 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_machine_is_fitted_to_a_real_engine(demo_model_folder: Path) -> None:
    from agentinfer_lg.evals.sched.calibration.command import read_config
    from agentinfer_lg.evals.sched.calibration.fit import fit_machine
    from agentinfer_lg.evals.sched.calibration.run import CalibrationOptions, measure_steps
    from agentinfer_lg.evals.sched.replay.hardware import model_hardware

    options = CalibrationOptions(
        model=str(demo_model_folder),
        prompts=(64, 256, 512, 1024),
        contexts=(512,),
        appended=(32, 256),
        batches=(1, 4),
        decode_contexts=(128, 1024),
        mixed_prompts=(256,),
        repeats=2,
    )
    steps = measure_steps(options)
    facts = model_hardware(read_config(demo_model_folder), name="machine", kv_tokens=1)
    fit = fit_machine(steps, facts)
    assert {step.kind for step in steps} == {"prompt", "appended", "decode", "mixed"}
    assert all(0 < step.seconds < 60 for step in steps)
    by_work = {(step.kind, step.work): step.seconds for step in steps}
    assert by_work["prompt", ((64, 64),)] < by_work["prompt", ((1024, 1024),)]
    assert fit.hardware.flops_per_second > 0
    assert fit.hardware.weight_bytes > 0
