"""What the scheduler remembers of a request from its arrival to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sched.policy.session import Session

Request = Any  # has `request_id`, `block_hashes` and `num_tokens`, as a Request of vLLM


@dataclass(slots=True, eq=False)
class RequestInfo:
    """A request and what is known about it. Lengths in blocks, times in seconds."""

    request: Request
    hints: SessionHints
    session: Session | None
    arrival: float
    hit_blocks: int = 0
    """Blocks of its prompt that are cached."""
    common_blocks: int = 0
    """Those of them that other sessions have too."""
    need_blocks: int = 0
    """New blocks that it needs."""
    total_blocks: int = 0
    """Blocks of its prompt."""
    looked: int = -1
    """Number of the plan in which the cache was last asked; -1: never."""
    score: float = 0.0
    must: bool = False
    """It comes first, because it has waited long enough or has been preempted."""
    started: bool = False
    """It has been let in at least once."""
