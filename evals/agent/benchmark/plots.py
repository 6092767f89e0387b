"""The chart of a profile: seconds per turn by phase, computed tokens per component by use."""

from __future__ import annotations

from pathlib import Path

from agentinfer_lg.evals.agent.benchmark.figures import Phase
from agentinfer_lg.evals.agent.benchmark.profile import Profile, turn_groups
from agentinfer_lg.evals.common.charts import Axes, chart_folder, save_figure

_COLOURS: dict[Phase, str] = {
    "think": "#4477aa",
    "progress": "#aa3377",
    "act": "#ccbb44",
    "observe": "#228833",
    "wait": "#bbbbbb",
    "distill": "white",
}
_USEFUL, _INEFFECTIVE = "#66ccee", "#ee6677"


def draw_profile(profile: Profile, file: Path) -> Path:
    """Draw both panels.

    Args:
        profile: What is drawn.
        file: Ends in `.svg` or `.png`; its folder is made if need be.

    Returns:
        The file.

    Raises:
        UserInputError: matplotlib is not installed.
    """
    with chart_folder(file.parent):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.2), layout="constrained")
        turns, components = figure.subplots(1, 2, width_ratios=(6, 5))
        _turns(turns, profile)
        _components(components, profile)
        return save_figure(figure, file)


def _turns(axes: Axes, profile: Profile) -> None:
    groups = turn_groups(profile.breakdown.turns)
    names = [f"{group.name}\n{group.turns}" for group in groups]
    bottom = [0.0] * len(groups)
    for phase, colour in _COLOURS.items():
        seconds = [getattr(group.seconds, phase) for group in groups]
        if not any(seconds):
            continue
        # Beside the others, not after them: hatched on top.
        background = {"hatch": "////", "edgecolor": "#666666", "linewidth": 0.5} if phase == "distill" else {}
        label = "distill (meanwhile)" if phase == "distill" else phase
        axes.bar(names, seconds, bottom=bottom, label=label, color=colour, width=0.7, **background)
        bottom = [low + more for low, more in zip(bottom, seconds, strict=True)]
    axes.set_title("Latency per turn")
    axes.set_xlabel("turn of an agent, and how many there were")
    axes.set_ylabel("mean seconds")
    axes.set_ylim(0, 1.25 * max(bottom, default=0.0) or 1.0)  # room for the legend
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if groups:
        axes.legend(fontsize=7, ncols=3, loc="upper right")


def _components(axes: Axes, profile: Profile) -> None:
    figures = profile.breakdown.components
    computed = {
        name: each["prompt_tokens"] - each["cached_tokens"] + each["output_tokens"]
        for name, each in figures.items()
    }
    names = sorted(computed, key=lambda name: (computed[name], name))
    lost = [figures[name]["ineffective_tokens"] for name in names]
    useful = [computed[name] - wasted for name, wasted in zip(names, lost, strict=True)]
    axes.barh(names, useful, color=_USEFUL, label="useful", height=0.65)
    axes.barh(names, lost, left=useful, color=_INEFFECTIVE, label="ineffective", height=0.65)
    for name in names:
        axes.annotate(
            f"{computed[name]:,.0f}",
            (computed[name], name),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_title("Computed tokens per component")
    axes.set_xlabel("prompt tokens that were not cached, and output tokens")
    axes.set_xlim(0, 1.18 * max(computed.values(), default=0.0) or 1.0)
    axes.xaxis.set_major_formatter(_short)
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if names:
        axes.legend(fontsize=7, loc="lower right")


def _short(value: float, place: int) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
