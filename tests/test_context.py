"""The knobs of a run: shown by Studio, checked, and never changed under way."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from agentinfer_lg.context import Context, as_context

_FIELDS = sorted(Context.model_fields)
_PROPERTIES: dict[str, dict[str, Any]] = Context.model_json_schema()["properties"]
_CONTROLS = {"text", "number", "slider", "switch", "select"}


@pytest.mark.parametrize("name", _FIELDS)
def test_studio_can_show_every_knob(name: str) -> None:
    schema = _PROPERTIES[name]
    ui = schema["x_oap_ui_config"]
    assert len(schema["description"]) > 10
    assert ui["description"] == schema["description"]
    assert ui["type"] in _CONTROLS
    assert ui["default"] == schema["default"] == getattr(Context(), name)
    json.dumps(schema)


@pytest.mark.parametrize("name", _FIELDS)
def test_the_control_fits_the_type(name: str) -> None:
    schema = _PROPERTIES[name]
    ui = schema["x_oap_ui_config"]
    match ui["type"]:
        case "select":
            assert [option["value"] for option in ui["options"]] == schema["enum"]
            assert ui["default"] in schema["enum"]
        case "switch":
            assert schema["type"] == "boolean"
        case "slider":
            assert ui["min"] == schema["minimum"]
            assert ui["max"] == schema["maximum"]
            assert ui["min"] <= ui["default"] <= ui["max"]
        case "number":
            assert schema["type"] in ("integer", "number")
        case _:
            assert schema["type"] == "string"


@pytest.mark.parametrize(
    "bad",
    [
        {"language": "de"},
        {"max_seekers": 0},
        {"max_seekers": 9},
        {"report": "long"},
        {"tenant": "x" * 129},
        {"policy": "always"},
        {"warmup_steps": 0},
        {"warmup_steps": 4},
        {"seeker_warmup_steps": -1},
        {"budget": "none"},
        {"static_budget": 0},
        {"cooldown": -1},
        {"random_p": 1.01},
        {"random_p": float("nan")},
        {"max_turns": 0},
        {"max_turns": 2.5},
        {"max_small_tokens": -1},
        {"max_seconds": 0},
        {"results_per_query": 21},
        {"max_observation_tokens": 99},
        {"max_thought_tokens": 31},
        {"rescue_tokens": -1},
        {"temperature": 2.1},
        {"plan_approval": "perhaps"},
        {"max_step": 5},
        {"api_key": "sk-1"},
    ],
    ids=str,
)
def test_bad_values_are_refused(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(ValidationError, match=name):
        Context(**bad)


def test_frozen() -> None:
    context = Context()
    with pytest.raises(ValidationError, match="frozen"):
        context.max_turns = 3  # type: ignore[misc]
    assert context.max_turns == 12
    assert hash(context) == hash(Context())


def test_no_knob_holds_a_secret_or_an_address() -> None:
    assert not [name for name in _FIELDS if any(word in name for word in ("key", "url", "secret", "token_"))]


def test_as_context() -> None:
    own = Context(max_turns=3)
    assert as_context(own) is own
    assert as_context({"max_turns": 3}) == own
    assert as_context(None) == Context()
    assert as_context({}) == Context()
    assert as_context({"operator": "Kim"}) == Context()
    assert as_context({"operator": "Kim", "max_turns": 3}) == Context(), "another application's context"
    assert as_context(object()) == Context()
    with pytest.raises(ValidationError):
        as_context({"max_turns": 0})


def test_it_survives_json() -> None:
    context = Context(policy="random", random_p=0.5, tenant="a", max_seconds=1.5)
    assert Context.model_validate_json(context.model_dump_json()) == context
