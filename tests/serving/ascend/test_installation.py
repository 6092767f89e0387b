"""What the doctor says of an NPU machine, with a tree of files in its place."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from agentinfer_lg.cli.doctor import diagnose
from agentinfer_lg.serving.ascend.installation import npu_findings
from agentinfer_lg.serving.ascend.releases import RELEASES, known_release
from agentinfer_lg.serving.engine.findings import Finding, Site
from agentinfer_lg.settings import Settings

ROOT = Path(__file__).parents[3]
HOME = "usr/local/Ascend/ascend-toolkit/latest"
INFO = f"{HOME}/aarch64-linux/ascend_toolkit_install.info"
DRIVER = "usr/local/Ascend/driver/version.info"
VERSIONS = {
    "torch": "2.10.0+cpu",
    "torch-npu": "2.10.0.post4",
    "vllm": "0.30.0+empty",
    "vllm-ascend": "0.30.0rc2",
}


class Computer:
    """A machine where all is well, to be spoilt."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"PATH": str(root / "bin"), "ASCEND_HOME_PATH": f"/{HOME}"}
        self.versions = dict(VERSIONS)
        for name in ("dev/davinci0", "dev/davinci1", "dev/davinci_manager"):
            self.write(name, "")
        self.write(DRIVER, "Version=25.5.0\nfirmware=7\n")
        self.write(INFO, "package_name=Ascend-cann-toolkit\nversion=9.2.0\n")
        self.write("bin/npu-smi", "#!/bin/sh\n").chmod(0o755)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    def findings(self) -> list[Finding]:
        site = Site(root=self.root, environ=self.environ, version=lambda name: self.versions.get(name, ""))
        return npu_findings(site)


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    return Computer(tmp_path)


def test_a_machine_where_all_is_well(computer: Computer) -> None:
    assert [(found.verdict, found.subject, found.detail) for found in computer.findings()] == [
        ("ok", "npus", "2 found (/dev/davinci0, 1), all visible"),
        ("ok", "npu driver", "25.5.0; `npu-smi info` shows what the NPUs do"),
        ("ok", "cann", f"9.2.0 in /{HOME}"),
        ("ok", "torch-npu", "2.10.0.post4, with torch 2.10.0+cpu"),
        ("ok", "vllm-ascend", "0.30.0rc2, with vllm 0.30.0+empty"),
    ]


Spoil = Callable[[Computer], object]


@pytest.mark.parametrize(
    ("spoil", "subject", "verdict", "said"),
    [
        (
            lambda c: c.environ.update(ASCEND_RT_VISIBLE_DEVICES="1"),
            "npus",
            "ok",
            "1 of them visible (ASCEND_RT_VISIBLE_DEVICES=1)",
        ),
        (
            lambda c: c.environ.update(ASCEND_RT_VISIBLE_DEVICES="1,2"),
            "npus",
            "FAIL",
            "names 2: they are counted from 0 to 1",
        ),
        (lambda c: c.remove(DRIVER), "npu driver", "warn", "in a container, mount that file"),
        (lambda c: c.write(DRIVER, "nonsense"), "npu driver", "warn", "install the driver"),
        (lambda c: c.remove("bin/npu-smi"), "npu driver", "warn", "mount /usr/local/bin/npu-smi"),
        (
            lambda c: c.environ.pop("ASCEND_HOME_PATH"),
            "cann",
            "FAIL",
            "install CANN 9.2.0, or work in the image",
        ),
        (
            lambda c: (c.environ.pop("ASCEND_HOME_PATH"), c.write("usr/local/Ascend/cann/set_env.sh", "")),
            "cann",
            "FAIL",
            "source /usr/local/Ascend/cann/set_env.sh",
        ),
        (
            lambda c: (c.environ.pop("ASCEND_HOME_PATH"), c.environ.update(ASCEND_TOOLKIT_HOME=f"/{HOME}")),
            "cann",
            "ok",
            "9.2.0 in",
        ),
        (lambda c: c.environ.update(ASCEND_HOME_PATH="/gone"), "cann", "FAIL", "/gone is not there"),
        (lambda c: c.remove(INFO), "cann", "ok", "of unknown version; wanted is 9.2.0"),
        (
            lambda c: c.write(INFO, "version=9.1.0\n"),
            "cann",
            "warn",
            "9.1.0, but vllm-ascend 0.30.0rc2 is made for CANN 9.2.0",
        ),
        (
            lambda c: c.versions.pop("torch-npu"),
            "torch-npu",
            "FAIL",
            "torch-npu is not installed: pip install torch==2.10.0 torch-npu==2.10.0.post4",
        ),
        (lambda c: c.versions.pop("torch"), "torch-npu", "FAIL", "torch is not installed: pip install"),
        (
            lambda c: c.versions.update(torch="2.13.0"),
            "torch-npu",
            "FAIL",
            "torch-npu 2.10.0.post4 does not belong to torch 2.13.0",
        ),
        (
            lambda c: c.versions.update({"torch-npu": "2.10.0.post2"}),
            "torch-npu",
            "warn",
            "2.10.0.post2, but vllm-ascend 0.30.0rc2 is made for 2.10.0.post4",
        ),
        (lambda c: c.versions.pop("vllm-ascend"), "vllm-ascend", "FAIL", "not installed: pip install"),
        (
            lambda c: c.versions.update(vllm="0.32.0"),
            "vllm-ascend",
            "FAIL",
            "0.30.0rc2 belongs to vllm 0.30.0, but vllm 0.32.0 is installed: ",
        ),
        (lambda c: c.versions.pop("vllm"), "vllm-ascend", "FAIL", "but no vllm is installed"),
        (
            lambda c: c.versions.update({"vllm-ascend": "0.31.0rc1", "vllm": "0.31.0"}),
            "vllm-ascend",
            "warn",
            "0.31.0rc1 was not looked at; known are 0.23.0, ",
        ),
        (
            lambda c: c.versions.update({"vllm-ascend": "0.31.0rc1"}),
            "vllm-ascend",
            "FAIL",
            "belongs to vllm 0.31.0, but vllm 0.30.0+empty is installed",
        ),
    ],
)
def test_what_is_amiss_is_said_with_what_to_do(
    computer: Computer, spoil: Spoil, subject: str, verdict: str, said: str
) -> None:
    spoil(computer)
    found = {finding.subject: finding for finding in computer.findings()}
    assert (found[subject].verdict, said in found[subject].detail) == (verdict, True), found[subject]


class TestWithoutNpus:
    @pytest.fixture
    def plain(self, computer: Computer) -> Computer:
        for name in ("dev/davinci0", "dev/davinci1"):
            computer.remove(name)
        computer.environ.pop("ASCEND_HOME_PATH")
        return computer

    def test_torch_npu_without_cann_is_reported(self, plain: Computer) -> None:
        (found,) = plain.findings()
        assert (found.verdict, found.subject) == ("warn", "torch-npu")
        assert "`import torch` fails" in found.detail

    @pytest.mark.parametrize(
        "change",
        [
            lambda c: c.versions.pop("torch-npu"),
            lambda c: c.environ.update(ASCEND_HOME_PATH=f"/{HOME}"),
            lambda c: c.environ.update(TORCH_DEVICE_BACKEND_AUTOLOAD="0"),
        ],
        ids=["not installed", "with CANN", "not loaded"],
    )
    def test_nothing_else_is_said(self, plain: Computer, change: Spoil) -> None:
        change(plain)
        assert plain.findings() == []


async def test_the_doctor_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = Finding("FAIL", "cann", "what to do")
    monkeypatch.setattr("agentinfer_lg.serving.ascend.installation.npu_findings", lambda: [found])
    settings = Settings(home=tmp_path)
    shown = [diagnosis async for diagnosis in diagnose(settings, timeout=0.1)]
    assert Finding("FAIL", "cann", "what to do") in shown


def test_nothing_that_may_be_broken_is_imported() -> None:
    code = (
        "import sys\nfrom agentinfer_lg.serving.ascend.installation import npu_findings\nnpu_findings()\n"
        "print([name for name in ('torch', 'torch_npu', 'vllm', 'vllm_ascend', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


class TestReleases:
    def test_the_documentation_has_the_same_table(self) -> None:
        text = (ROOT / "docs" / "ascend.md").read_text(encoding="utf-8")
        rows = [
            re.split(r"\s*\|\s*", line.strip(" |")) for line in text.splitlines() if re.match(r"\| 0\.", line)
        ]
        assert rows == [
            [known.vllm_ascend, known.vllm, known.torch, known.torch_npu, known.cann] for known in RELEASES
        ]

    def test_the_extra_installs_the_newest_that_is_no_release_candidate(self) -> None:
        stable = [known for known in RELEASES if "rc" not in known.vllm_ascend][-1]
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["optional-dependencies"]["ascend"] == [
            f"vllm=={stable.vllm}",
            f"vllm-ascend=={stable.vllm_ascend}",
            f"torch-npu=={stable.torch_npu}",
        ]

    def test_a_local_part_of_a_version_does_not_count(self) -> None:
        assert known_release("0.30.0rc2+g12ab") is RELEASES[-1]
        assert known_release("0.30.0") is known_release("") is None
