"""Conclude: the finding of a seeker that finished, and of one that was stopped."""

from __future__ import annotations

from typing import Any

from support.seekers import call_record, model, resources, runtime, seeker, source

from agentinfer_lg.nodes.conclude import conclude
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import SeekerState

HERON = source("heron", "Heron Point Light was lit in 1871.")


async def _conclude(state: SeekerState, shared: Resources) -> tuple[dict[str, Any], dict[str, Any]]:
    update = await conclude(state, runtime(), resources=shared)
    (finding,) = update["findings"]
    return finding, update


async def test_an_accepted_answer_is_the_finding() -> None:
    accepted = {"answer": "1871", "sources": ["heron"], "accepted": True}
    finding, update = await _conclude(seeker(HERON, proposal=accepted), resources())
    assert finding == {
        "agent": "seeker-1",
        "question": "When was Heron Point Light lit?",
        "answer": "1871",
        "sources": ["heron"],
        "complete": True,
    }
    assert update["calls"] == []


async def test_an_evasion_that_was_accepted_at_last_is_no_answer() -> None:
    accepted = {"answer": "unknown", "sources": [], "accepted": True}
    finding, _ = await _conclude(seeker(HERON, proposal=accepted), resources())
    assert (finding["answer"], finding["complete"]) == ("", False)


async def test_a_seeker_that_was_stopped_reads_once_more() -> None:
    finding, update = await _conclude(seeker(HERON), resources(large=model("In 1871.")))
    assert (finding["answer"], finding["sources"], finding["complete"]) == ("In 1871.", ["heron"], False)
    assert [record["role"] for record in update["calls"]] == ["qa"]


async def test_nothing_is_read_without_results_or_time() -> None:
    late = seeker(HERON, calls=[call_record(seconds=700.0)])
    for state in (seeker(), late):
        finding, update = await _conclude(state, resources())
        assert finding["answer"] == ""
        assert update["calls"] == []
        assert "ran_out" not in update


async def test_no_model_answers() -> None:
    finding, update = await _conclude(seeker(HERON), resources())
    assert (finding["answer"], finding["complete"]) == ("", False)
    assert "Broken" in update["ran_out"][0]
