"""Settings of AgentSched."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sched.config import SchedConfig

SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "order": st.sampled_from(["score", "fcfs"]),
        "retention": st.sampled_from(["soft", "hard", "off"]),
        "admission": st.booleans(),
        "gain": st.floats(0.01, 100),
        "hysteresis": st.floats(0, 1),
        "max_wait_seconds": st.integers(1, 1000),
        "hard_pin_share": st.floats(0, 0.9),
    },
)


@given(SETTINGS)
def test_survive_the_way_through_json(values: dict[str, object]) -> None:
    config = SchedConfig.parse(values)
    assert SchedConfig.parse(json.loads(json.dumps(config.to_values()))) == config
    assert config.to_values().items() <= values.items()


def test_defaults_need_no_words() -> None:
    assert SchedConfig.parse(None) == SchedConfig.parse({}) == SchedConfig()
    assert SchedConfig().to_values() == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nonsense": 1}, "AgentSched has no setting nonsense; there are admission"),
        ({"order": "lifo"}, "order cannot be 'lifo': it is one of score, fcfs"),
        ({"order": ["score"]}, "order cannot be"),
        ({"admission": 1}, "admission cannot be 1: it is true or false"),
        ({"gain": True}, "gain cannot be True: it is a number"),
        ({"gain": "4"}, "gain cannot be '4': it is a number"),
        ({"gain": None}, "gain cannot be None: it is a number"),
        ({"gain": 0}, "gain is a number above 0, got 0"),
        ({"hit_weight": -1}, "hit_weight is a number, 0 or more, got -1"),
        ({"smoothing": 1.5}, "smoothing is a number above 0, up to 1, got 1.5"),
        ({"hard_pin_share": 0.95}, "hard_pin_share is a number from 0 to 0.9, got 0.95"),
        ({"lambda_max": float("nan")}, "lambda_max is a number above 0, got nan"),
        ({"max_wait_seconds": float("inf")}, "max_wait_seconds is a number above 0, got inf"),
        ("fcfs", "must be a JSON object, got str"),
    ],
)
def test_that_are_wrong_are_named(values: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SchedConfig.parse(values)


@given(
    st.dictionaries(st.sampled_from([field.name for field in fields(SchedConfig)]), st.floats() | st.none())
)
def test_nothing_but_a_setting_or_a_sentence_comes_out(values: dict[str, object]) -> None:
    with suppress(ConfigurationError):
        config = SchedConfig.parse(values)
        assert all(getattr(config, name) == value for name, value in values.items())
