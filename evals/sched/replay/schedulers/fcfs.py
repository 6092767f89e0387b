"""First come, first served: vLLM's default.

Source: vLLM, `--scheduling-policy fcfs`. Nothing is simplified: this is vLLM's own scheduler. The first waiting request that
does not fit blocks those behind it; the request admitted last is preempted first and goes to the front of the queue.
"""

from __future__ import annotations

from agentinfer_lg.evals.sched.replay.schedulers.base import RivalScheduler


class Fcfs(RivalScheduler):
    """vLLM's order, unchanged."""
