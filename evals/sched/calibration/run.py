"""How long steps of a real engine take on this machine.

Steps are measured through a real server, one at a time: prompts that nothing is cached of, prompts that go on from a
cached context, decode steps of several requests together, and steps that do both. Of several rounds the fastest counts:
whatever else the machine does only ever adds time. `agentinfer_lg.evals.sched.calibration.fit` fits a machine to the steps.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import httpx

from agentinfer_lg.errors import EngineError
from agentinfer_lg.evals.common.engine_client import Arrival, http_client, read_stream, stream
from agentinfer_lg.evals.sched.calibration.fit import Kind, StepTime, Work
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server

_START_SECONDS = 900.0
_BLOCK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """What is measured; lengths in tokens."""

    model: str
    """Model folder or name on the hub."""
    prompts: Sequence[int] = (64, 128, 256, 384, 512, 768, 1024, 1280, 1536, 2048)
    """Prompts of which nothing is cached."""
    contexts: Sequence[int] = (512, 1024, 2048, 3072)
    """Cached contexts that prompts go on from."""
    appended: Sequence[int] = (32, 96, 256, 640)
    """How far prompts go on."""
    batches: Sequence[int] = (1, 2, 4, 6, 8)
    """Requests that decode together."""
    decode_contexts: Sequence[int] = (128, 1024, 3072)
    steps: int = 24
    """Decode steps per measurement."""
    mixed_batch: int = 4
    """Requests that decode while a prompt is computed."""
    mixed_context: int = 1024
    mixed_prompts: Sequence[int] = (128, 512, 1024)
    repeats: int = 3
    step_tokens: int = 2048
    """Most tokens per step; no prompt may be longer."""
    kv_cache_gib: float = 1.0
    dtype: str = "auto"


def measure_steps(
    options: CalibrationOptions, *, on_step: Callable[[str], None] = lambda step: None
) -> list[StepTime]:
    """Start a server and measure.

    Args:
        options: What is measured.
        on_step: Called before each round with what it is.

    Raises:
        EngineError: The server does not start, or fails.
    """
    on_step("loading the engine")
    with Server(_serve_options(options)) as server:
        server.wait_ready(_START_SECONDS)
        try:
            return asyncio.run(_Calibration(server, options, on_step).run())
        except httpx.HTTPError as error:
            raise EngineError(server.last_words()) from error


_Key = tuple[Kind, Work]


class _Calibration:
    """Rounds of measurements, all kinds in turns, so that no kind has the slow minutes of the machine for itself."""

    def __init__(self, server: Server, options: CalibrationOptions, on_step: Callable[[str], None]) -> None:
        self._server = server
        self._options = options
        self._on_step = on_step
        self._draw = random.Random(0)
        self._seconds: dict[_Key, list[float]] = {}

    async def run(self) -> list[StepTime]:
        contexts = {length: self._tokens(length) for length in self._options.contexts}
        async with http_client() as http:
            await self._first_token(http, self._tokens(64))  # has everything loaded
            for number in range(1, self._options.repeats + 1):
                self._on_step(f"round {number} of {self._options.repeats}")
                await self._prompts(http)
                await self._appended(http, contexts)
                await self._decode(http)
                await self._mixed(http)
        return [
            StepTime(kind=kind, work=work, seconds=min(found))
            for (kind, work), found in self._seconds.items()
        ]

    async def _prompts(self, http: httpx.AsyncClient) -> None:
        for length in self._options.prompts:
            self._note("prompt", ((length, length),), await self._first_token(http, self._tokens(length)))

    async def _appended(self, http: httpx.AsyncClient, contexts: dict[int, list[int]]) -> None:
        for length, context in contexts.items():
            await self._first_token(http, context)  # in the prefix cache from now on, if it was not
            for more in self._options.appended:
                seconds = await self._first_token(http, [*context, *self._tokens(more)])
                self._note("appended", ((more, length + more),), seconds)

    async def _decode(self, http: httpx.AsyncClient) -> None:
        steps = self._options.steps
        for length, batch in itertools.product(self._options.decode_contexts, self._options.batches):
            prompts = [self._tokens(length) for _ in range(batch)]
            for prompt in prompts:
                await self._first_token(http, prompt)
            streams = await asyncio.gather(*(self._stream(http, prompt, steps + 1) for prompt in prompts))
            seconds = median(step_seconds(_token_times(arrivals)) for arrivals in streams)
            self._note("decode", ((1, length + steps * 5 // 8),) * batch, seconds)

    async def _mixed(self, http: httpx.AsyncClient) -> None:
        """A prompt joins requests that decode: for one step they wait for it."""
        batch, length, steps = self._options.mixed_batch, self._options.mixed_context, self._options.steps
        for more in self._options.mixed_prompts:
            prompts = [self._tokens(length) for _ in range(batch)]
            for prompt in prompts:
                await self._first_token(http, prompt)
            decoding = [asyncio.create_task(self._stream(http, prompt, steps * 2)) for prompt in prompts]
            await asyncio.sleep(0.2)
            await self._first_token(http, self._tokens(more))
            streams = await asyncio.gather(*decoding)
            longest = median(max(_gaps(_token_times(arrivals))) for arrivals in streams)
            self._note("mixed", (*((1, length + steps),) * batch, (more, more)), longest)

    def _note(self, kind: Kind, work: Work, seconds: float) -> None:
        self._seconds.setdefault((kind, work), []).append(seconds)

    def _tokens(self, count: int) -> list[int]:
        return [self._draw.randrange(256, 40_000) for _ in range(count)]

    async def _first_token(self, http: httpx.AsyncClient, prompt: list[int]) -> float:
        """Seconds until the first token of the answer."""
        return read_stream(await self._stream(http, prompt, 1), session="", turn=0).first

    async def _stream(self, http: httpx.AsyncClient, prompt: list[int], tokens: int) -> list[Arrival]:
        body = {
            "model": self._server.model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
        }
        return await stream(http, f"{self._server.base_url}/completions", body)


def step_seconds(times: Sequence[float]) -> float:
    """Mean time between tokens, without the first quarter: other requests may still begin then."""
    start = len(times) // 4
    return (times[-1] - times[start]) / (len(times) - 1 - start)


def _gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def _token_times(arrivals: Sequence[Arrival]) -> list[float]:
    """When each token came; several may come in one line."""
    return [
        seconds
        for seconds, line in arrivals
        if line.startswith("data: {")
        for choice in json.loads(line.removeprefix("data: ")).get("choices", ())
        for _ in choice.get("token_ids") or ()
    ]


def _serve_options(options: CalibrationOptions) -> ServeOptions:
    longest = max(
        *options.prompts,
        max(options.contexts) + max(options.appended),
        max(options.decode_contexts) + options.steps,
        options.mixed_context + 2 * options.steps,
    )
    return ServeOptions(
        model=options.model,
        served_model_name="model",
        port=0,
        max_model_len=longest + 2 * _BLOCK,
        max_num_seqs=max(*options.batches, options.mixed_batch + 1),
        kv_cache_gib=options.kv_cache_gib,
        block_size=_BLOCK,
        tool_call_parser="none",
        sam=None,
        sched=None,
        extra_args=(
            *("--dtype", options.dtype),
            *("--max-num-batched-tokens", str(options.step_tokens)),
        ),
    )
