"""Schedulers that a replay compares, by name. vLLM is imported when one is made, not before."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ("SCHEDULERS", "SchedulerEntry", "find_scheduler")


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


_PACKAGE = "agentinfer_lg.evals.replay.schedulers"

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
            name="thunderagent",
            title="ThunderAgent",
            source="arXiv 2602.13692; ThunderAgent-org/ThunderAgent at a7eef77",
            module=f"{_PACKAGE}.thunderagent",
            factory="ThunderAgent",
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
