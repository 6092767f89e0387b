"""Figures of benchmarks that must not move: see `support.golden`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from support.golden import DATA, FOLDER, MADE, NEEDS_DATA


@pytest.mark.parametrize("name", MADE)
def test_the_figures_are_those_of_before(name: str, tmp_path: Path) -> None:
    if name in NEEDS_DATA and not DATA:
        pytest.skip("AGENTINFER_DATA is not set: no recorded data")
    if name == "sched" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    golden = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert_same(json.loads(json.dumps(MADE[name](tmp_path))), golden, name)


def assert_same(found: Any, golden: Any, where: str) -> None:
    """Compare two JSON values; the last digits of a float may differ between machines."""
    if isinstance(golden, dict):
        assert found.keys() == golden.keys(), where
        for key, value in golden.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(golden, list):
        assert len(found) == len(golden), where
        for position, value in enumerate(golden):
            assert_same(found[position], value, f"{where}[{position}]")
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, rel=1e-9), where
    else:
        assert found == golden, where
