"""What a step costs on a machine."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay.hardware import PRESETS, find_preset, model_hardware

SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
}


def test_facts_of_a_model_are_read_from_its_configuration() -> None:
    facts = model_hardware(SMOLLM2, name="machine", kv_tokens=1)
    preset = find_preset("cpu-smollm2-135m")
    for name in ("weight_bytes", "kv_bytes", "token_flops", "attention_flops"):
        assert getattr(facts, name) == pytest.approx(getattr(preset, name), rel=1e-3), name


@pytest.mark.parametrize("config", [{}, {**SMOLLM2, "hidden_size": None}, {**SMOLLM2, "vocab_size": "many"}])
def test_other_configurations_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(UserInputError, match="dense transformer"):
        model_hardware(config, name="machine", kv_tokens=1)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_step_takes_longer_with_more_to_do(name: str) -> None:
    machine = find_preset(name)
    alone = machine.step_seconds([(1, 1000)])
    assert 0 < alone < machine.step_seconds([(1, 1000)] * 8) < machine.step_seconds([(1, 4000)] * 8)
    assert machine.step_seconds([(512, 512)]) < machine.step_seconds([(2048, 2048)])
    assert machine.step_seconds([(1, 1000)], steps=3) == pytest.approx(3 * alone)


@given(new=st.integers(1, 2000), cached=st.integers(0, 4000), batch=st.integers(1, 16))
def test_without_overlap_a_step_takes_at_most_twice_as_long(new: int, cached: int, batch: int) -> None:
    machine = replace(find_preset("h100-7b"), overhead_seconds=0.0)
    work = [(new, cached + new)] * batch
    overlapping = machine.step_seconds(work)
    apart = replace(machine, overlap=False).step_seconds(work)
    assert overlapping <= apart <= 2 * overlapping


def test_slower_attention_costs_most_at_long_contexts() -> None:
    machine = replace(find_preset("cpu-smollm2-135m"), attention_flops_per_second=None)
    slower = find_preset("cpu-smollm2-135m")

    def ratio(context: int) -> float:
        work = [(64, context)]
        return slower.step_seconds(work) / machine.step_seconds(work)

    assert 1 < ratio(128) < ratio(4096)


def test_unknown_machines_are_named() -> None:
    with pytest.raises(UserInputError, match="cpu-smollm2-135m"):
        find_preset("abacus")
