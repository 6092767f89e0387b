"""Settings that travel to the engine: a mapping of plain scalars, read into a frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from agentinfer_lg.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Scalar = str | int | float | bool
_T = TypeVar("_T", bound="DataclassInstance")

_WANTED: dict[object, str] = {
    str: "it is a text",
    bool: "it is true or false",
    int: "it is a whole number",
    float: "it is a number",
}


def parse_values(kind: type[_T], values: object, *, part: str) -> _T:
    """Read settings; what is not given keeps its default.

    Args:
        kind: A dataclass whose fields are texts, switches, numbers or `Literal` texts, each with a default.
        values: A mapping of field names to scalars, or None for the defaults.
        part: What the settings belong to, as messages name it.

    Raises:
        ConfigurationError: It is no mapping, a key is unknown, or a value has the wrong type or is out of range.
    """
    if values is None:
        return kind()
    if not isinstance(values, Mapping):
        msg = f"the settings of {part} must be a JSON object, got {type(values).__name__}"
        raise ConfigurationError(msg)
    types = _field_types(kind)
    unknown = sorted(str(key) for key in values if key not in types)
    if unknown:
        msg = f"{part} has no setting {', '.join(unknown)}; there are {', '.join(sorted(types))}"
        raise ConfigurationError(msg)
    for name, value in values.items():
        if not any(_fits(value, wanted) for wanted in types[name]):
            msg = f"the {part} setting {name} cannot be {value!r}: {_wanted(types[name])}"
            raise ConfigurationError(msg)
    return kind(**values)


def changed_values(config: DataclassInstance) -> dict[str, Scalar]:
    """Return the settings that differ from the defaults, as `parse_values` reads them."""
    default = type(config)()
    given = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: value for name, value in given.items() if value != getattr(default, name)}


@cache
def _field_types(
    kind: type[Any],
) -> dict[str, tuple[object, ...]]:  # Any: a dataclass, which `cache` cannot tell
    """The types that each field may have: one, or several for a union."""
    hints = get_type_hints(kind)
    found = {field.name: hints[field.name] for field in fields(kind)}
    unions = (UnionType, Union)
    return {name: get_args(hint) if get_origin(hint) in unions else (hint,) for name, hint in found.items()}


def _fits(value: object, wanted: object) -> bool:
    if get_origin(wanted) is Literal:
        return isinstance(value, str) and value in get_args(wanted)
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    kinds = (int, float) if wanted is float else (wanted,)
    return any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)


def _wanted(types: tuple[object, ...]) -> str:
    wanted = next(kind for kind in types if kind is not NoneType)
    choices = get_args(wanted)
    return f"it is one of {', '.join(choices)}" if choices else _WANTED[wanted]
