"""The operators' page names every setting with its default, and every figure."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.vllm.series import TABLE

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


def test_settings_are_documented_with_their_defaults() -> None:
    section = PAGE.split("### Settings of the scheduler")[1].split("\n#")[0]
    documented: dict[str, str] = {}
    for row in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        cells = row.split(" | ")
        names, defaults = re.findall(r"`(\w+)`", cells[0]), cells[-1].split(", ")
        documented |= dict(zip(names, defaults, strict=True))
    assert documented == {
        field.name: shown(getattr(SchedConfig(), field.name)) for field in fields(SchedConfig)
    }


def test_figures_are_documented() -> None:
    documented = set(re.findall(r"`agentinfer_sched_(\w+)`", PAGE))
    endings = {"counter": "_total", "gauge": ""}
    assert documented == {name + endings[series.kind] for name, series in TABLE.series.items()}
