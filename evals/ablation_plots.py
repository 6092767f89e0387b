"""Charts of `agentinfer bench ablation`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentinfer_lg.evals.ablation import Cell

__all__ = ("draw_ablation",)


def draw_ablation(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Draw all charts; returns the files."""
    raise NotImplementedError
