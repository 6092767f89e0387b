"""The plugin inside a vLLM, without a model: run with that vLLM first on the path, as a process of its own.

    python -m agentinfer_lg.evals.vllm_trial.rehearsal

It prints one JSON object for each step: `{"step": ..., "problem": ...}`, with an empty problem where all is well.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import cycle, islice
from typing import Any

import numpy as np

from agentinfer_lg.evals.sched.replay.engine_parts import model_folder
from agentinfer_lg.evals.sched.replay.hardware import Hardware
from agentinfer_lg.evals.sched.replay.simulation import SimulationResult, simulate
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession
from agentinfer_lg.serving.plugin import fill_engine_args
from agentinfer_lg.serving.sam.vllm.flags import EXTENSION_CLASS, PROPOSER_CLASS
from agentinfer_lg.serving.sched.vllm.flags import SCHEDULER_CLASS

_BLOCK, _CONTEXT, _SESSIONS, _TURNS = 16, 512, 6, 5
_HARDWARE = Hardware(
    name="any",
    weight_bytes=1e9,
    kv_bytes=1e4,
    token_flops=1e9,
    attention_flops=1e3,
    flops_per_second=1e13,
    bytes_per_second=1e11,
    overhead_seconds=0.002,
    kv_tokens=40 * _BLOCK,
    step_tokens=256,
    max_seqs=4,
)
_PATTERN = tuple(range(11, 19))
_READY_SECONDS = 300


def main() -> int:
    """Take all steps and return 0 if there was no problem."""
    logging.getLogger("vllm").setLevel(logging.ERROR)
    problems = 0
    for name, step in STEPS.items():
        try:
            problem = step()
        except Exception as error:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        problems += bool(problem)
        print(json.dumps({"step": name, "problem": problem}), flush=True)
    return 1 if problems else 0


@cache
def _engine_config() -> Any:
    """What vLLM makes of the command line of a server whose environment says `AGENTINFER=1`."""
    from vllm.engine.arg_utils import EngineArgs

    os.environ["AGENTINFER_CONFIG"] = json.dumps({"sam": {"memory": "off", "marginal_cost": 0.0}})
    fill_engine_args(EngineArgs)
    return EngineArgs(
        model=model_folder(), skip_tokenizer_init=True, max_model_len=_CONTEXT, enforce_eager=True
    ).create_engine_config()


def _configure() -> str:
    """vLLM's configuration takes the parts that the plugin fills in."""
    config = _engine_config()
    found = (
        config.scheduler_config.scheduler_cls,
        config.parallel_config.worker_extension_cls,
        config.speculative_config.model if config.speculative_config is not None else None,
    )
    wanted = (SCHEDULER_CLASS, EXTENSION_CLASS, PROPOSER_CLASS)
    missing = [name for name, value in zip(wanted, found, strict=True) if value != name]
    return f"the configuration is without {', '.join(missing)}" if missing else ""


def _schedule() -> str:
    """Sessions that do not fit into the cache together are served to their ends, with more hits than vLLM alone."""
    from agentinfer_lg.serving.sched.vllm.factory import make_scheduler

    theirs, ours = _replay(_plain_scheduler), _replay(make_scheduler)
    errors = ours.figures.get("errors", 0)
    if errors:
        return f"AgentSched failed {errors:.0f} times, and vLLM went on without it"
    expected = _SESSIONS * _TURNS
    finished = [sum(call.finished >= 0 for call in result.calls) for result in (theirs, ours)]
    if finished != [expected, expected]:
        return f"of {expected} requests {finished[0]} were finished with vLLM's scheduler, {finished[1]} with AgentSched"
    hits = [sum(call.hit_tokens for call in result.calls) for result in (theirs, ours)]
    return (
        "" if hits[1] > hits[0] else f"{hits[1]} tokens came from the cache, with vLLM's scheduler {hits[0]}"
    )


def _draft() -> str:
    """The proposer that vLLM makes drafts what follows from the text."""
    from vllm.v1.spec_decode.custom_class_proposer import create_custom_proposer

    proposer = create_custom_proposer(_engine_config())
    deadline = time.monotonic() + _READY_SECONDS
    while not proposer.stats().get("ready"):
        if proposer.stats().get("errors") or time.monotonic() > deadline:
            return "AgentSAM does not become ready"
        time.sleep(0.1)
    tokens = np.zeros((4, _CONTEXT), np.int32)
    length = 10 * len(_PATTERN)
    row = list(islice(cycle(_PATTERN), length + 64))
    for step in range(64):  # what was read is indexed in the background
        tokens[0, : length + step] = row[: length + step]
        lengths = np.array([length + step, 0, 0, 0], np.int32)
        (draft,) = proposer.propose([[row[length + step - 1]]], lengths, tokens)
        if draft:
            return "" if draft == row[length + step :][: len(draft)] else f"AgentSAM drafted {draft}"
        time.sleep(0.05)
    return "AgentSAM drafts nothing"


STEPS: dict[str, Callable[[], str]] = {"configure": _configure, "schedule": _schedule, "draft": _draft}
"""Steps by name; each returns what is wrong."""


def _plain_scheduler(**parts: Any) -> Any:
    from vllm.v1.core.sched.scheduler import Scheduler

    return Scheduler(**parts)


def _replay(make: Callable[..., Any]) -> SimulationResult:
    def make_with_clock(clock: Callable[[], float], parts: dict[str, Any]) -> Any:
        scheduler = make(**parts)
        scheduler.clock = clock
        return scheduler

    return simulate(_workload(), make_with_clock, _HARDWARE, max_model_len=_CONTEXT)


def _workload() -> Workload:
    """Sessions that each grow to a third of the cache, with tools of a second in between."""
    sessions = []
    for number in range(_SESSIONS):
        calls = []
        for turn in range(_TURNS):
            prompt, output = (4 + 2 * turn) * _BLOCK, _BLOCK
            blocks = np.arange((prompt + output) // _BLOCK, dtype=np.int64) + 1000 * (number + 1)
            calls.append(
                Call(
                    prompt_tokens=prompt,
                    output_tokens=output,
                    block_ids=blocks,
                    gap_seconds=0.2,
                    known_tokens=max(0, prompt - _BLOCK) if turn else 0,
                    last=turn == _TURNS - 1,
                )
            )
        sessions.append(WorkloadSession(name=f"s{number}", calls=tuple(calls)))
    starts = tuple(0.01 * number for number in range(_SESSIONS))
    return Workload(name="rehearsal", block_size=_BLOCK, sessions=tuple(sessions), start_seconds=starts)


if __name__ == "__main__":
    sys.exit(main())
