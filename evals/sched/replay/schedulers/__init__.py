"""Schedulers that a replay compares, by name. vLLM is imported when one is made, not before."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerEntry:
    """A scheduler that a replay can make; an instance satisfies `simulation.MakeScheduler`."""

    name: str
    title: str
    """For tables and figures."""
    source: str
    """Where its policy is from."""
    module: str
    factory: str
    """Name of the class, or function, in the module; called with `clock`, `parts` and the options."""
    options: Mapping[str, Any] = field(default_factory=dict)  # Any: of the scheduler

    def __call__(self, clock: Callable[[], float], parts: dict[str, Any]) -> Any:  # Any: objects of vLLM
        """Return the scheduler."""
        make = getattr(importlib.import_module(self.module), self.factory)
        return make(clock, parts, **self.options)


_PACKAGE = "agentinfer_lg.evals.sched.replay.schedulers"

SCHEDULERS: dict[str, SchedulerEntry] = {
    entry.name: entry
    for entry in (
        SchedulerEntry(
            name="fcfs",
            title="FCFS (vLLM)",
            source="vLLM, --scheduling-policy fcfs",
            module=f"{_PACKAGE}.fcfs",
            factory="Fcfs",
        ),
        SchedulerEntry(
            name="sjf-prompt",
            title="SJF (prompt)",
            source="classic; shortest prompt first",
            module=f"{_PACKAGE}.sjf",
            factory="ShortestJobFirst",
            options={"by": "prompt"},
        ),
        SchedulerEntry(
            name="sjf-uncached",
            title="SJF (uncached)",
            source="ROCm/ATOM pull request 2158",
            module=f"{_PACKAGE}.sjf",
            factory="ShortestJobFirst",
            options={"by": "uncached"},
        ),
        SchedulerEntry(
            name="lpm",
            title="LPM (SGLang)",
            source="SGLang, --schedule-policy lpm",
            module=f"{_PACKAGE}.lpm",
            factory="LongestPrefixMatch",
        ),
        SchedulerEntry(
            name="lpm-aging",
            title="LPM with aging",
            source="sgl-project/sglang#31723",
            module=f"{_PACKAGE}.lpm",
            factory="LongestPrefixMatch",
            options={"aging_tokens_per_pass": 1000},
        ),
        SchedulerEntry(
            name="plas",
            title="PLAS (Autellix)",
            source="arXiv 2502.13965; Crystalclear9/Autellix at c7a38cf",
            module=f"{_PACKAGE}.plas",
            factory="Plas",
            options={"unit_seconds": 8.0},
        ),
        SchedulerEntry(
            name="continuum-code",
            title="Continuum (code)",
            source="Hanchenli/vllm-continuum, read in Whrlicht/vllm-continuum at cbd3702",
            module=f"{_PACKAGE}.continuum",
            factory="continuum_code",
        ),
        SchedulerEntry(
            name="continuum-cdf",
            title="Continuum (paper)",
            source="arXiv 2511.02230",
            module=f"{_PACKAGE}.continuum",
            factory="continuum_cdf",
        ),
        SchedulerEntry(
            name="thunderagent",
            title="ThunderAgent",
            source="arXiv 2602.13692; ThunderAgent-org/ThunderAgent at a7eef77",
            module=f"{_PACKAGE}.thunderagent",
            factory="ThunderAgent",
        ),
        SchedulerEntry(
            name="thunderagent-decay",
            title="ThunderAgent (decay)",
            source="as thunderagent, with --use-acting-token-decay",
            module=f"{_PACKAGE}.thunderagent",
            factory="ThunderAgent",
            options={"decay": "resume"},
        ),
        SchedulerEntry(
            name="thunderagent-tuned",
            title="ThunderAgent (tuned)",
            source="as thunderagent, with --acting-token-weight 0.5",
            module=f"{_PACKAGE}.thunderagent",
            factory="ThunderAgent",
            options={"acting_weight": 0.5},
        ),
    )
}
"""All schedulers by name."""


def find_scheduler(name: str) -> SchedulerEntry:
    """Return the scheduler `name`.

    Raises:
        UserInputError: There is none of that name.
    """
    from agentinfer_lg.errors import UserInputError

    try:
        return SCHEDULERS[name]
    except KeyError:
        msg = f"there is no scheduler {name!r}; there are {', '.join(sorted(SCHEDULERS))}"
        raise UserInputError(msg) from None
