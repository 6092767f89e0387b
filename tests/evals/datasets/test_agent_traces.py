from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.agent_traces import load_coding_traces

DATA = os.environ.get("AGENTINFER_DATA")


def request(tokens: int, common: int, runs: list[list[int]], **more: Any) -> dict[str, Any]:
    return {"in": tokens, "out": 64, "think_time": 3.0, "h": [common, runs], **more}


def write(folder: Path, *traces: dict[str, Any]) -> Path:
    (folder / "coding-agent-traces").mkdir()
    lines = "".join(json.dumps({"block_size": 64, **trace}) + "\n" for trace in traces)
    (folder / "coding-agent-traces" / "traces_delta_00.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_hashes_are_restored_from_what_changed(tmp_path: Path) -> None:
    requests = [
        request(64 * 3, 0, [[1, 3]]),
        request(64 * 5 + 9, 3, [[10, 2], [20, 1]], input_types=["tool_result"]),
        request(64 * 3, 2, [[7, 1]], input_types=["text"]),
    ]
    (session,) = load_coding_traces(write(tmp_path, {"id": "trace_1", "requests": requests}), least_calls=3)
    assert [call.block_ids.tolist() for call in session.calls] == [[1, 2, 3], [1, 2, 3, 10, 11], [1, 2, 7]]
    assert [call.prompt_tokens for call in session.calls] == [192, 329, 192]
    assert [call.after_tool for call in session.calls] == [False, True, False]
    assert session.calls[1].gap_seconds == 3.0


def test_sub_agents_belong_to_the_request_before(tmp_path: Path) -> None:
    nested = {"requests": [request(128, 0, [[50, 2]]), request(192, 2, [[60, 1]])]}
    requests = [request(64, 0, [[1, 1]]), nested, request(128, 1, [[2, 1]])]
    trace = {"id": "trace_2", "requests": requests, "tool_tokens": 64, "system_tokens": 64}
    (session,) = load_coding_traces(write(tmp_path, trace), least_calls=2)
    assert session.shared_tokens == 128
    (child,) = session.calls[0].children
    assert [call.block_ids.tolist() for call in child.calls] == [[50, 51], [50, 51, 60]]
    assert child.shared_tokens == 0  # what its front has in common with others is not recorded
    assert session.calls[1].block_ids.tolist() == [1, 2]


def test_halves_are_by_number_and_short_sessions_left_out(tmp_path: Path) -> None:
    calls = [request(64 * (index + 1), index, [[index, 1]]) for index in range(4)]
    traces = [{"id": f"trace_{number}", "requests": calls} for number in range(1, 6)]
    folder = write(tmp_path, *traces, {"id": "trace_7", "requests": calls[:2]})
    halves = {
        part: {session.name for session in load_coding_traces(folder, part=part, least_calls=3)}
        for part in ("tune", "report", None)
    }
    assert halves["tune"] == {"trace_1", "trace_3", "trace_5"}
    assert halves["report"] == {"trace_2", "trace_4"}
    assert halves[None] == halves["tune"] | halves["report"]


def test_a_folder_without_traces_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"docs/data\.md"):
        load_coding_traces(tmp_path)


@pytest.mark.skipif(DATA is None, reason="AGENTINFER_DATA is not set: no recorded data")
def test_recorded_sessions_have_ids_for_all_full_blocks() -> None:
    sessions = load_coding_traces(Path(DATA or ""), part="report")
    calls = [call for session in sessions for call in session.calls]
    assert len(sessions) > 100
    assert all(len(call.block_ids) == call.prompt_tokens // 64 for call in calls)
    assert any(call.children for call in calls)
    gaps = sorted(call.gap_seconds for call in calls if call.after_tool)
    assert 2 < gaps[len(gaps) // 2] < 20
