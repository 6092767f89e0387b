"""The page of knobs, made from the fields of `Context`.

    python tests/support/knob_tables.py

writes `docs/knobs.md`; a test compares the page with the fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentinfer_lg.context import Context

PAGE = Path(__file__).parents[2] / "docs" / "knobs.md"

_HEAD = """\
# Knobs of a run

A knob is a field of `agentinfer_lg.Context`. Set one with `agentinfer research --set NAME=VALUE`, in the form of Studio, or
with `context=Context(NAME=VALUE)` ([library.md](library.md)). Endpoints, keys and folders are variables
([cli.md](cli.md#environment)).

This page is made from the fields: `python tests/support/knob_tables.py` writes it.

| knob | default | values | what it does |
| --- | --- | --- | --- |
"""


def render() -> str:
    """Return the page."""
    knobs: Mapping[str, Mapping[str, Any]] = Context.model_json_schema()["properties"]
    return _HEAD + "".join(f"| {' | '.join(_row(name, knob))} |\n" for name, knob in knobs.items())


def _row(name: str, knob: Mapping[str, Any]) -> Iterator[str]:
    yield f"`{name}`"
    yield (
        f"`{json.dumps(knob['default'], ensure_ascii=False)}`".replace('"', "")
        if knob["default"] != ""
        else ""
    )
    yield _values(knob)
    yield knob["description"]


def _values(knob: Mapping[str, Any]) -> str:
    if "enum" in knob:
        return ", ".join(f"`{choice}`" for choice in knob["enum"])
    match knob["type"]:
        case "boolean":
            return "`true`, `false`"
        case "string":
            return f"up to {knob['maxLength']} characters"
        case kind:
            return f"{'a whole number' if kind == 'integer' else 'a number'}{_limits(knob)}"


def _limits(knob: Mapping[str, Any]) -> str:
    if "exclusiveMinimum" in knob:
        low = f" above {knob['exclusiveMinimum']:,g}"
        return f"{low}, up to {knob['maximum']:,g}" if "maximum" in knob else low
    if "maximum" in knob:
        return f" from {knob['minimum']:,g} to {knob['maximum']:,g}"
    return f", {knob['minimum']:,g} or more"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
