"""The client's side of `agentinfer bench sched-engine`: a workload in a closed loop, on a real server.

What happens is recorded as the replay records it, so that both are measured by the same code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from agentinfer_lg.evals.common.engine_client import http_client, read_stream, stream
from agentinfer_lg.evals.sam.engine.figures import TimedRequest
from agentinfer_lg.evals.sched.engine.workload import tokens_between
from agentinfer_lg.evals.sched.replay.simulation import CallRecord, SessionRecord, SimulationResult
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession
from agentinfer_lg.hints import SessionHints


@dataclass(slots=True, kw_only=True)
class WorkloadClient:
    """Runs one workload once."""

    base_url: str
    """Ends in `/v1`."""
    model: str
    workload: Workload
    shared_tokens: int
    """Tokens of the system prompt, which all sessions have in common."""
    salt: str
    """Workloads with other salts have other tokens, and find nothing of each other in the cache."""
    _result: SimulationResult = field(default_factory=SimulationResult, init=False)
    _began: float = field(default=0.0, init=False)

    async def run(self) -> SimulationResult:
        """Run the workload to its end.

        Returns:
            Requests in the order in which they ended. When the server admitted them is not seen from outside: the time
            of the first token stands for it. Preemptions are not seen either.

        Raises:
            EngineError: The server refuses a request, or breaks off an answer.
            httpx.HTTPError: It does not answer.
        """
        sessions = iter(self.workload.sessions)
        self._began = time.perf_counter()
        async with http_client() as http:
            await asyncio.gather(
                *(self._place(http, start, sessions) for start in self.workload.start_seconds)
            )
        self._result.seconds = self._now()
        return self._result

    async def _place(
        self, http: httpx.AsyncClient, start: float, sessions: Iterator[WorkloadSession]
    ) -> None:
        await asyncio.sleep(start - self._now())
        for session in sessions:  # all places draw from the same ones
            started = self._now()
            await self._session(http, session)
            self._result.sessions.append(
                SessionRecord(name=session.name, started=started, finished=self._now())
            )

    async def _session(self, http: httpx.AsyncClient, session: WorkloadSession) -> None:
        context: list[int] = []
        for index, call in enumerate(session.calls):
            if index:
                shots = session.calls[index - 1].one_shots
                names = [f"{session.name}#{index - 1}.{number}" for number in range(len(shots))]
                await asyncio.gather(
                    asyncio.sleep(call.gap_seconds),
                    *(
                        self._one_shot(http, shot, name, index - 1)
                        for shot, name in zip(shots, names, strict=True)
                    ),
                )
            context += self._tokens(session.name, len(context), call.prompt_tokens, self.shared_tokens)
            timed = await self._call(http, call, context, name=session.name, index=index)
            context += timed.output

    async def _one_shot(self, http: httpx.AsyncClient, call: Call, name: str, index: int) -> None:
        await self._call(http, call, self._tokens(name, 0, call.prompt_tokens, 0), name=name, index=index)

    async def _call(
        self, http: httpx.AsyncClient, call: Call, prompt: list[int], *, name: str, index: int
    ) -> TimedRequest:
        hints = SessionHints(session_id=f"{self.salt}/{name}", turn=index, role=call.role, final=call.last)
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": call.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "vllm_xargs": hints.to_xargs(),
        }
        arrival = self._now()
        arrivals = await stream(http, f"{self.base_url}/completions", body)
        timed = read_stream(arrivals, session=name, turn=index)
        self._result.calls.append(
            CallRecord(
                session=name,
                index=index,
                one_shot=call.role == "qa",
                prompt_tokens=timed.prompt_tokens,
                known_tokens=call.known_tokens,
                arrival=arrival,
                admitted=arrival + timed.first,
                first_token=arrival + timed.first,
                finished=arrival + timed.last,
                hit_tokens=timed.cached_tokens,
                recomputed_tokens=max(0, call.known_tokens - timed.cached_tokens),
            )
        )
        return timed

    def _tokens(self, name: str, start: int, end: int, shared: int) -> list[int]:
        return tokens_between(name, start, end, shared=shared, salt=self.salt)

    def _now(self) -> float:
        return time.perf_counter() - self._began
