"""Write: who writes, what stands in for a writer, and what the report always says."""

from __future__ import annotations

from typing import Any, cast

import pytest
from support.seekers import QUESTION, ScriptedModel, call_record, model, resources, runtime, source

from agentinfer_lg.nodes.write import write
from agentinfer_lg.state import Finding, ResearchState

HERON = source("heron", "Heron Point Light was lit in 1871 by Ada Winter.")
GULL = source("gull", "Gull Rock Light was lit in 1902 by Tom Quill.")


def _finding(answer: str, *sources: str, agent: str = "seeker-1", question: str = QUESTION) -> Finding:
    return Finding(
        agent=agent, question=question, answer=answer, sources=list(sources), complete=bool(answer)
    )


def _state(*findings: Finding, **more: Any) -> ResearchState:
    values = {
        "question": QUESTION,
        "language": "en",
        "run_id": "run",
        "findings": list(findings),
        "sources": {"gull": GULL, "heron": HERON},
        "calls": [],
    }
    return cast(ResearchState, {**values, **more})


async def _write(state: ResearchState, large: ScriptedModel | None = None, **knobs: Any) -> dict[str, Any]:
    return await write(state, runtime(**knobs), resources=resources(large=large))


async def test_a_brief_report_needs_no_model() -> None:
    update = await _write(_state(_finding("In 1871.", "heron")), report="brief")
    assert update["report"] == (
        f"# {QUESTION}\n\nIn 1871. [1]\n\n## Findings\n\n- {QUESTION} In 1871. [1]\n\n"
        "## Sources\n\n- [1] Heron — heron.md\n"
    )
    assert update["answer"] == "In 1871."
    assert update["calls"] == []
    assert update["messages"][0].content == update["report"]


async def test_citations_of_the_writer_are_those_of_sources() -> None:
    draft = model("Heron Point Light was lit in 1871 by Ada Winter [1]. See https://evil.example/x [9].")
    update = await _write(_state(_finding("In 1871.", "heron")), draft)
    assert "evil.example" not in update["report"]
    assert update["dropped_citations"] == 2
    assert "- [1] Heron — heron.md" in update["report"], "the sources of findings come first"
    assert [record["role"] for record in update["calls"]] == ["write"]


@pytest.mark.parametrize("draft", ["", "No.", "The passages do not mention it.", "It is a light in a tower."])
async def test_a_draft_that_is_no_report(draft: str) -> None:
    update = await _write(_state(_finding("In 1871.", "heron")), model(draft))
    assert "## Findings" in update["report"]
    assert update["ran_out"] == []


async def test_a_writer_that_fails_is_named() -> None:
    update = await _write(_state(_finding("In 1871.", "heron")))
    assert "## Findings" in update["report"]
    assert "## What ran out" in update["report"]
    assert "Broken" in update["ran_out"][0]


async def test_several_findings_are_combined() -> None:
    findings = [
        _finding("In 1871.", "heron", question="When was Heron Point Light lit?"),
        _finding("In 1902.", "gull", agent="seeker-2", question="When was Gull Rock Light lit?"),
    ]
    writer = model("Heron Point Light.")
    update = await _write(_state(*findings), writer, report="brief")
    assert update["answer"] == "Heron Point Light."
    assert "In 1902." in writer.asked[0]
    unsure = await _write(_state(*findings), model("unknown"), report="brief")
    assert unsure["answer"] == "In 1871.", "an evasion is no better than the first finding"


@pytest.mark.parametrize(
    ("reader", "asked"), [([call_record(role="qa")], True), ([call_record(role="qa", tier="large")], False)]
)
async def test_what_a_smaller_model_read_is_read_again(reader: Any, asked: bool) -> None:
    writer = model("In 1871.")
    await _write(_state(_finding("In 1870.", "heron"), calls=reader), writer, report="brief")
    assert bool(writer.asked) is asked


async def test_without_an_answer_sources_are_quoted() -> None:
    update = await _write(_state(_finding("")), report="brief")
    assert update["answer"] == ""
    assert "No answer was found." in update["report"]
    assert "Heron: “Heron Point Light was lit in 1871 by Ada Winter.” [1]" in update["report"]


async def test_without_documents() -> None:
    update = await _write(_state(_finding(""), sources={}), report="brief")
    assert "No documents were found." in update["report"]


async def test_what_ran_out_is_said_once() -> None:
    sentence = "seeker-1 used its 3 turns (max_turns)."
    update = await _write(_state(_finding("In 1871.", "heron"), ran_out=[sentence, sentence]), report="brief")
    assert update["report"].count(sentence) == 1


async def test_no_time_is_left_for_a_writer() -> None:
    writer = model("never asked")
    calls = [call_record(agent="planner", seconds=400.0), call_record(seconds=300.0)]
    update = await _write(_state(_finding("In 1871.", "heron"), calls=calls), writer, max_seconds=600)
    assert writer.asked == []
    assert "In 1871." in update["report"]
