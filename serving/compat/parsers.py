"""Names of the parsers that the installed vLLM has, read from its source; nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

ParserKind = Literal["tool", "reasoning"]
"""What a parser takes out of a model's text: calls of tools, or thoughts."""

_REGISTRIES: dict[ParserKind, tuple[str, str]] = {
    "tool": ("tool_parsers/__init__.py", "_TOOL_PARSERS_TO_REGISTER"),
    "reasoning": ("reasoning/__init__.py", "_REASONING_PARSERS_TO_REGISTER"),
}
"""Where each kind is listed: the file, relative to the package `vllm`, and the variable."""


@cache
def installed_parsers(kind: ParserKind) -> frozenset[str] | None:
    """Return the names that the installed vLLM takes; None where there is no vLLM that could refuse one.

    A vLLM whose list cannot be read takes none: a name that it does not know would keep the engine from starting.

    Args:
        kind: Which parsers.
    """
    found = importlib.util.find_spec("vllm")
    roots = [Path(root) for root in (found.submodule_search_locations or ())] if found is not None else []
    return parsers_in(*roots, kind=kind) if roots else None


def parsers_in(*roots: Path, kind: ParserKind) -> frozenset[str]:
    """Return the names that a vLLM lists; empty where the list cannot be read.

    Args:
        *roots: Folders of the package `vllm`; the first one that has the file counts.
        kind: Which parsers.
    """
    file, variable = _REGISTRIES[kind]
    path = next((root / file for root in roots if (root / file).is_file()), None)
    if path is None:
        return frozenset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a string in somebody else's code
            module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    return frozenset(_keys(module, variable))


def _keys(module: ast.Module, variable: str) -> Iterator[str]:
    """Yield the string keys of the dictionary that `variable` is set to."""
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys)) if name == variable:
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys)) if name == variable:
                pass
            case _:
                continue
        for key in keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value
