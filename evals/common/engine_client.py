"""The client's side of `agentinfer bench engine`: sessions in a closed loop, streams timed as they arrive."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from agentinfer_lg.errors import EngineError
from agentinfer_lg.evals.datasets.trajectories import Session, Turn
from agentinfer_lg.evals.sam.engine.figures import Counters, TimedRequest, read_counters
from agentinfer_lg.evals.sam.engine.forcing import FORCED_TOKENS
from agentinfer_lg.evals.sam.engine.plan import Outputs
from agentinfer_lg.hints import SessionHints

_REQUEST_SECONDS = 900.0

Arrival = tuple[float, str]
"""Seconds since the request was sent, and one line of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineClient:
    """Replays sessions on one server."""

    base_url: str
    """Ends in `/v1`."""
    model: str
    outputs: Outputs
    interval: float = 0.0
    """Seconds from one request of a session to its next, where the answer comes sooner; sessions are spread over it. Then
    all servers get the same requests at the same times. 0: the next request follows the answer."""

    async def counters(self) -> Counters:
        """Return what the server counted since its start."""
        async with http_client() as http:
            response = await http.get(f"{self.base_url.removesuffix('/v1')}/metrics")
            return read_counters(response.raise_for_status().text)

    async def wake(self) -> None:
        """Have one token computed, so that the first request that counts finds everything in memory."""
        prompt = {"model": self.model, "prompt": [0, 0], "max_tokens": 1, "temperature": 0}
        async with http_client() as http:
            (await http.post(f"{self.base_url}/completions", json=prompt)).raise_for_status()

    async def replay(self, sessions: Sequence[Session], *, batch: int, name: str) -> list[TimedRequest]:
        """Replay sessions, at most `batch` at the same time.

        Args:
            sessions: What to replay.
            batch: How many at once; a session's requests come one after the other.
            name: Distinguishes these sessions from others of the same id.

        Raises:
            EngineError: The server refuses a request, or breaks off an answer.
            httpx.HTTPError: It does not answer.
        """
        gate = asyncio.Semaphore(batch)
        async with http_client() as http:

            async def one(place: int, session: Session) -> list[TimedRequest]:
                async with gate:
                    await asyncio.sleep(self.interval * (place % batch) / batch)
                    return await self._session(http, session, name)

            done = await asyncio.gather(*(one(place, session) for place, session in enumerate(sessions)))
            return [each for timed in done for each in timed]

    async def _session(self, http: httpx.AsyncClient, session: Session, name: str) -> list[TimedRequest]:
        context: list[int] = []
        timed: list[TimedRequest] = []
        began = time.perf_counter()
        for number, turn in enumerate(session.turns):
            await asyncio.sleep(max(0.0, began + number * self.interval - time.perf_counter()))
            context += turn.prompt.tolist()
            hints = SessionHints(session_id=f"{name}/{session.id}", turn=number)
            body = request_body(context, turn, model=self.model, outputs=self.outputs, hints=hints)
            arrivals = await stream(http, f"{self.base_url}/completions", body)
            timed.append(read_stream(arrivals, session=session.id, turn=number))
            context += _said(turn, timed[-1].output, self.outputs)
        return timed


def request_body(
    context: Sequence[int], turn: Turn, *, model: str, outputs: Outputs, hints: SessionHints
) -> dict[str, Any]:  # Any: JSON
    """Return the request of a turn: greedy, no longer than what was recorded."""
    recorded = turn.output.tolist()
    forced = {FORCED_TOKENS: recorded} if outputs == "recorded" else {}
    return {
        "model": model,
        "prompt": list(context),
        "max_tokens": len(recorded),
        "temperature": 0,
        "ignore_eos": outputs == "recorded",
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "vllm_xargs": {**hints.to_xargs(), **forced},
    }


def _said(turn: Turn, output: Sequence[int], outputs: Outputs) -> list[int]:
    """What stands in the context for the model's answer, with the token that ends a turn."""
    recorded: list[int] = turn.output.tolist()
    if outputs != "own":
        return recorded
    return [*output, *(recorded[-1:] if list(output[-1:]) != recorded[-1:] else [])]


def http_client() -> httpx.AsyncClient:
    """Return a client for servers of this machine, with as many connections as there are requests."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        trust_env=False, timeout=_REQUEST_SECONDS, limits=limits
    )  # no proxy before our own server


async def stream(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> list[Arrival]:
    """Send a request and note when each line comes; they are read later, reading takes time too."""
    sent = time.perf_counter()
    async with http.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode(errors="replace")
            msg = f"the engine refused a request (HTTP {response.status_code}): {text[:300]}"
            raise EngineError(msg)
        return [(time.perf_counter() - sent, line) async for line in response.aiter_lines() if line]


def read_stream(arrivals: Sequence[Arrival], *, session: str, turn: int) -> TimedRequest:
    """Read the events of one answer.

    Raises:
        EngineError: The answer was broken off, or holds no tokens.
    """
    tokens: list[int] = []
    times: list[float] = []
    usage: dict[str, Any] = {}
    first_tokens = 0
    for seconds, line in arrivals:
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            msg = f"the engine broke off an answer: {str(event['error'])[:300]}"
            raise EngineError(msg)
        usage = event.get("usage") or usage
        new = [token for choice in event.get("choices", ()) for token in choice.get("token_ids") or ()]
        if new:
            first_tokens = first_tokens or len(new)
            tokens += new
            times.append(seconds)
    if not times:
        msg = "the engine answered without a token"
        raise EngineError(msg)
    return TimedRequest(
        session=session,
        turn=turn,
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        output=tuple(tokens),
        first=times[0],
        last=times[-1],
        first_tokens=first_tokens,
        chunks=len(times),
    )
