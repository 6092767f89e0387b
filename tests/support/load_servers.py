"""Servers for `agentinfer bench load` that are there at once, and whose figures a test makes up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.fake_openai import Brain, FakeOpenAI, Reply

from agentinfer_lg.context import Context
from agentinfer_lg.evals.agent.closed_loop import Corpus
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS, Configuration
from agentinfer_lg.evals.agent.engines import AgentEngines, EnginePair, TierEngine
from agentinfer_lg.evals.agent.load.run import LoadOptions, LoadRun
from agentinfer_lg.evals.datasets.closed_world.world import generate_world, write_world

__all__ = ("LoadServers", "WatchedServer", "load_run", "page")


def page(**values: float) -> str:
    """A page like vLLM's; `price` and `pressure` are AgentSched's."""
    names = {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "kv_usage": "vllm:kv_cache_usage_perc",
        "cache_queries": "vllm:prefix_cache_queries_total",
        "cache_hits": "vllm:prefix_cache_hits_total",
        "preemptions": "vllm:num_preemptions_total",
        "price": "agentinfer_sched_lambda",
        "pressure": "agentinfer_sched_pressure",
    }
    lines = [f'{names[name]}{{engine="0"}} {value}' for name, value in values.items()]
    return "\n".join(["# TYPE vllm:num_requests_running gauge", *lines, ""])


class WatchedServer(FakeOpenAI):
    """Knows how often its figures were looked at; while it is watched, chat requests wait until that was `patience` times."""

    def __init__(
        self, tier: str, *, sched: bool, patience: int, page_of: Callable[[int], str] | None
    ) -> None:
        brain = Brain()

        def answer(request: dict[str, Any], index: int) -> Reply:
            self.wait_for(lambda: not self._watched or self.looks >= patience, what="looks at the figures")
            return brain(request, index)

        super().__init__(answer, models=[tier])
        self._sched = sched
        self._page_of = page_of or self._own_page
        self._watched = False
        self._ignored = 0

    def watch(self) -> None:
        """Count from here on: the agent itself asks once, to see what kind of server this is."""
        self._ignored += self.looks
        self._watched = True

    @property
    def looks(self) -> int:
        """How often the figures were asked for."""
        return sum(request.path == "/metrics" for request in tuple(self.requests)) - self._ignored

    def series(self) -> str:
        return self._page_of(self.looks)

    def _own_page(self, look: int) -> str:
        price = {"price": float(look % 3), "pressure": 1.5} if self._sched else {}
        counted = {"cache_queries": 100.0 * look, "cache_hits": 40.0 * look, "preemptions": float(look // 4)}
        return page(running=2, waiting=1, kv_usage=0.5, **counted, **price)


@dataclass(slots=True)
class LoadServers:
    """Starts them, and remembers for which configurations."""

    patience: int = 0
    page_of: Callable[[int], str] | None = None
    """From how often a server was looked at, this time included, to its page."""
    check: Callable[[], None] = lambda: None
    started: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    _running: list[WatchedServer] = field(default_factory=list)

    def on_step(self, step: str) -> None:
        """Note a step; in one that measures, the servers are watched."""
        self.steps.append(step)
        for server in self._running if step.endswith("at once") else ():
            server.watch()

    @contextmanager
    def __call__(self, pair: EnginePair, configuration: Configuration) -> Iterator[AgentEngines]:
        """Start what `configuration` uses."""
        self.started.append(configuration.name)
        with ExitStack() as stack:
            urls = {}
            self._running = []
            for tier in configuration.tiers:
                server = WatchedServer(
                    tier,
                    sched="sched" in configuration.parts,
                    patience=self.patience,
                    page_of=self.page_of,
                )
                self._running.append(server)
                urls[tier] = stack.enter_context(server).url
            yield AgentEngines(urls=urls, check=self.check)


def load_run(folder: Path, servers: LoadServers, **more: Any) -> LoadRun:
    """Two configurations with 1 and 2 questions at the same time, in `folder`; `more` goes to the options."""
    options = {
        "engines": EnginePair(small=TierEngine(model="owner/small"), large=TierEngine(model="owner/large")),
        "configurations": (CONFIGURATIONS["all"], CONFIGURATIONS["+compress"]),
        "concurrency": (1, 2),
        "questions_per_place": 1,
        "context": Context(report="brief", max_seekers=1, max_turns=2),
        "tool_seconds": 0.0,
        "sample_seconds": 0.01,
        **more,
    }
    world = generate_world(seed=3, questions=8, languages=("en",), hops=(2,))
    docs = folder / "docs"
    write_world(world, docs)
    corpus = Corpus(name="closed-world", questions=world.questions, docs=docs)
    return LoadRun(
        corpora=[corpus], options=LoadOptions(**options), folder=folder / "run", start_engines=servers
    )
