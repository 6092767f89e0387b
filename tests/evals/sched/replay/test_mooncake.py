from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay.mooncake import (
    Conversation,
    MooncakeRequest,
    build_open_workload,
    load_mooncake,
    open_sessions,
)

DATA = os.environ.get("AGENTINFER_DATA")
HASHED = 512


def write(folder: Path, *requests: tuple[float, int, list[int]]) -> Path:
    """Requests of (seconds, tokens, hashes)."""
    (folder / "mooncake").mkdir()
    lines: list[dict[str, Any]] = [
        {"timestamp": seconds * 1000, "input_length": tokens, "output_length": 100, "hash_ids": hashes}
        for seconds, tokens, hashes in requests
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "mooncake" / "conversation_trace.jsonl").write_text(text, encoding="utf-8")
    return folder


def chained(conversations: list[Conversation]) -> list[list[float]]:
    return [[request.arrival for request in each.requests] for each in conversations]


def test_a_prompt_that_begins_with_all_full_blocks_of_another_continues_it(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        (0, HASHED * 2 + 10, [0, 1, 2]),
        (1, HASHED * 2 + 10, [0, 5, 6]),  # the same system prompt only
        (60, HASHED * 4 + 10, [0, 1, 20, 21, 22]),
        (90, HASHED * 3, [0, 5, 30]),
        (99, HASHED * 5, [0, 1, 20, 21, 40]),
    )
    assert chained(load_mooncake(folder)) == [[0, 60, 99], [1, 90]]


def test_a_second_continuation_of_the_same_prompt_is_a_conversation_of_its_own(tmp_path: Path) -> None:
    folder = write(
        tmp_path, (0, HASHED * 2, [0, 1]), (10, HASHED * 3, [0, 1, 2]), (20, HASHED * 3, [0, 1, 9])
    )
    assert chained(load_mooncake(folder)) == [[0, 10], [20]]


def test_a_short_prompt_is_continued_by_none(tmp_path: Path) -> None:
    folder = write(tmp_path, (0, HASHED, [0]), (10, HASHED * 3, [0, 1, 2]))
    assert chained(load_mooncake(folder)) == [[0], [10]]


def test_halves_are_disjoint(tmp_path: Path) -> None:
    folder = write(tmp_path, *((number, HASHED * 2, [0, number]) for number in range(1, 8)))
    tune, report = ({each.name for each in load_mooncake(folder, part=part)} for part in ("tune", "report"))
    assert tune.isdisjoint(report)
    assert len(tune | report) == 7


def test_a_folder_without_the_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"docs/data\.md"):
        load_mooncake(tmp_path)


def conversation(name: str, *requests: tuple[float, int, tuple[int, ...]]) -> Conversation:
    made = [
        MooncakeRequest(arrival=arrival, prompt_tokens=tokens, output_tokens=200, hashes=hashes)
        for arrival, tokens, hashes in requests
    ]
    return Conversation(name=name, requests=tuple(made))


def test_blocks_after_the_last_full_hash_are_those_of_the_next_prompt() -> None:
    two = conversation("two", (0, HASHED * 2 + 100, (0, 1, 2)), (100, HASHED * 4, (0, 1, 3, 4)))
    workload = build_open_workload([two], name="test", concurrency=1)
    first, second = workload.sessions[0].calls
    assert len(first.block_ids) == (HASHED * 2 + 300) // 64
    assert first.block_ids.tolist() == second.block_ids[: len(first.block_ids)].tolist()
    assert (first.not_before, second.not_before) == (0, 100)
    assert (first.known_tokens, second.known_tokens) == (0, len(first.block_ids) * 64)


def test_an_answer_that_was_asked_for_again_is_not_in_the_next_prompt() -> None:
    again = conversation("again", (0, HASHED * 2 + 100, (0, 1, 2)), (9, HASHED * 2 + 110, (0, 1, 3)))
    first, second = build_open_workload([again], name="test", concurrency=1).sessions[0].calls
    same = set(first.block_ids.tolist()) & set(second.block_ids.tolist())
    assert len(same) * 64 == second.known_tokens == HASHED * 2


def test_what_another_conversation_computed_before_is_known() -> None:
    later = conversation("later", (50, HASHED * 3, (0, 1, 9)), (90, HASHED * 4, (0, 1, 9, 10)))
    early = conversation("early", (0, HASHED * 2, (0, 1)), (60, HASHED * 4, (0, 1, 2, 5)))
    workload = build_open_workload([early, later], name="test", concurrency=1)
    known = {each.name: [call.known_tokens for call in each.calls] for each in workload.sessions}
    assert known["later"][0] == HASHED * 2
    assert not any(call.last for each in workload.sessions for call in each.calls)


def test_the_share_follows_from_the_concurrency() -> None:
    many = [conversation(str(n), (n, 2048, (0, n)), (n + 100, 4096, (0, n, 1000 + n))) for n in range(100)]
    assert open_sessions(many) == pytest.approx(100 * 100 / 199)
    workload = build_open_workload(many, name="test", concurrency=10)
    assert len(workload.sessions) == 20
    assert workload.start_seconds == tuple(sorted(workload.start_seconds))
    assert workload.open_loop
    assert build_open_workload(many, name="test", concurrency=10).start_seconds == workload.start_seconds
    assert (
        build_open_workload(many, name="test", concurrency=10, seed=1).start_seconds != workload.start_seconds
    )
    with pytest.raises(UserInputError, match="50 conversations at the same time, not 51"):
        build_open_workload(many, name="test", concurrency=51)


def test_limits_hold() -> None:
    one = conversation("one", *((float(n), HASHED * (n + 2), tuple(range(n + 2))) for n in range(8)))
    assert len(build_open_workload([one], name="test", concurrency=1, max_calls=3).sessions[0].calls) == 3
    limited = build_open_workload([one], name="test", concurrency=1, max_tokens=HASHED * 5)
    assert [call.prompt_tokens for call in limited.sessions[0].calls] == [HASHED * 2, HASHED * 3, HASHED * 4]


@pytest.mark.skipif(DATA is None, reason="AGENTINFER_DATA is not set: no recorded data")
def test_the_recorded_trace_has_conversations() -> None:
    found = load_mooncake(Path(DATA or ""))
    assert sum(len(each.requests) for each in found) == 12_031
    assert sum(len(each.requests) > 1 for each in found) > 1_000
    workload = build_open_workload(found, name="mooncake", concurrency=4)
    for call in (call for each in workload.sessions for call in each.calls):
        assert len(call.block_ids) == (call.prompt_tokens + call.output_tokens) // 64
        assert call.known_tokens < call.prompt_tokens
