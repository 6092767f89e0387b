"""What makes vLLM draft with AgentSAM: its flags, or the reason why it cannot."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping

from agentinfer_lg.serving.compat.releases import obstacle
from agentinfer_lg.serving.engine.flags import Flag, PartFlags, not_generating
from agentinfer_lg.serving.sam.config import MAX_DRAFT_LIMIT, SamConfig

PROPOSER_CLASS = "agentinfer_lg.serving.sam.proposer.AgentSAMProposer"
EXTENSION_CLASS = "agentinfer_lg.serving.sam.extension.AgentInferWorkerExtension"

_OTHER_SPECULATION = (
    "speculative-config",
    "sc",
    "spec-method",
    "spec-model",
    "spec-tokens",
    "speculative-model",
)
_CONFLICTS = {
    "logits-processors": "vLLM cannot speculate with custom logits processors",
    "enable-lora": "it does not tell adapters apart",
}


def sam_flags(
    config: SamConfig,
    *,
    given: Mapping[str, str],
    environ: Mapping[str, str],
    obstacle: str = "",
    most_draft: int = MAX_DRAFT_LIMIT,
) -> PartFlags:
    """Decide whether AgentSAM can run with the user's arguments, and return vLLM's flags for it.

    Args:
        config: Its settings.
        given: The user's flags and their values, from `given_flags`; they win.
        environ: Variables of the engine.
        obstacle: Why the installed engine cannot, from `engine_obstacle`.
        most_draft: Most tokens per draft that the device can verify; it limits `config`.
    """
    off = obstacle or _reason_off(given, environ)
    if off:
        return PartFlags(off=off)
    speculation = {
        "method": "custom_class",
        "model": PROPOSER_CLASS,
        "num_speculative_tokens": min(config.max_draft, most_draft),
    }
    flags: list[Flag] = [("speculative-config", json.dumps(speculation))]
    note = ""
    if "worker-extension-cls" in given:
        note = "AgentSAM sees no session hints unless the class of --worker-extension-cls extends AgentInferWorkerExtension"
    else:
        flags.append(("worker-extension-cls", EXTENSION_CLASS))
    return PartFlags(flags=tuple(flags), settings=config.to_values(), note=note)


def engine_obstacle() -> str:
    """Return why the installed engine cannot draft with AgentSAM; empty if it can. Nothing is imported."""
    if misfit := obstacle("sam"):
        return misfit
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install 'agentinfer-lg[sam]')"
    return ""


def _reason_off(given: Mapping[str, str], environ: Mapping[str, str]) -> str:
    for name in _OTHER_SPECULATION:
        if name in given:
            return f"{'--' if len(name) > 2 else '-'}{name} chooses another speculation"
    if given.get("async-scheduling", "false").lower() not in ("false", "0"):
        return "vLLM cannot draft so with --async-scheduling"
    stages = given.get("pipeline-parallel-size", given.get("pp", "1"))
    if stages != "1":
        return "it does not draft across pipeline stages"
    for name, why in _CONFLICTS.items():
        if name in given:
            return f"{why} (--{name})"
    if flag := not_generating(given):
        return f"only text generation drafts (--{flag})"
    if environ.get("VLLM_USE_V2_MODEL_RUNNER", "").strip().lower() in ("1", "true"):
        return "VLLM_USE_V2_MODEL_RUNNER chooses a model runner that takes no proposer of others"
    return ""
