"""Fitting the roofline model of a machine."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.calibration.fit import Kind, StepTime, Work, fit_machine, halves
from agentinfer_lg.evals.sched.replay.hardware import Hardware, find_preset, model_hardware

SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "intermediate_size": 1536,
    "vocab_size": 49152,
}


def works() -> list[tuple[Kind, Work]]:
    prompts: list[tuple[Kind, Work]] = [
        ("prompt", ((length, length),)) for length in (64, 128, 256, 512, 1024, 2048)
    ]
    appended: list[tuple[Kind, Work]] = [
        ("appended", ((new, context + new),)) for context in (512, 3072) for new in (32, 256, 640)
    ]
    decode: list[tuple[Kind, Work]] = [
        ("decode", ((1, context),) * batch) for context in (128, 3072) for batch in (1, 2, 4, 8)
    ]
    mixed: list[tuple[Kind, Work]] = [("mixed", ((1, 1024), (1, 1024), (new, new))) for new in (128, 1024)]
    return [*prompts, *appended, *decode, *mixed]


def measured(machine: Hardware, *, request_seconds: float = 0.0, noise: float = 0.0) -> list[StepTime]:
    draw = random.Random(0)
    return [
        StepTime(
            kind=kind,
            work=work,
            seconds=(machine.step_seconds(work) + (request_seconds if kind in ("prompt", "appended") else 0))
            * (1 + draw.uniform(-noise, noise)),
        )
        for kind, work in works()
    ]


def facts() -> Hardware:
    return model_hardware(SMOLLM2, name="machine", kv_tokens=1000)


@settings(max_examples=25, deadline=None)
@given(
    flops=st.floats(1e11, 1e13),
    attention=st.floats(1e11, 1e13),
    bandwidth=st.floats(5e9, 5e11),
    overhead=st.floats(0, 0.02),
    request=st.floats(0, 0.02),
)
def test_the_machine_behind_exact_measurements_is_found(
    flops: float, attention: float, bandwidth: float, overhead: float, request: float
) -> None:
    machine = replace(
        facts(),
        flops_per_second=flops,
        attention_flops_per_second=attention,
        bytes_per_second=bandwidth,
        overhead_seconds=overhead,
        overlap=False,
    )
    fit = fit_machine(measured(machine, request_seconds=request), facts())
    assert fit.worst_error < 1e-3
    assert fit.fitted + fit.checked == len(works())


def test_overlap_is_told_from_its_absence() -> None:
    for overlap in (True, False):
        machine = replace(
            facts(),
            flops_per_second=9e11,
            attention_flops_per_second=4e11,
            bytes_per_second=19e9,
            overhead_seconds=0.002,
            overlap=overlap,
        )
        fit = fit_machine(measured(machine, request_seconds=0.01), facts())
        assert fit.hardware.overlap is overlap
        assert fit.worst_error < 0.02


def test_errors_are_about_steps_that_were_not_fitted() -> None:
    machine = replace(facts(), flops_per_second=9e11, bytes_per_second=19e9, overlap=False)
    steps = measured(machine)
    _, other = halves(steps)
    slow = [replace(step, seconds=step.seconds * 2) if step in other else step for step in steps]
    fit = fit_machine(slow, facts())
    assert fit.median_error == pytest.approx(0.5, abs=0.01)
    assert fit.bias == pytest.approx(-0.5, abs=0.01)
    assert set(fit.error_by_kind) == {"prompt", "appended", "decode", "mixed"}


def test_noise_stays_noise() -> None:
    fit = fit_machine(measured(find_preset("cpu-smollm2-135m"), noise=0.05), facts())
    assert fit.median_error < 0.06
    assert fit.hardware.flops_per_second == pytest.approx(940e9, rel=0.15)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(UserInputError, match="too few"):
        fit_machine(measured(find_preset("cpu-smollm2-135m"))[:8], facts())


def test_halves_share_every_kind() -> None:
    steps = measured(find_preset("cpu-smollm2-135m"))
    one, other = halves(steps)
    assert sorted(map(str, [*one, *other])) == sorted(map(str, steps))
    assert {step.kind for step in one} == {step.kind for step in other}
