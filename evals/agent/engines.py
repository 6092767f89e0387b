"""The servers of the two tiers, started as a configuration wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from agentinfer_lg.evals.agent.configurations import Configuration
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.settings import EndpointSettings, Settings, Tier

_START_SECONDS = 1800.0
_CHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TierEngine:
    """The server of one tier."""

    model: str
    """Model folder or name on the hub."""
    kv_cache_gib: float | None = None
    args: tuple[str, ...] = ()
    """More arguments for vLLM; they win."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More variables, for instance which devices it sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePair:
    """How both are served; the same for all configurations but for the parts that these switch."""

    small: TierEngine
    large: TierEngine
    max_model_len: int | None = 16_384
    max_num_seqs: int | None = 64

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object; of variables the names only, for their values may be secret."""
        content = asdict(self)
        for tier in ("small", "large"):
            content[tier]["environment"] = sorted(content[tier]["environment"])
        return content

    def serve_options(self, tier: Tier, configuration: Configuration) -> ServeOptions:
        """Return how the server of `tier` is started. What AgentSAM remembers ends with the server."""
        engine = self.small if tier == "small" else self.large
        return ServeOptions(
            model=engine.model,
            served_model_name=tier,
            port=0,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            kv_cache_gib=engine.kv_cache_gib,
            tool_call_parser="none",
            sam=SamConfig(memory="off") if "sam" in configuration.parts else None,
            sched=SchedConfig() if "sched" in configuration.parts else None,
            extra_args=engine.args,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEngines:
    """Running servers."""

    urls: Mapping[Tier, str]
    """Base URL of the API of each tier, ending in `/v1`; its model is served under the name of the tier."""
    check: Callable[[], None] = lambda: None
    """Raises `EngineError`, with the end of its log, if a server has died."""

    def settings(self) -> Settings:
        """Return the agent's settings: these endpoints, and nothing from the environment."""
        endpoints = {
            tier: EndpointSettings(base_url=url, model=tier, tool_calling="json", hints="on")
            for tier, url in self.urls.items()
        }
        # `Settings()` would read variables: an endpoint named there would become that of a tier without a server here.
        return Settings.model_construct(None, **endpoints)


StartEngines = Callable[[EnginePair, Configuration], AbstractContextManager[AgentEngines]]
"""Starts the servers that a configuration uses; they are gone at the end of the block."""


@contextmanager
def agent_engines(
    pair: EnginePair,
    configuration: Configuration,
    *,
    on_progress: Callable[[float, str], None] | None = None,
) -> Iterator[AgentEngines]:
    """Start the servers that a configuration uses, at the same time, and stop them at the end of the block.

    Raises:
        EngineError: One does not start.
    """
    with ExitStack() as stack:
        servers: dict[Tier, Server] = {}
        for tier in configuration.tiers:
            engine = pair.small if tier == "small" else pair.large
            servers[tier] = stack.enter_context(
                Server(pair.serve_options(tier, configuration), environment=engine.environment)
            )
        for server in servers.values():
            server.wait_ready(_START_SECONDS, on_progress)

        def check() -> None:
            for server in servers.values():
                server.wait_ready(timeout=_CHECK_SECONDS)

        yield AgentEngines(urls={tier: server.base_url for tier, server in servers.items()}, check=check)
