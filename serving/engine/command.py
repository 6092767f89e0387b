"""The vLLM command line that fits a model and a machine; nothing is started here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.serving.ascend.devices import npu_shortage
from agentinfer_lg.serving.engine.flags import (
    Flag,
    PartFlags,
    SettingsFlags,
    given_additional_config,
    given_flags,
    settings_flags,
    settings_variable,
)
from agentinfer_lg.serving.engine.machine import Device, Machine
from agentinfer_lg.serving.engine.reasoning_parsers import find_reasoning_parser
from agentinfer_lg.serving.engine.tool_parsers import find_tool_call_parser
from agentinfer_lg.serving.parts.choice import choose_parts, refusal, tell_parts
from agentinfer_lg.serving.parts.settings import joined, variable_settings
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sched.config import SchedConfig

_CPU_BLOCK_SIZE = 32
"""vLLM's CPU default of 128 tokens would leave every shorter prompt without a prefix-cache hit."""
_OPENMP = ("libiomp", "libomp", "libgomp")
"""Names of OpenMP libraries."""
_REMOTE_FLAGS = frozenset({"tokenizer", "hf-config-path", "speculative-config", "lora-modules"})
"""Flags that may name a model on the hub although the served model is a local folder."""
_OTHER_TOKENS = frozenset({"tokenizer", "tokenizer-mode", "skip-tokenizer-init"})
"""Flags after which the tokens are not those of the model folder, on which a reasoning parser rests."""
_SEVERAL_SERVERS = frozenset({"api-server-count", "asc"})
"""Flags that only the command `vllm serve` follows."""
_RANKS = ("data-parallel-size-local", "dpl", "data-parallel-size", "dp")
"""Flags that say how many data-parallel ranks this machine has, the first one that is given counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What to serve and how; None leaves the choice to this module or to vLLM."""

    model: str
    """Local folder in Hugging Face format, or a name on the model hub."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free port."""
    served_model_name: str | None = None
    max_model_len: int | None = None
    """Longest context in tokens."""
    kv_cache_gib: float | None = None
    """KV cache in GiB of each data-parallel rank. On a CPU rounded up to whole ones, and by default a quarter of the free
    memory, divided among the ranks."""
    block_size: int | None = None
    """Tokens of one KV cache block."""
    max_num_seqs: int | None = None
    """Most requests computed at the same time."""
    tool_call_parser: str | None = None
    """Name of vLLM's parser of tool calls, `none` for no tool calling; unset: by the model."""
    reasoning_parser: str | None = None
    """Name of vLLM's parser of thoughts, `none` to leave them in the text; unset: by the model."""
    compile: bool = False
    """Compile the model on a CPU: about an eighth faster, the first start takes a minute more."""
    device: Literal["auto", "cpu", "cuda", "npu"] = "auto"
    sam: SamConfig | None = field(default_factory=SamConfig)
    """Speculation from session memory; None: none."""
    sched: SchedConfig | None = field(default_factory=SchedConfig)
    """Scheduling for agents; None: vLLM's own."""
    extra_args: tuple[str, ...] = ()
    """More arguments for vLLM; they win over everything else."""


def build_command(
    options: ServeOptions, *, device: Device, machine: Machine | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command line that serves `options`, and the variables to add to its environment.

    Args:
        options: What to serve. Arguments in `extra_args` replace the ones chosen here.
        device: The accelerator to serve on.
        machine: Facts about the machine; by default this one.

    Raises:
        UserInputError: An option has an impossible value, or asks for something that excludes a part of ours.
        ConfigurationError: The variable `AGENTINFER_CONFIG` is wrong.
    """
    machine = machine or Machine.detect()
    _check(options)
    if device == "npu":
        _check_npus(options, machine)
    parts = _parts(options, device=device, machine=machine)
    settings = _settings(options, parts, device=device)
    options = replace(options, extra_args=settings.extra_args)
    given = _flag_names(options.extra_args)
    flags = [*_common_flags(options), *(_cpu_flags(options) if device == "cpu" else _gpu_flags(options))]
    flags += [*_tool_flags(options, machine), *_reasoning_flags(options, machine)]
    flags += [flag for part in parts.values() for flag in part.flags] + list(settings.flags)
    kept = [part for name, *values in flags if name not in given for part in (f"--{name}", *values)]
    command = [
        machine.python,
        "-m",
        *_entry_point(options, device=device, given=given),
        *kept,
        *options.extra_args,
    ]
    variables = _environment(options, device=device, machine=machine, given=given)
    return command, {**variables, **settings.variables}


def part_notes(options: ServeOptions, *, device: Device, machine: Machine | None = None) -> list[str]:
    """Return sentences about AgentSAM and AgentSched where they are not as the operator may expect.

    Args:
        options: What to serve.
        device: The accelerator to serve on.
        machine: Facts about the machine; by default this one.

    Raises:
        UserInputError: An option asks for something that excludes a part of ours.
        ConfigurationError: The variable `AGENTINFER_CONFIG` is wrong.
    """
    parts = _parts(options, device=device, machine=machine or Machine.detect())
    return tell_parts(parts, left_out=_settings(options, parts, device=device).left_out)


def read_extra_args(options: ServeOptions) -> ServeOptions:
    """Copy host, port and names from `extra_args`, where they win, into the other options."""
    found = {
        name: _flag_value(options.extra_args, name) for name in ("host", "port", "served-model-name", "model")
    }
    try:
        port = int(found["port"] or options.port)
    except ValueError:
        msg = f"--port wants a number, got {found['port']!r}"
        raise UserInputError(msg) from None
    return replace(
        options,
        host=found["host"] or options.host,
        port=port,
        model=found["model"] or options.model,
        served_model_name=found["served-model-name"] or options.served_model_name,
    )


def _check(options: ServeOptions) -> None:
    if not options.model.strip():
        msg = "no model given: name a local folder or a model on the hub"
        raise UserInputError(msg)
    if options.kv_cache_gib is not None and options.kv_cache_gib <= 0:
        msg = f"the KV cache must be larger than 0 GiB, got {options.kv_cache_gib:g}"
        raise UserInputError(msg)
    if not 0 <= options.port <= 65535:
        msg = f"a port is between 0 and 65535, got {options.port}"
        raise UserInputError(msg)


def _check_npus(options: ServeOptions, machine: Machine) -> None:
    shortage = npu_shortage(given_flags(options.extra_args), machine.environ, present=machine.npus)
    if shortage:
        raise UserInputError(shortage)


def _parts(options: ServeOptions, *, device: Device, machine: Machine) -> dict[str, PartFlags]:
    variable = variable_settings(machine.environ)
    sam, sched = options.sam, options.sched
    parts = choose_parts(
        sam=sam and SamConfig.parse(joined(variable.get("sam"), sam.to_values())),
        sched=sched and SchedConfig.parse(joined(variable.get("sched"), sched.to_values())),
        given=given_flags(options.extra_args),
        additional=given_additional_config(options.extra_args) if device == "npu" else {},
        environ=machine.environ,
        device=device,
        model=options.model,
    )
    if refused := refusal(parts):
        raise UserInputError(refused)
    return parts


def _settings(options: ServeOptions, parts: Mapping[str, PartFlags], *, device: Device) -> SettingsFlags:
    settings = {name: part.settings for name, part in parts.items()}
    add = settings_variable if device == "npu" else settings_flags
    return add(settings, options.extra_args)


def _entry_point(options: ServeOptions, *, device: Device, given: frozenset[str]) -> list[str]:
    if device == "cpu" and given & _SEVERAL_SERVERS:
        return ["agentinfer_lg.serving.engine.vllm_serve", *([] if "model" in given else [options.model])]
    if (
        device == "cpu"
    ):  # the `vllm` command of the CPU wheel looks up its version under a name that is not there
        model = [] if "model" in given else ["--model", options.model]
        return ["vllm.entrypoints.openai.api_server", *model]
    return ["vllm.entrypoints.cli.main", "serve", *([] if "model" in given else [options.model])]


def _common_flags(options: ServeOptions) -> list[Flag]:
    flags: list[Flag] = [
        ("host", options.host),
        ("port", str(options.port)),
        ("enable-prompt-tokens-details",),  # cached tokens in the usage of each answer
    ]
    if options.served_model_name is not None:
        flags.append(("served-model-name", options.served_model_name))
    if options.max_model_len is not None:
        flags.append(("max-model-len", str(options.max_model_len)))
    if options.max_num_seqs is not None:
        flags.append(("max-num-seqs", str(options.max_num_seqs)))
    return flags


def _cpu_flags(options: ServeOptions) -> list[Flag]:
    flags: list[Flag] = [("block-size", str(options.block_size or _CPU_BLOCK_SIZE))]
    if not options.compile and not _flag_names(options.extra_args) & {"compilation-config", "O", "cc"}:
        flags.append(("enforce-eager",))
    return flags


def _gpu_flags(options: ServeOptions) -> list[Flag]:
    flags: list[Flag] = []
    if options.block_size is not None:
        flags.append(("block-size", str(options.block_size)))
    if options.kv_cache_gib is not None:
        flags.append(("kv-cache-memory-bytes", str(int(options.kv_cache_gib * 2**30))))
    return flags


def _tool_flags(options: ServeOptions, machine: Machine) -> list[Flag]:
    given = given_flags(options.extra_args)
    if given.keys() & {"tool-call-parser", "enable-auto-tool-choice", "no-enable-auto-tool-choice"}:
        return []
    template = given.get("chat-template", "")
    parser = options.tool_call_parser or find_tool_call_parser(
        options.model, known=machine.tool_parsers, template=template
    )
    if parser is None or parser.lower() == "none":
        return []
    return [("enable-auto-tool-choice",), ("tool-call-parser", parser)]


def _reasoning_flags(options: ServeOptions, machine: Machine) -> list[Flag]:
    given = given_flags(options.extra_args)
    if "reasoning-parser" in given:
        return []
    parser = options.reasoning_parser
    if parser is None and not given.keys() & _OTHER_TOKENS:
        template = given.get("chat-template", "")
        parser = find_reasoning_parser(options.model, known=machine.reasoning_parsers, template=template)
    return [] if parser is None or parser.lower() == "none" else [("reasoning-parser", parser)]


def _environment(
    options: ServeOptions, *, device: Device, machine: Machine, given: frozenset[str]
) -> dict[str, str]:
    """Variables to add; those set by the user are left alone, except where an option says otherwise."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(options.model).expanduser().is_dir() and not given & _REMOTE_FLAGS:
        defaults["HF_HUB_OFFLINE"] = "1"
    chosen: dict[str, str] = {}
    if "AGENTINFER" in machine.environ:
        chosen["AGENTINFER"] = "0"  # the command line says it all; the plugin would switch parts on again
    if device == "cpu":
        defaults["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"  # by default one core stays idle
        defaults["VLLM_CPU_KVCACHE_SPACE"] = str(
            _default_kv_gib(machine.memory_gib, ranks=_local_ranks(options))
        )
        if options.kv_cache_gib is not None:
            chosen["VLLM_CPU_KVCACHE_SPACE"] = str(math.ceil(options.kv_cache_gib))
        if given & {"kv-cache-memory-bytes"}:
            defaults.pop("VLLM_CPU_KVCACHE_SPACE")
        loaded = machine.environ.get("LD_PRELOAD", "")
        if machine.openmp is not None and not any(
            name in loaded for name in _OPENMP
        ):  # vLLM refuses two of them
            chosen["LD_PRELOAD"] = f"{loaded}:{machine.openmp}".lstrip(":")
    return {name: value for name, value in defaults.items() if name not in machine.environ} | chosen


def _default_kv_gib(memory_gib: float, *, ranks: int) -> int:
    return max(1, min(32, int(memory_gib / 4 / ranks)))


def _local_ranks(options: ServeOptions) -> int:
    """Data-parallel ranks on this machine, each of which has a cache of that size."""
    values = (_flag_value(options.extra_args, name) for name in _RANKS)
    return max(1, next((int(value) for value in values if value and value.isdecimal()), 1))


def _flag_names(arguments: Sequence[str]) -> frozenset[str]:
    """Names of the flags in `arguments`, hyphens for underscores, and `x` for `no-x` as well."""
    names: set[str] = set()
    for argument in arguments:
        if argument.startswith("-") and not re.fullmatch(r"-\d+(\.\d+)?", argument):
            name = argument.split("=", 1)[0].lstrip("-").split(".", 1)[0].replace("_", "-")
            names |= {"O" if re.fullmatch(r"O\d?", name) else name, name.removeprefix("no-")}
    return frozenset(names)


def _flag_value(arguments: Sequence[str], name: str) -> str | None:
    value = None
    for index, argument in enumerate(arguments):
        flag, _, attached = argument.partition("=")
        if flag.startswith("-") and flag.lstrip("-").replace("_", "-") == name:
            following = arguments[index + 1] if index + 1 < len(arguments) else None
            value = attached or following
    return value
