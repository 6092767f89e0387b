"""The profile of a run: where time and tokens went, over all of its finished questions, and what its servers counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.agent.benchmark.figures import (
    Breakdown,
    Phase,
    Phases,
    TurnTimes,
    break_down,
    combined,
)
from agentinfer_lg.evals.agent.benchmark.folder import Asked, load_results, read_asked
from agentinfer_lg.evals.agent.benchmark.segments import read_segments
from agentinfer_lg.evals.common.metrics_page import ServerFigures

_SINGLE_TURNS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnGroup:
    """Turns of all agents with the same number; the late ones together."""

    name: str
    """Counted from 1, as people do: `1`, `2`, ... `12`, `13+`."""
    turns: int
    useful: int
    seconds: Phases
    """Mean per turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What became of the time and the tokens of a run."""

    breakdown: Breakdown
    """All questions added up."""
    servers: dict[str, ServerFigures]
    """By tier; everything that the server did meanwhile, also for others. Empty where no server has such figures."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return it as a JSON object, without the single turns."""
        whole = self.breakdown.to_json()
        turns = whole.pop("turns")
        return {
            **whole,
            "turns": len(turns),
            "useful_turns": sum(turn["useful"] for turn in turns),
            "turn_groups": [asdict(group) for group in turn_groups(self.breakdown.turns)],
            "servers": {
                name: asdict(each) | {"hit_rate": each.hit_rate, "ote": each.ote, "shr": each.shr}
                for name, each in self.servers.items()
            },
        }


def profile_run(folder: Path) -> Profile:
    """Profile what is finished of a run.

    Raises:
        UserInputError: The folder is no run, or one of an earlier version, without traces.
    """
    questions = read_asked(folder)
    results = load_results(folder)
    traced = {name: result for name, result in results.items() if "trace" in result}
    if not traced:
        msg = f"{folder} holds a run of an earlier version, whose results have no trace. Run it again in another folder."
        raise UserInputError(msg)
    nothing = Asked(answers=())
    parts = (
        break_down(result, evidence=questions.get(name, nothing).evidence) for name, result in traced.items()
    )
    return Profile(breakdown=combined(parts), servers=read_segments(folder))


def turn_groups(turns: Sequence[TurnTimes]) -> list[TurnGroup]:
    """Return the turns by their number, up to the 12th one by one, the later ones together."""
    groups: dict[int, list[TurnTimes]] = {}
    for turn in turns:
        groups.setdefault(min(turn.turn, _SINGLE_TURNS), []).append(turn)
    return [
        TurnGroup(
            name=str(number + 1) if number < _SINGLE_TURNS else f"{_SINGLE_TURNS + 1}+",
            turns=len(group),
            useful=sum(turn.useful for turn in group),
            seconds=_mean(group),
        )
        for number, group in sorted(groups.items())
    ]


def _mean(group: Sequence[TurnTimes]) -> Phases:
    total = sum((turn.phases for turn in group), Phases())
    return Phases(**{name: getattr(total, name) / len(group) for name in get_args(Phase)})
