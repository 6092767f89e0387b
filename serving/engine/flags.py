"""The user's arguments for vLLM: what they ask for, and how our settings are added to them."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentinfer_lg.serving.parts.settings import VARIABLE
from agentinfer_lg.serving.parts.values import Scalar

Flag = tuple[str, ...]
"""Name of a flag without dashes, then its values."""

_GENERATING = {
    "runner": {"auto", "generate", "draft"},
    "convert": {"auto", "none"},
    "task": {"auto", "generate"},
}
"""Flags that choose what a model is used for, and their values that mean generating text."""
_OURS_DOTTED = re.compile(r"--additional[-_]config\.agentinfer\.")


@dataclass(frozen=True, slots=True)
class PartFlags:
    """What makes vLLM use one part of ours, or why it cannot."""

    flags: tuple[Flag, ...] = ()
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    """Settings of the part that differ from its defaults."""
    off: str = ""
    """Why the part is not used, as a clause; empty where it is."""
    refused: bool = False
    """Whether the operator must decide: `off` says what is asked for besides that would take its place unseen."""
    note: str = ""
    """Something the operator should know although it is used, as a sentence without its full stop."""


@dataclass(frozen=True, slots=True)
class SettingsFlags:
    """Our settings on their way into the engine."""

    flags: tuple[Flag, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    extra_args: tuple[str, ...] = ()
    """The user's arguments, without those that `flags` or `variables` already contain."""
    left_out: str = ""
    """Why the settings could not be added, as a clause; empty where they were."""


def given_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Return the flags in `arguments` and what follows each; those of a `--config` file too.

    Underscores become hyphens, dotted names their first part; `no-x` stays apart from `x`.
    """
    found = _flags(arguments)
    return {**_config_file(found.get("config", "")), **found}


def given_additional_config(arguments: Sequence[str]) -> dict[str, Any]:  # Any: JSON
    """Return vLLM's `additional_config` that `arguments` ask for, with those of a `--config` file; empty if none.

    What vLLM will refuse anyway, as JSON with an error, is left out.
    """
    _, whole = _take(tuple(arguments), "additional-config")
    value = _file_additional_config(_flags(arguments).get("config", "")) if whole is None else _json(whole)
    config: dict[str, Any] = value if isinstance(value, dict) else {}
    for index, argument in enumerate(arguments):
        name, separator, attached = argument.partition("=")
        first, *keys = name.split(".")
        if first.replace("_", "-") != "--additional-config" or not keys:
            continue
        text = attached if separator else "".join(arguments[index + 1 : index + 2])
        nested: Any = _json(text, otherwise=text)
        for key in reversed(keys):
            nested = {key: nested}
        config = merged(config, nested)
    return config


def not_generating(given: Mapping[str, str]) -> str:
    """Return the flag in `given` that makes the server do something else than generate text; empty if none does."""
    return next(
        (name for name, values in _GENERATING.items() if name in given and given[name] not in values), ""
    )


def settings_flags(parts: Mapping[str, Mapping[str, Scalar]], extra_args: Sequence[str]) -> SettingsFlags:
    """Add our settings to the user's `--additional-config`, of which vLLM takes only one; the user's win.

    Args:
        parts: Name of each part to its settings.
        extra_args: The user's arguments.
    """
    extra = tuple(extra_args)
    ours = {part: dict(settings) for part, settings in parts.items() if settings}
    if not ours:
        return SettingsFlags(extra_args=extra)
    if any(part.replace("_", "-").startswith("--additional-config.") for part in extra):
        return SettingsFlags(flags=_dotted(ours), extra_args=extra)
    rest, given = _take(extra, "additional-config")
    if given is None and "additional-config" in given_flags(extra):
        return SettingsFlags(extra_args=extra, left_out="the file of --config has an additional-config")
    try:
        theirs = {} if given is None else json.loads(given)
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict):
        return SettingsFlags(extra_args=extra, left_out="--additional-config is no JSON object")
    joined = json.dumps(merged({"agentinfer": ours}, theirs))
    return SettingsFlags(flags=(("additional-config", joined),), extra_args=rest)


def settings_variable(parts: Mapping[str, Mapping[str, Scalar]], extra_args: Sequence[str]) -> SettingsFlags:
    """Put our settings into a variable, for engines that refuse keys of others in `additional_config`.

    What the user says about us in `--additional-config` wins, and is taken out of it; in a `--config` file it stays.

    Args:
        parts: Name of each part to its settings.
        extra_args: The user's arguments.
    """
    extra = tuple(extra_args)
    theirs = given_additional_config(extra).get("agentinfer", {})
    if not isinstance(theirs, Mapping):
        return SettingsFlags(extra_args=extra)  # the engine will say what is wrong with it
    settings = merged({part: dict(settings) for part, settings in parts.items() if settings}, theirs)
    variables = {VARIABLE: json.dumps(settings)} if settings else {}
    return SettingsFlags(variables=variables, extra_args=_without_ours(extra))


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
    """Return both objects as one; where both have a value that is no object, `theirs` counts."""
    joined = dict(ours)
    for key, value in theirs.items():
        both = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = merged(joined[key], value) if both else value
    return joined


def _dotted(ours: Mapping[str, Mapping[str, Scalar]]) -> tuple[Flag, ...]:
    return tuple(
        (f"additional-config.agentinfer.{part}.{key}", json.dumps(value))
        for part, settings in ours.items()
        for key, value in settings.items()
    )


def _without_ours(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out what is said about us in `--additional-config`, as a whole or with dots."""
    rest, whole = _take(arguments, "additional-config")
    config = None if whole is None else _json(whole)
    if isinstance(config, dict) and "agentinfer" in config:
        left = {key: value for key, value in config.items() if key != "agentinfer"}
        arguments = (*rest, "--additional-config", json.dumps(left)) if left else rest
    for name in [part.partition("=")[0] for part in arguments if _OURS_DOTTED.match(part)]:
        arguments, _ = _take(arguments, name.removeprefix("--").replace("_", "-"))
    return arguments


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for index, argument in enumerate(arguments):
        if not argument.startswith("-"):
            continue
        name, separator, value = argument.partition("=")
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        name = name.lstrip("-").split(".", 1)[0].replace("_", "-")
        found[name] = value if separator else "" if following.startswith("-") else following
    return found


def _config_file(path: str) -> dict[str, str]:
    if not path:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}  # vLLM will say what is wrong with it
    found = re.findall(r"^([\w-]+)\s*:[ \t]*([^#\n]*)", text, re.MULTILINE)  # keys of the outermost level
    return {key.replace("_", "-"): value.strip().strip("'\"") for key, value in found}


def _file_additional_config(path: str) -> Any:
    if "additional-config" not in _config_file(path):
        return None
    yaml = importlib.import_module("yaml")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    named = {str(key).replace("_", "-"): value for key, value in content.items()}
    found = named.get("additional-config")
    return _json(found) if isinstance(found, str) else found


def _json(text: str, *, otherwise: Any = None) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return otherwise


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
