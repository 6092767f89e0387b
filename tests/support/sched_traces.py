"""Small made-up traces for replays against schedulers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from agentinfer_lg.evals.sched.replay.hardware import Hardware

__all__ = ("SMALL", "write_coding_traces")

SMALL = Hardware(
    name="small",
    weight_bytes=1e9,
    kv_bytes=1e4,
    token_flops=1e9,
    attention_flops=1e4,
    flops_per_second=1e13,
    bytes_per_second=1e11,
    overhead_seconds=0.002,
    kv_tokens=20_000,
    step_tokens=2048,
    max_seqs=16,
)
"""A machine whose cache holds two or three of the sessions."""


def write_coding_traces(folder: Path, *, sessions: int = 12, calls: int = 9, seed: int = 0) -> Path:
    """Write sessions that grow from 1K to some 8K tokens, with tools that take seconds; return `folder`."""
    rng = random.Random(seed)
    (folder / "coding-agent-traces").mkdir(parents=True)
    lines = [json.dumps(_trace(number, calls, rng)) + "\n" for number in range(sessions)]
    file = folder / "coding-agent-traces" / "traces_delta_00.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    return folder


def _trace(number: int, calls: int, rng: random.Random) -> dict[str, Any]:  # Any: JSON
    requests: list[dict[str, Any]] = []
    before = tokens = 0
    for _ in range(calls):
        tokens += rng.randint(500, 1200)
        blocks = tokens // 64
        requests.append(
            {
                "in": tokens,
                "out": rng.randint(20, 120),
                "think_time": rng.choice([2.0, 6.0, 8.0, 30.0]),
                "input_types": ["tool_result"],
                "h": [before, [[before, blocks - before]]],
            }
        )
        before = blocks
    if number % 4 == 0:
        nested = [{"in": 640, "out": 30, "think_time": 1.0, "h": [0, [[500, 10]]]}]
        requests.insert(4, {"requests": nested})
    return {
        "id": f"trace_{number:04}",
        "block_size": 64,
        "tool_tokens": 256,
        "system_tokens": 64 * (number % 2),
        "requests": requests,
    }
