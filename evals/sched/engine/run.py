"""Schedulers on the same real engine, next to what the replay predicts for them.

One server per scheduler is loaded, and one at a time runs. Each round is another workload of recorded sessions, shrunk to
what a small model on a small machine can serve; every scheduler runs it, and the order of the schedulers rotates. The
same workloads go through the replay, with the same KV cache on a machine that was fitted to a real one.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from agentinfer_lg.evals.common.engine_client import EngineClient, http_client
from agentinfer_lg.evals.common.metrics_page import read_sched_series
from agentinfer_lg.evals.datasets.agent_traces import TraceSession
from agentinfer_lg.evals.sam.engine.run import Engines
from agentinfer_lg.evals.sched.engine.client import WorkloadClient
from agentinfer_lg.evals.sched.engine.workload import Scale, shrunk_workload
from agentinfer_lg.evals.sched.replay.figures import Measured, measure
from agentinfer_lg.evals.sched.replay.hardware import find_preset
from agentinfer_lg.evals.sched.replay.policies import find_policy
from agentinfer_lg.evals.sched.replay.simulation import simulate
from agentinfer_lg.evals.sched.replay.workload import Workload
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.sched.config import SchedConfig

Policy = Literal["fcfs", "agentsched"]
"""vLLM's scheduler as it is, and ours."""

POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedEngineOptions:
    """What is run."""

    model: str
    """Model folder or name on the hub."""
    preset: str = "cpu-smollm2-135m"
    """Machine of the prediction."""
    places: int = 8
    """Sessions at the same time."""
    sessions: int = 12
    """Sessions per round."""
    rounds: int = 3
    kv_tokens: int = 16_384
    """KV cache, in tokens."""
    max_model_len: int = 4096
    scale: Scale = field(default_factory=Scale)
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Of AgentSched, where they are not the default."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One workload under one scheduler."""

    policy: Policy
    number: int
    predicted: Measured
    measured: Measured | None = None
    """None until it has run."""


@dataclass(slots=True, kw_only=True)
class SchedEngineBenchmark:
    """The whole measurement; whatever interrupts it, `rounds` holds what was done until then."""

    sessions: Sequence[TraceSession]
    options: SchedEngineOptions
    policies: Sequence[Policy] = POLICIES
    rounds: list[Round] = field(default_factory=list)

    def run(self, *, on_step: Callable[[str], None] = lambda step: None) -> None:
        """Predict all rounds, and then measure them.

        Args:
            on_step: Called before each step with what it is; there are `steps` of them.

        Raises:
            EngineError: A server does not start, or fails.
            UserInputError: There are too few sessions, or no such machine.
        """
        workloads = [self._workload(number) for number in range(self.options.rounds)]
        with _another_process() as process:
            for number, workload in enumerate(workloads):
                for policy in self.policies:
                    on_step(f"predicting round {number + 1}: {policy}")
                    predicted = process.submit(_predict, policy, workload, self.options).result()
                    self.rounds.append(Round(policy=policy, number=number, predicted=predicted))
        with Engines(self._serve_options) as engines:
            for policy in self.policies:
                on_step(f"loading the engine: {policy}")
                engines.start(policy)
            for number, workload in enumerate(workloads):
                for policy in _rotated(self.policies, number):
                    on_step(f"round {number + 1} of {len(workloads)}: {policy}")
                    self._measure(engines, policy, number, workload)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return len(self.policies) * (2 * self.options.rounds + 1)

    def _workload(self, number: int) -> Workload:
        return shrunk_workload(
            self.sessions,
            scale=self.options.scale,
            concurrency=self.options.places,
            count=self.options.sessions,
            seed=self.options.seed + number,
        )

    def _measure(self, engines: Engines[Policy], policy: Policy, number: int, workload: Workload) -> None:
        with engines.awake(policy) as server:
            measured = asyncio.run(
                _run(server, workload, shared=self.options.scale.shared_tokens, salt=f"round {number}")
            )
        self.rounds = [
            replace(each, measured=measured) if (each.policy, each.number) == (policy, number) else each
            for each in self.rounds
        ]

    def _serve_options(self, policy: Policy) -> ServeOptions:
        preset, block_size = find_preset(self.options.preset), self.options.scale.block_size
        blocks = self.options.kv_tokens // block_size + 1  # vLLM never uses the first one
        return ServeOptions(
            model=self.options.model,
            served_model_name="model",
            port=0,
            max_model_len=self.options.max_model_len,
            max_num_seqs=preset.max_seqs,
            kv_cache_gib=1.0,
            block_size=block_size,
            tool_call_parser="none",
            sam=None,
            sched=SchedConfig.parse(_settings(policy, self.options)) if policy == "agentsched" else None,
            extra_args=(
                *("--max-num-batched-tokens", str(preset.step_tokens)),
                *("--num-gpu-blocks-override", str(blocks)),
            ),
        )


def _another_process() -> ProcessPoolExecutor:
    """A process for predictions: importing vLLM leaves traces in the environment that servers would inherit."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_quieten)


def _quieten() -> None:
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it tells about devices that a replay does not need


def _predict(policy: Policy, workload: Workload, options: SchedEngineOptions) -> Measured:
    result = simulate(
        workload,
        find_policy(policy).make,
        find_preset(options.preset),
        kv_tokens=options.kv_tokens,
        max_model_len=options.max_model_len,
        settings=_settings(policy, options) or None,
        exact=True,
    )
    return measure(result)


def _settings(policy: Policy, options: SchedEngineOptions) -> dict[str, str | int | float | bool]:
    return dict(options.settings) if policy == "agentsched" else {}


async def _run(server: Server, workload: Workload, *, shared: int, salt: str) -> Measured:
    plain = EngineClient(base_url=server.base_url, model=server.model, outputs="own")
    await plain.wake()
    before = await plain.counters()
    client = WorkloadClient(
        base_url=server.base_url, model=server.model, workload=workload, shared_tokens=shared, salt=salt
    )
    result = await client.run()
    counted = (await plain.counters()).since(before)
    result.figures = await _own_figures(server)
    return replace(measure(result), preemptions=round(counted.preempted))


async def _own_figures(server: Server) -> dict[str, float]:
    """AgentSched's counters and gauges at the end of a round; counters are those since the start of the server."""
    async with http_client() as http:
        response = await http.get(f"{server.base_url.removesuffix('/v1')}/metrics")
        return read_sched_series(response.raise_for_status().text)


def _rotated(policies: Sequence[Policy], number: int) -> list[Policy]:
    first = number % len(policies)
    return [*policies[first:], *policies[:first]]
