"""One long research session on a real engine, with context compression and without, under the same script.

The graph is the one that users run, over a folder of real documents, and the engine is the one that `agentinfer serve`
starts. Only what each round searches is given (`scripted_search.py`), because a small model alone would be done,
or lost, long before its context is. What comes out is told by `figures.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import httpx

from agentinfer_lg.context import Context
from agentinfer_lg.errors import EngineError
from agentinfer_lg.evals.common.engine_client import http_client
from agentinfer_lg.evals.common.metrics_page import read_sched_series
from agentinfer_lg.evals.common.slow_search import SlowSearch
from agentinfer_lg.evals.compression.long_session.figures import (
    Figures,
    Recording,
    Timed,
    measure,
    prompts_to_count,
)
from agentinfer_lg.evals.compression.long_session.script import Script
from agentinfer_lg.evals.compression.long_session.scripted_search import ScriptedSearchProxy
from agentinfer_lg.graphs.deep_research import create_deep_research_graph
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.settings import EndpointSettings, Settings
from agentinfer_lg.tools.local import LocalFolder

Variant = Literal["on", "cold", "off"]
"""With compression as it is by default; swapping without prefilling the new context; without compression."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

_START_SECONDS = 900.0
_PUBLISHED_SECONDS = 1.5
"""After this time the engine has published what it counted."""
_LARGE = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LongSessionOptions:
    """What is run."""

    model: str
    """Model folder or name on the hub."""
    docs: Path
    rounds: int = 24
    after_tokens: int = 12_000
    """Context from which old results are distilled."""
    keep_rounds: int = 2
    notes_tokens: int = 1000
    results: int = 10
    """Search results asked for per query."""
    keep: int = 8
    """Most of them that pass the filter."""
    observation_tokens: int = 1000
    """Most tokens of results per round."""
    tool_seconds: float = 0.0
    """Added to each search: a folder answers at once, the web does not."""
    max_model_len: int | None = None
    block_size: int = 32
    kv_cache_gib: float = 1.0
    engine_args: tuple[str, ...] = ()
    """More arguments for vLLM."""

    def context(self, variant: Variant) -> Context:
        """Return the knobs of the run: one seeker, one model, and no budget but the rounds."""
        return Context(
            language="en",
            max_seekers=1,
            report="brief",
            policy="always-small",
            compression="off" if variant == "off" else "background",
            compress_after_tokens=self.after_tokens,
            keep_rounds=self.keep_rounds,
            notes_tokens=self.notes_tokens,
            prewarm=variant != "cold",
            results_per_query=self.results,
            search_keep=self.keep,
            leads=False,  # the searches follow a script
            max_observation_tokens=self.observation_tokens,
            max_turns=self.rounds,
            max_small_tokens=_LARGE,
            max_seconds=float(_LARGE),
        )

    def serve_options(self) -> ServeOptions:
        """Return how the engine is started: with both parts of the plugin, and nothing remembered from before."""
        return ServeOptions(
            model=self.model,
            served_model_name="model",
            port=0,
            max_model_len=self.max_model_len,
            kv_cache_gib=self.kv_cache_gib,
            block_size=self.block_size,
            max_num_seqs=8,
            tool_call_parser="none",
            sam=SamConfig(memory="off"),
            extra_args=self.engine_args,
        )


@dataclass(slots=True, kw_only=True)
class LongSession:
    """The whole measurement; whatever interrupts it, `figures` holds what was done until then."""

    script: Script
    options: LongSessionOptions
    variants: Sequence[Variant] = VARIANTS
    figures: dict[Variant, Figures] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return len(self.variants) * (self.options.rounds + 1)

    def run(self, *, on_step: Callable[[str], None] = lambda step: None) -> None:
        """Run the session once per variant, each on an engine of its own, one after the other.

        Args:
            on_step: Called before each step with what it is; there are `steps` of them.

        Raises:
            EngineError: A server does not start or dies, or the session cannot be scripted.
        """
        for variant in self.variants:
            on_step(f"{variant}: loading the engine")
            with Server(self.options.serve_options()) as server:
                server.wait_ready(_START_SECONDS)
                try:
                    recording = asyncio.run(self._record(server, variant, on_step))
                except httpx.HTTPError as error:
                    died = server.pid is None
                    msg = (
                        server.last_words() if died else f"a request failed ({type(error).__name__}: {error})"
                    )
                    raise EngineError(msg) from error
            self.figures[variant] = measure(recording)

    async def _record(self, server: Server, variant: Variant, on_step: Callable[[str], None]) -> Recording:
        return await record(
            self.script,
            self.options,
            variant,
            base_url=server.base_url,
            model=server.model,
            on_round=lambda turn: on_step(f"{variant}: round {turn + 1} of {self.options.rounds}"),
        )


async def record(
    script: Script,
    options: LongSessionOptions,
    variant: Variant,
    *,
    base_url: str,
    model: str,
    on_round: Callable[[int], None] = lambda turn: None,
) -> Recording:
    """Run the session on an engine, and write down everything.

    Args:
        script: What is searched.
        options: What is run.
        variant: With compression or without.
        base_url: Of the engine, ending in `/v1`.
        model: Name under which the model is served.
        on_round: Called with the turn when its Think request is sent.

    Raises:
        EngineError: The session cannot be scripted.
        httpx.HTTPError: The engine does not answer.
    """
    root = base_url.removesuffix("/v1")
    watch = _Watch(f"{root}/metrics", on_round)
    with ScriptedSearchProxy(base_url=base_url, searches=script.searches) as scripted:
        endpoint = EndpointSettings(base_url=scripted.base_url, model=model, tool_calling="json", hints="on")
        settings = Settings(_env_file=None, small=endpoint)  # type: ignore[call-arg]  # pydantic-settings
        search = SlowSearch(LocalFolder(options.docs), seconds=options.tool_seconds)
        graph = create_deep_research_graph(settings=settings, search=search)
        await watch.run(graph, options.context(variant), script.question)
        if scripted.problem:
            raise EngineError(scripted.problem)
        exchanges = scripted.exchanges
    await asyncio.sleep(_PUBLISHED_SECONDS)
    await watch.look()
    counted = [await _tokens(f"{root}/tokenize", model, prompt) for prompt in prompts_to_count(exchanges)]
    return Recording(
        block_size=options.block_size,
        exchanges=tuple(exchanges),
        events=tuple(watch.events),
        series=tuple(watch.series),
        prompts=tuple(counted),
    )


class _Watch:
    """Runs the graph; notes its events, and what the scheduler says at the end of each round."""

    def __init__(self, metrics_url: str, on_round: Callable[[int], None]) -> None:
        self._url = metrics_url
        self._on_round = on_round
        self.events: list[Timed] = []
        self.series: list[Timed] = []

    async def run(self, graph: Any, context: Context, question: str) -> None:  # Any: a compiled graph
        looks: list[asyncio.Task[None]] = []
        config: Any = {"recursion_limit": 10_000}  # Any: RunnableConfig
        streamed: Any  # the types of LangGraph do not follow from the arguments
        async for streamed in graph.astream(
            {"question": question}, config, context=context, stream_mode="custom", subgraphs=True
        ):
            event: dict[str, Any] = dict(streamed[1])  # Any: see `Event`
            self.events.append(Timed(time.monotonic(), event))
            if event.get("event") == "progress":  # the end of a round; the graph must not wait for the look
                looks.append(asyncio.create_task(self.look()))
            if event.get("event") == "model_start" and event.get("role") == "think":
                self._on_round(event["turn"])
        await asyncio.gather(*looks)

    async def look(self) -> None:
        at = time.monotonic()
        async with http_client() as http:
            page = await http.get(self._url)
        self.series.append(Timed(at, read_sched_series(page.text) if page.is_success else {}))


async def _tokens(url: str, model: str, messages: Sequence[dict[str, Any]]) -> tuple[int, ...]:
    """Return the tokens of a prompt, as the engine's chat template writes it."""
    body = {"model": model, "messages": list(messages), "add_generation_prompt": True}
    async with http_client() as http:
        response = await http.post(url, json=body)
    return tuple(response.raise_for_status().json()["tokens"])
