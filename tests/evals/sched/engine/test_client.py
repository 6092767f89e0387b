"""A workload in a closed loop on a server that only seems to be one."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from agentinfer_lg.evals.sched.engine import client as sched_client
from agentinfer_lg.evals.sched.engine.client import WorkloadClient
from agentinfer_lg.evals.sched.replay.simulation import SimulationResult
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession

IDS = np.zeros(0, dtype=np.int64)


class FakeEngine:
    """Answers with tokens that tell the request, and remembers what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.running = 0
        self.most_running = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        return httpx.Response(200, stream=_Stream(self, body, len(self.bodies)))


class _Stream(httpx.AsyncByteStream):
    def __init__(self, engine: FakeEngine, body: dict[str, Any], number: int) -> None:
        self._engine, self._body, self._number = engine, body, number

    async def __aiter__(self) -> AsyncIterator[bytes]:
        engine = self._engine
        engine.running += 1
        engine.most_running = max(engine.most_running, engine.running)
        for place in range(self._body["max_tokens"]):
            await asyncio.sleep(0)
            yield _event({"choices": [{"token_ids": [50_000 + 100 * self._number + place]}]})
        usage = {"prompt_tokens": len(self._body["prompt"]), "prompt_tokens_details": {"cached_tokens": 7}}
        yield _event({"choices": [], "usage": usage})
        engine.running -= 1


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def call(prompt: int, *, output: int = 2, shots: int = 0, last: bool = False) -> Call:
    one_shot = Call(prompt_tokens=30, output_tokens=1, block_ids=IDS, role="qa", last=True)
    return Call(
        prompt_tokens=prompt,
        output_tokens=output,
        block_ids=IDS,
        gap_seconds=0.001,
        known_tokens=10,
        last=last,
        one_shots=(one_shot,) * shots,
    )


def run(engine: FakeEngine, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> SimulationResult:
    monkeypatch.setattr(
        sched_client, "http_client", lambda: httpx.AsyncClient(transport=httpx.MockTransport(engine))
    )
    client = WorkloadClient(
        base_url="http://engine/v1", model="m", workload=workload, shared_tokens=8, salt="round 0"
    )
    return asyncio.run(client.run())


def workload(*sessions: WorkloadSession, places: int = 1) -> Workload:
    return Workload(name="w", block_size=32, sessions=sessions, start_seconds=(0.0,) * places)


def test_a_prompt_is_the_one_before_its_answer_and_something_new(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    session = WorkloadSession(name="s", calls=(call(20, shots=1), call(40), call(60, last=True)))
    result = run(engine, workload(session), monkeypatch)
    turns = [body for body in engine.bodies if body["vllm_xargs"]["agent_role"] == "think"]
    assert [len(body["prompt"]) for body in turns] == [20, 40, 60]
    assert turns[1]["prompt"][:22] == [*turns[0]["prompt"], 50_100, 50_101]
    assert turns[2]["prompt"][:40] == turns[1]["prompt"]
    assert all(token < 50_000 for token in turns[1]["prompt"][22:])
    assert [body["vllm_xargs"]["agent_final"] for body in turns] == [0, 0, 1]
    assert {body["vllm_xargs"]["session_id"] for body in turns} == {"round 0/s"}
    assert [record.name for record in result.sessions] == ["s"]


def test_one_shots_are_recorded_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    session = WorkloadSession(name="s", calls=(call(20, shots=2), call(40, last=True)))
    result = run(engine, workload(session), monkeypatch)
    shots = [record for record in result.calls if record.one_shot]
    assert {record.session for record in shots} == {"s#0.0", "s#0.1"}
    following = next(record for record in result.calls if record.session == "s" and record.index == 1)
    assert all(record.finished <= following.arrival for record in shots)
    assert all(record.arrival <= record.first_token <= record.finished for record in result.calls)
    assert all(record.hit_tokens == 7 for record in result.calls)
    finals = [body["vllm_xargs"] for body in engine.bodies if body["vllm_xargs"]["agent_role"] == "qa"]
    assert [xargs["agent_final"] for xargs in finals] == [1, 1]


def test_places_take_sessions_in_order_and_no_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    sessions = [WorkloadSession(name=f"s{number}", calls=(call(20, last=True),)) for number in range(5)]
    result = run(engine, workload(*sessions, places=2), monkeypatch)
    assert sorted(record.name for record in result.sessions) == ["s0", "s1", "s2", "s3", "s4"]
    assert engine.most_running <= 2
    first = [body["vllm_xargs"]["session_id"] for body in engine.bodies[:2]]
    assert sorted(first) == ["round 0/s0", "round 0/s1"]
    assert result.seconds >= max(record.finished for record in result.sessions)
