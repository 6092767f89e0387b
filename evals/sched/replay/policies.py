"""Policies that `agentinfer bench sched` compares, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay.schedulers import SCHEDULERS
from agentinfer_lg.evals.sched.replay.simulation import MakeScheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A scheduler and its settings."""

    name: str
    make: MakeScheduler
    settings: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON


def agentsched(clock: Callable[[], float], parts: dict[str, Any]) -> Any:  # Any: objects of vLLM
    """Return AgentSched on simulated time."""
    from agentinfer_lg.serving.sched.vllm.factory import make_scheduler

    scheduler = make_scheduler(**parts)
    scheduler.clock = clock
    return scheduler


_EXACT = {"overhead_share": 0.0}
"""Every step is planned: how long planning takes on this machine must not matter on simulated time."""

OURS: Mapping[str, Mapping[str, Any]] = {
    "agentsched": _EXACT,
    "agentsched-order": {**_EXACT, "retention": "off", "admission": False, "victims": False},
    "agentsched-retention": {**_EXACT, "admission": False},
    "agentsched-patient": {**_EXACT, "round_share": 1.5},
    "agentsched-throughput": {**_EXACT, "max_wait_seconds": 1800.0, "round_share": 0.0},
    "agentsched-adaptive": {**_EXACT, "tuning": "adaptive"},
    "agentsched-hard": {**_EXACT, "retention": "hard"},
}
"""AgentSched by settings: as it is by default; its order alone; order with retention; with a longer bound on waits; with
that of ThunderAgent; with a self-tuned price; with hard pins."""


def policy_names() -> tuple[str, ...]:
    """Return all names: the others' policies, then ours."""
    return (*SCHEDULERS, *OURS)


def find_policy(name: str) -> Policy:
    """Return the policy `name`.

    Raises:
        UserInputError: There is none of that name.
    """
    if name in OURS:
        return Policy(name=name, make=agentsched, settings=OURS[name])
    if name in SCHEDULERS:
        return Policy(name=name, make=SCHEDULERS[name])
    msg = f"there is no policy {name!r}; there are {', '.join(policy_names())}"
    raise UserInputError(msg)
