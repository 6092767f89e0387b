"""Chart files: panels below each other, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentinfer_lg.errors import UserInputError

Axes = Any  # matplotlib's


def require_matplotlib() -> None:
    """Tell at once, not after hours of measuring, that charts cannot be drawn.

    Raises:
        UserInputError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        msg = "Plots need matplotlib: pip install 'agentinfer-lg[evals]'."
        raise UserInputError(msg)


@contextmanager
def chart_folder(folder: Path) -> Iterator[None]:
    """Make a folder for charts, which are drawn in one style inside the block.

    Raises:
        UserInputError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "agentinfer", "font.size": 9}):
        yield


def save_panels(file: Path, title: str, fill: Callable[[Sequence[Axes]], None], *, panels: int = 1) -> Path:
    """Draw panels that share the horizontal axis into a file, and return it.

    Args:
        file: SVG or PNG.
        title: Above the first panel.
        fill: Draws into the panels; the first one shows the legend.
        panels: How many.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3 + 1.8 * panels), layout="constrained")
    axes: list[Axes] = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    axes[0].set_title(title)
    fill(axes)
    for each in axes:
        each.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize=7, ncols=2)
    return save_figure(figure, file)


def save_figure(figure: Any, file: Path) -> Path:  # Any: matplotlib's
    """Write a figure into an SVG or PNG file, and return it."""
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=150)
    return file
