"""The closed loop and the reading of streams, against a transport that is no server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest

from agentinfer_lg.errors import EngineError
from agentinfer_lg.evals.common import engine_client
from agentinfer_lg.evals.common.engine_client import EngineClient, read_stream
from agentinfer_lg.evals.datasets.trajectories import Session, Turn
from agentinfer_lg.evals.sam.engine.plan import Outputs

END = 99


def ids(*tokens: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(tokens, np.int32)


SESSION = Session("s", "g", (Turn(ids(1, 2), ids(3, 4, END)), Turn(ids(5), ids(6, END))))


def event(tokens: list[int], **more: object) -> str:
    return "data: " + json.dumps({"choices": [{"text": "", "token_ids": tokens}], **more})


USAGE = "data: " + json.dumps(
    {"choices": [], "usage": {"prompt_tokens": 12, "prompt_tokens_details": {"cached_tokens": 8}}}
)


class Engine:
    """Answers every request with the tokens 7 and 8; counts how many are open at the same time."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.open = self.most_open = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        lines = [event([7]), event([8]), USAGE, "data: [DONE]"]
        return httpx.Response(200, text="\n\n".join(lines) + "\n\n")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = Engine()
    monkeypatch.setattr(
        engine_client, "http_client", lambda: httpx.AsyncClient(transport=httpx.MockTransport(fake))
    )
    return fake


def client(outputs: Outputs) -> EngineClient:
    return EngineClient(base_url="http://engine/v1", model="m", outputs=outputs)


class TestReplay:
    @pytest.mark.parametrize(
        ("outputs", "second"),
        [
            ("recorded", [1, 2, 3, 4, END, 5]),
            ("discarded", [1, 2, 3, 4, END, 5]),
            ("own", [1, 2, 7, 8, END, 5]),
        ],
    )
    async def test_what_stands_in_the_context(
        self, engine: Engine, outputs: Outputs, second: list[int]
    ) -> None:
        await client(outputs).replay([SESSION], batch=1, name="1")
        assert [body["prompt"] for body in engine.bodies] == [[1, 2], second]

    async def test_only_recorded_outputs_are_forced(self, engine: Engine) -> None:
        for outputs in ("recorded", "own"):
            await client(outputs).replay([SESSION], batch=1, name="1")
        assert engine.bodies[0]["vllm_xargs"]["forced_tokens"] == [3, 4, END]
        assert engine.bodies[0]["ignore_eos"] is True
        assert "forced_tokens" not in engine.bodies[2]["vllm_xargs"]
        assert engine.bodies[2]["ignore_eos"] is False
        assert {body["max_tokens"] for body in engine.bodies} == {3, 2}

    async def test_requests_of_a_session_are_told_as_one_session(self, engine: Engine) -> None:
        await client("own").replay([SESSION], batch=1, name="7")
        hints = [body["vllm_xargs"] for body in engine.bodies]
        assert [hint["session_id"] for hint in hints] == ["7/s", "7/s"]
        assert [hint["agent_turn"] for hint in hints] == [0, 1]

    async def test_no_more_than_the_batch_at_once(self, engine: Engine) -> None:
        sessions = [Session(f"s{n}", "g", SESSION.turns) for n in range(9)]
        timed = await client("own").replay(sessions, batch=3, name="1")
        assert engine.most_open == 3
        assert len(timed) == 18

    async def test_an_interval_sends_requests_at_the_same_times_whatever_the_answers_take(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        monkeypatch.setattr(engine_client.asyncio, "sleep", sleep)
        calm = EngineClient(base_url="http://engine/v1", model="m", outputs="own", interval=100.0)
        await calm.replay([SESSION, SESSION], batch=2, name="1")
        waits = [seconds for seconds in slept if seconds > 0]
        assert sorted(round(seconds, -1) for seconds in waits) == [50, 100, 100]

    async def test_a_refusal_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(400, text="too long"))
        monkeypatch.setattr(engine_client, "http_client", lambda: httpx.AsyncClient(transport=transport))
        with pytest.raises(EngineError, match=r"HTTP 400.*too long"):
            await client("own").replay([SESSION], batch=1, name="1")


class TestReadStream:
    def test_times_and_tokens(self) -> None:
        arrivals = [
            (0.5, event([1, 2])),
            (0.6, ": comment"),
            (1.0, event([3])),
            (2.0, event([])),
            (2.1, USAGE),
        ]
        timed = read_stream([*arrivals, (2.2, "data: [DONE]")], session="s", turn=3)
        assert timed.output == (1, 2, 3)
        assert (timed.first, timed.last) == (0.5, 1.0)
        assert (timed.first_tokens, timed.chunks, timed.decode_tokens) == (2, 2, 1)
        assert (timed.prompt_tokens, timed.cached_tokens) == (12, 8)

    def test_an_error_in_the_stream(self) -> None:
        with pytest.raises(EngineError, match="out of memory"):
            read_stream([(0.1, 'data: {"error": {"message": "out of memory"}}')], session="s", turn=0)

    def test_an_empty_answer(self) -> None:
        with pytest.raises(EngineError, match="without a token"):
            read_stream([(0.1, "data: [DONE]")], session="s", turn=0)
