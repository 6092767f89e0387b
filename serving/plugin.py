"""AgentSAM and AgentSched in a plain vLLM server: `AGENTINFER=1 vllm serve MODEL`.

vLLM calls `register`, the entry point `vllm.general_plugins`, in each of its processes. Without `AGENTINFER=1` it does
nothing. With it, what the user left open in `EngineArgs` gets our scheduler and proposer, if they can work with the
rest. Whatever goes wrong until the configuration is made is said once in the log, and the engine starts without them.

Variables: `AGENTINFER_SAM=0` and `AGENTINFER_SCHED=0` leave one part out; `AGENTINFER_CONFIG` has settings, as in
`{"sched": {"max_wait_seconds": 30}, "sam": {"memory": "off"}}`. They are checked here, and become part of the
configuration, except on NPUs: there each process reads the variable itself.

Nothing heavy may be imported here: neither vLLM's scheduler, which other plugins replace first, nor numba, whose
library vLLM's worker trips over. Therefore the imports are inside the functions.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentinfer_lg.serving.engine.flags import PartFlags
    from agentinfer_lg.serving.engine.machine import Device

_log = logging.getLogger(__name__)
_MARK = "_agentinfer_fills"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def register() -> None:
    """Let engine configurations of this process contain our parts, if the variable `AGENTINFER` says so."""
    if os.environ.get("AGENTINFER", "").strip().lower() not in _YES:
        return
    args_class = getattr(sys.modules.get("vllm.engine.arg_utils"), "EngineArgs", None)
    if args_class is None:
        return  # a worker, for instance: it gets its configuration from another process
    try:
        fill_engine_args(args_class)
    except Exception as error:
        _say(f"AgentInfer is off: {_sentence(error)}")


def fill_engine_args(args_class: type[Any]) -> None:  # Any: vLLM's class, without types for us
    """Fill what is open in every `EngineArgs` just before its configuration is made; does nothing the second time.

    Args:
        args_class: vLLM's `EngineArgs`.
    """
    if _MARK in vars(args_class):
        return
    create: Callable[..., Any] = args_class.create_engine_config

    @functools.wraps(create)
    def fill_and_create(self: Any, *args: Any, **kwargs: Any) -> Any:
        before, plan = dict(vars(self)), _plan(self)
        vars(self).update(plan.fields)
        try:
            config = create(self, *args, **kwargs)
        except Exception as error:
            if not plan.fields:
                raise
            vars(self).clear()
            vars(self).update(before)
            config = create(self, *args, **kwargs)  # raises what is wrong whether with us or without
            plan = _Plan(warnings=(f"AgentInfer is off: vLLM does not start with it ({_sentence(error)})",))
        vars(self).update(
            {name: before[name] for name in plan.fields}
        )  # as the user left them, for the next time
        plan.tell()  # now, because vLLM may have set up its log only just before
        return config

    args_class.create_engine_config = fill_and_create
    setattr(args_class, _MARK, True)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is filled, and what is said about it."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    """Names of the parts that are on."""

    def tell(self) -> None:
        for sentence in self.warnings:
            _say(sentence)
        if self.active:
            _say(f"On by AGENTINFER=1: {' and '.join(self.active)}.", level=logging.INFO)


def _plan(engine_args: Any) -> _Plan:
    """Decide about the parts; without any if something is wrong."""
    try:
        from agentinfer_lg.serving.parts.choice import TITLES, tell_parts

        parts = _parts(engine_args, os.environ)
        ours = _values(parts, _additional(engine_args), device=_device())
        missing = sorted(name for name in ours if name not in vars(engine_args))
        if missing:
            return _Plan(warnings=(f"AgentInfer is off: this vLLM has no {' and no '.join(missing)}",))
        active = tuple(TITLES[name] for name, part in parts.items() if not part.off)
        return _Plan(fields=ours, warnings=tuple(tell_parts(parts)), active=active)
    except Exception as error:
        return _Plan(warnings=(f"AgentInfer is off: {_sentence(error)}",))


def _parts(engine_args: Any, environ: Mapping[str, str]) -> dict[str, PartFlags]:
    from agentinfer_lg.serving.parts.choice import choose_parts
    from agentinfer_lg.serving.parts.settings import variable_settings
    from agentinfer_lg.serving.sam.config import SamConfig
    from agentinfer_lg.serving.sched.config import SchedConfig

    settings = variable_settings(environ)
    return choose_parts(
        sam=SamConfig.parse(settings.get("sam")) if _wanted("AGENTINFER_SAM", environ) else None,
        sched=SchedConfig.parse(settings.get("sched")) if _wanted("AGENTINFER_SCHED", environ) else None,
        given=_given(engine_args),
        additional=_additional(engine_args),
        environ=environ,
        device=_device(),
        model=str(engine_args.model),
    )


def _values(parts: Mapping[str, PartFlags], theirs: Mapping[str, Any], *, device: Device) -> dict[str, Any]:
    from agentinfer_lg.serving.engine.flags import merged

    ours: dict[str, Any] = {}
    for name, value in (flag for part in parts.values() for flag in part.flags):
        ours[name.replace("-", "_")] = json.loads(value) if value.startswith("{") else value
    settings = {name: dict(part.settings) for name, part in parts.items() if part.settings}
    if settings and device != "npu":
        ours["additional_config"] = merged({"agentinfer": settings}, theirs)
    return ours


def _additional(engine_args: Any) -> Mapping[str, Any]:
    theirs = getattr(engine_args, "additional_config", None)
    return theirs if isinstance(theirs, Mapping) else {}


def _given(engine_args: Any) -> dict[str, str]:
    """What differs from vLLM's defaults, as the flags that would say so; `no-x` for a switch that is off."""
    given: dict[str, str] = {}
    for known in fields(engine_args):
        value, flag = getattr(engine_args, known.name), known.name.replace("_", "-")
        if known.default is MISSING or value is None or value == known.default:
            continue
        if value is False:
            given[f"no-{flag}"] = ""
        else:
            given[flag] = str(value)
    return given


def _wanted(variable: str, environ: Mapping[str, str]) -> bool:
    return environ.get(variable, "").strip().lower() not in _NO


def _device() -> Device:
    platform = getattr(sys.modules.get("vllm.platforms"), "current_platform", None)
    return "npu" if getattr(platform, "device_type", "") == "npu" else "cuda"


@functools.cache  # once for each process
def _say(sentence: str, *, level: int = logging.WARNING) -> None:
    from agentinfer_lg.serving.parts.log import join_engine_log

    join_engine_log()
    _log.log(level, "%s", sentence)


def _sentence(error: Exception) -> str:
    """The beginning of what an error says, on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
