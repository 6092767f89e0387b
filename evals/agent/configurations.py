"""The parts of the system, and the configurations that an ablation compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentinfer_lg.errors import UserInputError

Part = Literal["collab", "compress", "sched", "sam"]
"""AgentCollab and AgentCompress are switched in the agent, AgentSched and AgentSAM in the servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One way to answer questions."""

    name: str
    parts: frozenset[Part] = frozenset()
    agent: bool = True
    """False: the large model reads what one search finds, once."""

    @property
    def tiers(self) -> tuple[Literal["small", "large"], ...]:
        """The models that it uses. Without AgentCollab the large one does everything, also what AgentCompress asks for."""
        return ("small", "large") if "collab" in self.parts else ("large",)

    def knobs(self) -> dict[str, Any]:  # Any: values of `Context`
        """Return the knobs of the agent that make it so; how AgentCompress works where it is on, the caller's knobs say."""
        knobs = {"policy": "agentcollab" if "collab" in self.parts else "always-large"}
        return knobs if "compress" in self.parts else {**knobs, "compression": "off", "search_filter": "off"}


def _configuration(name: str, *parts: Part, agent: bool = True) -> Configuration:
    return Configuration(name=name, parts=frozenset(parts), agent=agent)


CONFIGURATIONS: Mapping[str, Configuration] = {
    each.name: each
    for each in (
        _configuration("one-shot", agent=False),
        _configuration("baseline"),
        _configuration("+collab", "collab"),
        _configuration("+compress", "collab", "compress"),
        _configuration("+sched", "collab", "compress", "sched"),
        _configuration("all", "collab", "compress", "sched", "sam"),
        _configuration("all-collab", "compress", "sched", "sam"),
        _configuration("all-compress", "collab", "sched", "sam"),
        _configuration("all-sched", "collab", "compress", "sam"),
    )
}
"""By name. Each `+` adds a part to the one before, beginning with `baseline`: the large model alone on plain vLLM; `all` adds
AgentSAM. `all-x` is everything without x; without AgentSAM that is `+sched`."""


def find_configuration(name: str) -> Configuration:
    """Return the configuration called `name`.

    Raises:
        UserInputError: There is none.
    """
    try:
        return CONFIGURATIONS[name]
    except KeyError:
        msg = f"There is no configuration {name!r}. There are: {', '.join(CONFIGURATIONS)}."
        raise UserInputError(msg) from None
