"""The parts of the engine plugin, AgentSAM and AgentSched: which of them an engine can have, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping

from agentinfer_lg.serving.engine_flags import PartFlags
from agentinfer_lg.serving.machine import Device
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sam.flags import engine_obstacle, sam_flags
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.flags import sched_flags, scheduler_obstacle

__all__ = ("TITLES", "choose_parts", "tell_parts")

TITLES = {"sam": "AgentSAM", "sched": "AgentSched"}
"""Name of each part's settings to its own name."""


def choose_parts(
    *,
    sam: SamConfig | None,
    sched: SchedConfig | None,
    given: Mapping[str, str],
    environ: Mapping[str, str],
    device: Device,
    model: str,
) -> dict[str, PartFlags]:
    """Decide about each part that is wanted.

    Args:
        sam: Settings of AgentSAM; None: not wanted.
        sched: Settings of AgentSched; None: not wanted.
        given: The user's flags for vLLM and their values; they win.
        environ: Variables of the engine.
        device: The accelerator of the engine.
        model: Folder or name of the model.

    Returns:
        Name of each wanted part's settings to what was decided.
    """
    parts: dict[str, PartFlags] = {}
    on_npu = device == "npu"
    if sam is not None:
        obstacle = "it has no proposer for Ascend yet" if on_npu else engine_obstacle()
        parts["sam"] = sam_flags(sam, given=given, environ=environ, obstacle=obstacle)
    if sched is not None:
        obstacle = "it does not know Ascend's scheduler yet" if on_npu else scheduler_obstacle(model)
        parts["sched"] = sched_flags(sched, given=given, obstacle=obstacle)
    return parts


def tell_parts(parts: Mapping[str, PartFlags], *, left_out: str = "") -> list[str]:
    """Return sentences about the parts that are not as the operator may expect.

    Args:
        parts: What was decided.
        left_out: Why their settings could not be passed on, as a clause.
    """
    told = [f"{TITLES[name]} is off: {part.off}." for name, part in parts.items() if part.off]
    told += [f"{part.note}." for part in parts.values() if part.note]
    if left_out:
        names = " and ".join(TITLES[name] for name, part in parts.items() if part.settings)
        told.append(f"The settings of {names} are left out: {left_out}.")
    return told
