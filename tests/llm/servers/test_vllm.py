"""vLLM as `agentinfer serve` starts it: neither tool calls nor thoughts, constrained output."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.demo_question import ask, assert_answered, assert_usable, at, examine
from support.engine_fixture import Engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]


@pytest.mark.parametrize("named", [True, False], ids=["the model is named", "the model is looked up"])
def test_the_demo_question_is_answered(real_engine: Engine, tmp_path: Path, named: bool) -> None:
    model = real_engine.model if named else ""
    assert_answered(ask(at(real_engine.base_url, model, folder=tmp_path)))


def test_doctor_finds_it_usable(real_engine: Engine, tmp_path: Path) -> None:
    assert_usable(examine(at(real_engine.base_url, real_engine.model, folder=tmp_path)))
