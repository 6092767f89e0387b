"""Every knob, variable, benchmark and policy stands in a table of the documentation."""

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import pytest
from support.knob_tables import PAGE, render

from agentinfer_lg.cli import bench
from agentinfer_lg.context import Context
from agentinfer_lg.evals.sched.replay.policies import policy_names
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.settings import EndpointSettings, Settings

DOCS = Path(__file__).parents[1] / "docs"


def _code_in_tables() -> list[str]:
    """Texts in backticks that stand in rows of tables."""
    rows = (
        line
        for page in sorted(DOCS.glob("*.md"))
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    )
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


def _in_no_table(names: Iterable[str]) -> list[str]:
    """Names that no text in backticks holds as a whole word."""
    text = "\n".join(_code_in_tables())
    return [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]


def _variables() -> list[str]:
    tiers = [f"AGENTINFER_<TIER>__{name.upper()}" for name in EndpointSettings.model_fields]
    nested = [name for name, field in Settings.model_fields.items() if field.annotation is EndpointSettings]
    assert nested == ["small", "large", "judge"]
    others = [f"AGENTINFER_{name.upper()}" for name in Settings.model_fields if name not in nested]
    return [*tiers, *others, "TAVILY_API_KEY"]


NAMES = {
    "knobs of a run": list(Context.model_fields),
    "variables": _variables(),
    "settings of AgentSched": [field.name for field in fields(SchedConfig)],
    "settings of AgentSAM": [field.name for field in fields(SamConfig)],
    "benchmarks": [f"bench {name}" for name in bench.COMMANDS],
}


@pytest.mark.parametrize("what", NAMES)
def test_everything_that_can_be_set_is_in_a_table(what: str) -> None:
    assert NAMES[what]
    assert _in_no_table(NAMES[what]) == []


def test_every_policy_of_the_replays_is_in_a_table() -> None:
    assert _in_no_table(policy_names()) == []


def test_what_is_in_no_table_is_found() -> None:
    assert _in_no_table(["policy", "no_such_knob"]) == ["no_such_knob"]
    assert _in_no_table(["bench sch"]) == ["bench sch"], "a part of a name is not the name"


def test_the_page_of_knobs_is_made_from_the_fields() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "python tests/support/knob_tables.py writes it"
