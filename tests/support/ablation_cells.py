"""Hand-made cells of an ablation, whose figures are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentinfer_lg.evals.agent.ablation.run import Cell
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS

__all__ = ("cell", "many_cells", "record")

ROLES = ("plan", "think", "progress", "qa", "write")


def record(
    name: str,
    seconds: float,
    *,
    correct: bool = True,
    failed: bool = False,
    prompt: int = 1000,
    cached: int = 0,
    useful: bool = True,
    benchmark: str = "made-up",
) -> dict[str, Any]:
    """A question of one turn, with a call of each role; its Think step reads and writes all of the tokens."""
    return {
        "benchmark": benchmark,
        "id": name,
        "evidence": [],
        "answers": ["Oslo"],
        "correct": correct and not failed,
        "f1": float(correct and not failed),
        "seconds": seconds,
        "failure": "the endpoint is lost" if failed else "",
        "result": None if failed else _result(seconds, prompt, cached, useful=useful),
    }


def _result(seconds: float, prompt: int, cached: int, *, useful: bool) -> dict[str, Any]:
    step = seconds / 10
    calls = [
        {
            "agent": "planner" if role in ("plan", "write") else "seeker-1",
            "turn": 1,
            "role": role,
            "tier": "large",
            "model": "large",
            "prompt_tokens": prompt if role == "think" else 0,
            "cached_tokens": cached if role == "think" else 0,
            "output_tokens": 100 if role == "think" else 0,
            "started": start * step,
            "seconds": length * step,
            "reprefill_tokens": 0,
        }
        for role, start, length in zip(ROLES, (0, 1, 4, 7, 9), (1, 3, 1, 1.5, 1), strict=True)
    ]
    tool = {"agent": "seeker-1", "turn": 1, "tool": "search", "started": 5 * step, "seconds": 2 * step}
    return {
        "question": "?",
        "answer": "Oslo",
        "sources": [],
        "findings": [],
        "filters": [],
        "seconds": {"total": seconds},
        "trace": {
            "calls": calls,
            "tools": [{**tool, "ok": True, "results": 1}],
            "rounds": [
                {"agent": "seeker-1", "turn": 1, "shown": {}, "new_evidence": useful, "accepted": useful}
            ],
        },
    }


def cell(
    configuration: str,
    n: int,
    records: Sequence[dict[str, Any]],
    *,
    block: int = 0,
    seconds: float | None = None,
    servers: Mapping[str, Mapping[str, float]] | None = None,
) -> Cell:
    """A cell that took as long as its questions one after the other, unless said otherwise."""
    return Cell(
        block=block,
        configuration=configuration,
        n=n,
        seconds=seconds if seconds is not None else sum(each["seconds"] for each in records),
        questions=list(records),
        servers={tier: dict(figures) for tier, figures in (servers or {}).items()},
    )


def many_cells(places: Sequence[int] = (1, 4, 8, 16)) -> list[Cell]:
    """All configurations at several N; later ones are faster and compute less."""
    return [
        cell(
            name,
            n,
            [
                record(
                    f"q{number}",
                    (30 - 2.5 * position) * (1 + 0.15 * number) * n**0.5,
                    prompt=9000 - 500 * position,
                    cached=2000 + 300 * position,
                    useful=number % 3 > 0,
                )
                for number in range(6)
            ],
            seconds=(200 - 12 * position) / n**0.4,
        )
        for n in places
        for position, name in enumerate(CONFIGURATIONS)
    ]
