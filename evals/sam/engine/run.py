"""Variants of speculation on the same real engine, side by side: latency, time to first token, throughput.

All servers are loaded, and one at a time runs: the others are stopped (SIGSTOP), so that not even their waiting
takes time. What they do is told by `agentinfer_lg.evals.sam.engine.plan`, how it is timed by
`agentinfer_lg.evals.common.engine_client`, and what comes out by `agentinfer_lg.evals.sam.engine.figures`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

import httpx

from agentinfer_lg.errors import AgentInferError, EngineError
from agentinfer_lg.evals.common.engine_client import EngineClient
from agentinfer_lg.evals.sam.engine.figures import Run
from agentinfer_lg.evals.sam.engine.plan import Outputs, Piece, Spec, rotated, speculation_config
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.sam.config import SamConfig

_START_SECONDS = 900.0
_SLACK = 64
"""Tokens of context beyond the longest session; close to its end vLLM drafts no more, for any request."""

_ENVIRONMENT = {"NUMBA_THREADING_LAYER": "workqueue"}
"""vLLM's n-gram proposer sets numba's number of threads to one. Where numba uses OpenMP, as it does by default, that
is also the number of threads that the model computes with on a CPU: its server would run another engine than the
others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the servers are started, and what they write."""

    model: str
    """Model folder or name on the hub."""
    outputs: Outputs = "recorded"
    k: int = 16
    """Most drafted tokens per step."""
    max_context: int = 4096
    max_batch: int = 32
    kv_cache_gib: float | None = 1.0
    """Per server; as in `agentinfer serve`."""
    dtype: str = "auto"
    interval: float = 0.0
    """As in `EngineClient`."""


Name = TypeVar("Name", bound=str)


class Engines(Generic[Name]):
    """One server per variant, of which at most one is awake."""

    def __init__(self, serve_options: Callable[[Name], ServeOptions]) -> None:
        """Start nothing yet.

        Args:
            serve_options: How the server of a variant is started.
        """
        self._serve_options = serve_options
        self._servers: dict[Name, Server] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self._servers):
            self.drop(name)

    def start(self, name: Name, on_progress: Callable[[float, str], None] | None = None) -> None:
        """Start the server of a variant and put it to sleep.

        Raises:
            EngineError: It does not start.
        """
        server = Server(self._serve_options(name))
        self._servers[name] = server
        with _variables(_ENVIRONMENT):
            server.start()
        server.wait_ready(_START_SECONDS, on_progress)
        _send(server, signal.SIGSTOP)

    @contextlib.contextmanager
    def awake(self, name: Name) -> Iterator[Server]:
        """Let the server of a variant run inside the block.

        Raises:
            EngineError: A request failed, or the server died.
        """
        server = self._servers[name]
        _send(server, signal.SIGCONT)
        try:
            yield server
        except httpx.HTTPError as error:
            died = server.pid is None
            msg = server.last_words() if died else f"a request failed ({type(error).__name__}: {error})"
            raise EngineError(msg) from error
        finally:
            _send(server, signal.SIGSTOP)

    def drop(self, name: Name) -> None:
        """Stop the server of a variant for good."""
        server = self._servers.pop(name, None)
        if server is not None:
            _send(server, signal.SIGCONT)  # a sleeping process does not hear that it should end
            server.stop()


@dataclass(slots=True, kw_only=True)
class EngineBenchmark:
    """The whole measurement; whatever interrupts it, `runs` holds what was measured until then."""

    specs: Sequence[Spec]
    options: EngineOptions
    runs: list[Run] = field(default_factory=list)
    left_out: dict[Spec, str] = field(default_factory=dict)
    """Variants that could not be run, or not to the end, and why; the others went on."""

    def run(self, pieces: Sequence[Piece], *, on_step: Callable[[str], None] = lambda step: None) -> None:
        """Run every piece on every variant.

        Args:
            pieces: What to run, in this order.
            on_step: Called before each step with what it is.
        """
        with Engines(self._serve_options) as engines:
            for spec in self.specs:
                on_step(f"loading the engine: {spec}")
                with self._leaving_out(engines, spec):
                    engines.start(_possible(spec))
            for piece in pieces:
                for spec in rotated(self._left(), piece.number):
                    on_step(_announce(spec, piece, of=pieces[-1].number))
                    with self._leaving_out(engines, spec):
                        self._measure(engines, spec, piece)

    def _serve_options(self, spec: Spec) -> ServeOptions:
        return _serve_options(spec, self.options)

    def _left(self) -> list[Spec]:
        return [spec for spec in self.specs if spec not in self.left_out]

    @contextlib.contextmanager
    def _leaving_out(self, engines: Engines[Spec], spec: Spec) -> Iterator[None]:
        """Leave the variant out from now on if the block fails."""
        try:
            yield
        except AgentInferError as error:
            self.left_out[spec] = str(error)
            engines.drop(spec)

    def _measure(self, engines: Engines[Spec], spec: Spec, piece: Piece) -> None:
        with engines.awake(spec) as server:
            client = EngineClient(
                base_url=server.base_url,
                model=server.model,
                outputs=self.options.outputs,
                interval=self.options.interval if piece.measured else 0.0,
            )
            run = asyncio.run(_run(client, spec, piece))
            if not piece.measured and spec != "none" and not run.counters.drafted:
                msg = f"it drafted nothing in {len(run.requests)} requests{_last_complaint(server)}"
                raise EngineError(msg)
        if piece.measured:
            self.runs.append(run)


async def _run(client: EngineClient, spec: Spec, piece: Piece) -> Run:
    await client.wake()
    before = await client.counters()
    started = time.perf_counter()
    requests = await client.replay(piece.sessions, batch=piece.batch, name=str(piece.number))
    seconds = time.perf_counter() - started
    counted = (await client.counters()).since(before)
    return Run(
        spec=spec,
        piece=piece.number,
        batch=piece.batch,
        seconds=seconds,
        requests=tuple(requests),
        counters=counted,
    )


def _announce(spec: Spec, piece: Piece, *, of: int) -> str:
    if not piece.measured:
        return f"warming up, {len(piece.sessions)} sessions: {spec}"
    return f"{piece.batch} at once, group {piece.number} of {of}: {spec}"


def _possible(spec: Spec) -> Spec:
    """Return `spec`, if what it needs is installed.

    Raises:
        EngineError: It is not.
    """
    if spec == "suffix" and importlib.util.find_spec("arctic_inference") is None:
        msg = "suffix decoding needs the package arctic-inference: pip install arctic-inference"
        raise EngineError(msg)
    return spec


def _last_complaint(server: Server) -> str:
    """The last warning in the log of a server, as the end of a sentence."""
    if server.log_path is None or not server.log_path.exists():
        return ""
    lines = server.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    complaints = [line for line in lines if " WARNING " in line or " ERROR " in line]
    return f"; its log says: {complaints[-1][-300:]}" if complaints else ""


def _serve_options(spec: Spec, options: EngineOptions) -> ServeOptions:
    speculation = speculation_config(spec, k=options.k)
    extra = ["--dtype", options.dtype]
    if speculation is not None:
        extra += ["--speculative-config", json.dumps(speculation)]
    if options.outputs == "recorded":
        extra += ["--worker-extension-cls", "agentinfer_lg.evals.sam.engine.extension.ForcedOutputs"]
    return ServeOptions(
        model=options.model,
        served_model_name="model",
        sam=SamConfig(max_draft=options.k, memory="off") if spec == "ours" else None,
        sched=None,  # drafters alone are compared
        port=0,
        max_model_len=options.max_context + _SLACK,
        max_num_seqs=options.max_batch,
        kv_cache_gib=options.kv_cache_gib,
        tool_call_parser="none",
        extra_args=tuple(extra),
    )


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Add variables to the environment that processes inherit; those that are set already stay as they are."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _send(server: Server, number: signal.Signals) -> None:
    """Send a signal to all processes of a server."""
    if server.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
