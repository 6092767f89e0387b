"""What makes vLLM draft with AgentSAM: its flags, or the reason why it cannot."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentinfer_lg.serving.sam.config import SamConfig

__all__ = ("EXTENSION_CLASS", "PROPOSER_CLASS", "SamFlags", "engine_obstacle", "sam_flags")

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
    "runner": "only text generation drafts",
    "convert": "only text generation drafts",
    "task": "only text generation drafts",
}
_GENERATING = {
    "runner": {"auto", "generate", "draft"},
    "convert": {"auto", "none"},
    "task": {"auto", "generate"},
}


@dataclass(frozen=True, slots=True)
class SamFlags:
    """Outcome of `sam_flags`."""

    flags: tuple[tuple[str, ...], ...] = ()
    """Name of a flag without dashes, then its values."""
    extra_args: tuple[str, ...] = ()
    """The user's arguments, without those that `flags` already contains."""
    off: str = ""
    """Why there is no AgentSAM, as a clause; empty where it is on."""
    note: str = ""
    """Something the operator should know although AgentSAM is on."""


def sam_flags(
    config: SamConfig, *, extra_args: Sequence[str], environ: Mapping[str, str], obstacle: str = ""
) -> SamFlags:
    """Decide whether AgentSAM can run with the user's arguments, and return vLLM's flags for it.

    Args:
        config: Its settings.
        extra_args: Arguments of the user for vLLM; they win.
        environ: Variables of the engine.
        obstacle: Why the installed engine cannot, from `engine_obstacle`.
    """
    extra = tuple(extra_args)
    given = _flags(extra)
    off = obstacle or _reason_off(given, environ)
    if off:
        return SamFlags(extra_args=extra, off=off)
    speculation = {
        "method": "custom_class",
        "model": PROPOSER_CLASS,
        "num_speculative_tokens": config.max_draft,
    }
    flags: list[tuple[str, ...]] = [("speculative-config", json.dumps(speculation))]
    note = ""
    if "worker-extension-cls" in given:
        note = "AgentSAM sees no session hints unless the class of --worker-extension-cls extends AgentInferWorkerExtension"
    else:
        flags.append(("worker-extension-cls", EXTENSION_CLASS))
    more, extra, unreadable = _additional_config(config, extra)
    return SamFlags(flags=(*flags, *more), extra_args=extra, note=note or unreadable)


def engine_obstacle() -> str:
    """Return why the installed engine cannot draft with AgentSAM; empty if it can. Nothing is imported."""
    vllm = importlib.util.find_spec("vllm")
    roots = list(vllm.submodule_search_locations or ()) if vllm is not None else []
    if roots and not any((Path(root) / "v1/spec_decode/custom_class_proposer.py").exists() for root in roots):
        return "this vLLM takes no proposer of others; 0.23 to 0.32 do"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install 'agentinfer-lg[sam]')"
    return ""


def _reason_off(given: Mapping[str, str], environ: Mapping[str, str]) -> str:
    for name in _OTHER_SPECULATION:
        if name in given:
            return (
                f"--{name} chooses another speculation"
                if len(name) > 2
                else "-sc chooses another speculation"
            )
    if given.get("async-scheduling", "false").lower() not in ("false", "0"):
        return "vLLM cannot draft so with --async-scheduling"
    stages = given.get("pipeline-parallel-size", given.get("pp", "1"))
    if stages != "1":
        return "it does not draft across pipeline stages"
    for name, why in _CONFLICTS.items():
        if name in given and given[name] not in _GENERATING.get(name, ()):
            return f"{why} (--{name})"
    if environ.get("VLLM_USE_V2_MODEL_RUNNER", "").strip().lower() in ("1", "true"):
        return "VLLM_USE_V2_MODEL_RUNNER chooses a model runner that takes no proposer of others"
    return ""


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    """Flags in `arguments` and what follows each; `no-x` stays apart from `x`. Those of a `--config` file too."""
    found: dict[str, str] = {}
    for index, argument in enumerate(arguments):
        if not argument.startswith("-"):
            continue
        name, separator, value = argument.partition("=")
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        name = name.lstrip("-").split(".", 1)[0].replace("_", "-")
        found[name] = value if separator else "" if following.startswith("-") else following
    return {**_config_file(found.get("config", "")), **found}


def _config_file(path: str) -> dict[str, str]:
    if not path:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}  # vLLM will say what is wrong with it
    found = re.findall(r"^([\w-]+)\s*:[ \t]*([^#\n]*)", text, re.MULTILINE)  # keys of the outermost level
    return {key.replace("_", "-"): value.strip().strip("'\"") for key, value in found}


def _additional_config(
    config: SamConfig, extra: tuple[str, ...]
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...], str]:
    """Add our settings to the user's `--additional-config`, of which vLLM takes only one."""
    values = config.to_values()
    if not values:
        return (), extra, ""
    if any(part.replace("_", "-").startswith("--additional-config.") for part in extra):
        dotted = (
            (f"additional-config.agentinfer.sam.{key}", json.dumps(value)) for key, value in values.items()
        )
        return tuple(dotted), extra, ""
    rest, given = _take(extra, "additional-config")
    if given is None:
        return (("additional-config", json.dumps({"agentinfer": {"sam": values}})),), extra, ""
    try:
        theirs = json.loads(given)
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict):
        return (), extra, "AgentSAM runs with its defaults: --additional-config is no JSON object"
    return (("additional-config", json.dumps(_merged({"agentinfer": {"sam": values}}, theirs))),), rest, ""


def _take(arguments: tuple[str, ...], name: str) -> tuple[tuple[str, ...], str | None]:
    """Split the flag `name` off `arguments`; the last one counts."""
    rest: list[str] = []
    value: str | None = None
    position = 0
    while position < len(arguments):
        flag, separator, attached = arguments[position].partition("=")
        if flag.replace("_", "-") != f"--{name}":
            rest.append(arguments[position])
        elif separator:
            value = attached
        elif position + 1 < len(arguments):
            position += 1
            value = arguments[position]
        position += 1
    return tuple(rest), value


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    merged = dict(ours)
    for key, value in theirs.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
