"""Who may import whom, what importing costs, and the shape of the package."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentinfer_lg

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "agentinfer_lg"
PARTS = ("graphs", "nodes", "serving", "evals")
HEAVY = (
    "vllm",
    "torch",
    "langgraph",
    "langchain",
    "langchain_core",
    "langchain_openai",
    "openai",
    "numba",
    "json_repair",
    "tiktoken",
)

FORBIDDEN = {
    "core": {"graphs", "nodes", "serving", "evals", "cli", "middleware"},
    "nodes": {"graphs", "serving", "evals", "cli", "middleware"},
    "graphs": {"serving", "evals", "cli", "middleware"},
    "middleware": {"graphs", "nodes", "serving", "evals", "cli"},
    "serving": {"graphs", "nodes", "evals", "cli", "middleware"},
    "cli": {"evals", "middleware"},
    "evals": set(),
}
"""Part of the package to the parts that it may not import, neither at its top level nor inside a function."""


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0]
        yield (part if part in FORBIDDEN else "core"), path
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            yield part, path


def _imports(tree: ast.AST) -> set[str]:
    """Second parts of the `agentinfer_lg.X` modules imported, inside functions as well; TYPE_CHECKING blocks do not count."""
    found: set[str] = set()
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes.extend(node.orelse)
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "agentinfer_lg" and len(parts) > 1:
                found.add(parts[1])
        nodes.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize(
    ("part", "path"), [pytest.param(*m, id=str(m[1].relative_to(ROOT))) for m in _modules()]
)
def test_imports_point_one_way(part: str, path: Path) -> None:
    if path == PACKAGE / "__init__.py":  # the public API; it loads lazily
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not _imports(tree) & FORBIDDEN[part]


@pytest.mark.parametrize(
    "edge",
    [
        "from agentinfer_lg.evals.common import charts",
        "from agentinfer_lg import evals",
        "def f():\n    import agentinfer_lg.evals.common.charts",
        "if debug:\n    from agentinfer_lg.evals.common.charts import save_panels",
    ],
)
def test_an_edge_is_seen_wherever_it_stands(edge: str) -> None:
    assert _imports(ast.parse(edge)) & FORBIDDEN["cli"] == {"evals"}


def test_the_root_of_the_measurements_and_of_the_nodes_stays_small() -> None:
    assert [path.name for path in (ROOT / "evals").glob("*.py")] == ["__init__.py"]
    assert len(list((ROOT / "nodes").glob("*.py"))) <= 10  # nine nodes at most, and the package itself


@pytest.mark.parametrize("part", PARTS)
def test_links_show_the_parts_at_the_root(part: str) -> None:
    link = PACKAGE / part
    assert link.is_symlink(), "a checkout needs symbolic links: git config core.symlinks true"
    assert link.readlink() == Path("..") / part


@pytest.mark.parametrize(
    "statement",
    [
        "import agentinfer_lg",
        "import agentinfer_lg; agentinfer_lg.Context(); agentinfer_lg.Settings; agentinfer_lg.UserInputError",
        "import agentinfer_lg.hints, agentinfer_lg.question, agentinfer_lg.result, agentinfer_lg.llm.probe",
        "import agentinfer_lg.middleware",
        "import agentinfer_lg.cli",
        "import runpy; sys.argv = ['agentinfer', '--help']; main('agentinfer_lg.cli')",
        "import runpy; sys.argv = ['agentinfer', 'research', '--help']; main('agentinfer_lg.cli')",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    code = (
        "import sys, json, runpy\n"
        "def main(name):\n"
        "    try: runpy.run_module(name, run_name='__main__')\n"
        "    except SystemExit as stop: assert stop.code == 0, stop.code\n"
        f"{statement}\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_public_names_exist() -> None:
    for name in agentinfer_lg.__all__:
        assert getattr(agentinfer_lg, name) is not None
    assert set(agentinfer_lg.__all__) <= set(dir(agentinfer_lg))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = agentinfer_lg.nonsense
