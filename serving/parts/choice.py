"""The parts of the engine plugin, AgentSAM and AgentSched: which of them an engine can have, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentinfer_lg.serving.ascend.conflicts import scheduler_conflict
from agentinfer_lg.serving.engine.flags import PartFlags
from agentinfer_lg.serving.engine.machine import Device
from agentinfer_lg.serving.sam.config import MAX_DRAFT_LIMIT, SamConfig
from agentinfer_lg.serving.sam.vllm.flags import engine_obstacle, sam_flags
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.vllm.flags import sched_flags, scheduler_obstacle

TITLES = {"sam": "AgentSAM", "sched": "AgentSched"}
"""Name of each part's settings to its own name."""

_NPU_DRAFT = 15
"""Ascend's attention kernels take at most 16 tokens of a request that decodes: its last one and the draft."""


def choose_parts(
    *,
    sam: SamConfig | None,
    sched: SchedConfig | None,
    given: Mapping[str, str],
    additional: Mapping[str, Any],
    environ: Mapping[str, str],
    device: Device,
    model: str,
) -> dict[str, PartFlags]:
    """Decide about each part that is wanted.

    Args:
        sam: Settings of AgentSAM; None: not wanted.
        sched: Settings of AgentSched; None: not wanted.
        given: The user's flags for vLLM and their values; they win.
        additional: The user's `additional_config` for vLLM.
        environ: Variables of the engine.
        device: The accelerator of the engine.
        model: Folder or name of the model.

    Returns:
        Name of each wanted part's settings to what was decided.
    """
    parts: dict[str, PartFlags] = {}
    on_npu = device == "npu"
    if sam is not None:
        parts["sam"] = sam_flags(
            sam,
            given=given,
            environ=environ,
            obstacle=engine_obstacle(),
            most_draft=_NPU_DRAFT if on_npu else MAX_DRAFT_LIMIT,
        )
    if sched is not None:
        chosen = sched_flags(sched, given=given, obstacle=scheduler_obstacle(model))
        conflict = scheduler_conflict(additional, environ) if on_npu and not chosen.off else ""
        parts["sched"] = PartFlags(off=conflict, refused=True) if conflict else chosen
    return parts


def refusal(parts: Mapping[str, PartFlags]) -> str:
    """Return why an engine must not start with these parts and arguments, as a sentence; empty if it may.

    Args:
        parts: What was decided.
    """
    for name, part in parts.items():
        if part.refused:
            return f"{TITLES[name]} cannot run: {part.off}; take that out, or give --no-{name}"
    return ""


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
