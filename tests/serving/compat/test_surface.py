"""Which vLLM a part of the plugin fits, by what it leans on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentinfer_lg.serving.compat.sources import Definition, SourceTree
from agentinfer_lg.serving.compat.surface import SURFACE, Part, Symbol, misfits

PARTS: tuple[Part, ...] = ("sched", "sam")


def symbol(**more: object) -> Symbol:
    return Symbol(part="sched", file="m.py", name="f", **more)  # type: ignore[arg-type]


def function(*parameters: str, required: frozenset[str] = frozenset()) -> Definition:
    return Definition(signature="()", parameters=parameters, required=required, fingerprint="x")


@pytest.mark.parametrize(
    ("wanted", "found", "said"),
    [
        (symbol(), None, "is gone"),
        (symbol(optional=True), None, ""),
        (symbol(), Definition(), ""),
        (symbol(takes=("a", "b")), function("a", "b"), ""),
        (symbol(takes=("a",)), function("a", "b", required=frozenset("ab")), ""),
        (symbol(takes=("a", "b")), function("b", "a"), "takes (b, a) instead of (a, b)"),
        (symbol(takes=("a", "b")), function("a"), "takes (a) instead of (a, b)"),
        (symbol(takes=("a",), optional=True), function("b"), "takes (b) instead of (a)"),
        (symbol(takes=("a",), called=True), function("a", "b", required=frozenset("ab")), "also wants b"),
        (symbol(takes=("a",), called=True), function("a", "b", required=frozenset("a")), ""),
        (symbol(takes=(), called=True), function("a", required=frozenset("a")), "also wants a"),
    ],
)
def test_misfit(wanted: Symbol, found: Definition | None, said: str) -> None:
    assert wanted.misfit(found) == said


@pytest.mark.parametrize("part", PARTS)
def test_of_an_empty_package_all_that_is_not_optional_is_missing(tmp_path: Path, part: Part) -> None:
    needed = [entry for entry in SURFACE if entry.part in (part, "plugin") and not entry.optional]
    found = misfits(SourceTree(tmp_path), part)
    assert found == [f"{entry.name} ({entry.file}) is gone" for entry in needed]
    assert len(found) > 10


def test_the_parts_need_different_things() -> None:
    assert {entry.part for entry in SURFACE} == {"plugin", *PARTS}
    names = [(entry.part, entry.file, entry.name) for entry in SURFACE if "." in entry.name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("part", PARTS)
def test_the_installed_vllm_has_it_all(part: Part) -> None:
    vllm = pytest.importorskip("importlib.util").find_spec("vllm")
    if vllm is None:
        pytest.skip("vLLM is not installed")
    assert misfits(SourceTree(*map(Path, vllm.submodule_search_locations)), part) == []
