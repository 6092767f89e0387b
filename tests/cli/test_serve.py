"""The commands `agentinfer serve` and `agentinfer demo`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import typer
from support.processes import groups_below, processes_of
from typer.testing import CliRunner

from agentinfer_lg.cli import demo
from agentinfer_lg.cli.command_table import command_table
from agentinfer_lg.errors import UserInputError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def app() -> typer.Typer:
    commands = {"serve": "agentinfer_lg.cli.serve", "demo": "agentinfer_lg.cli.demo"}
    app = typer.Typer(cls=command_table(commands))
    app.callback()(lambda: None)
    return app


class TestServe:
    def test_a_dry_run_prints_a_line_for_the_shell(self, app: typer.Typer) -> None:
        arguments = ["serve", "owner/model", "--device", "cpu", "--port", "7", "--dry-run"]
        result = CliRunner().invoke(app, [*arguments, "--", "--max-num-seqs", "3", "--block-size=64"])
        assert result.exit_code == 0, result.output
        words = shlex.split(result.stdout)
        assert "VLLM_CPU_NUM_OF_RESERVED_CPU=0" in words
        assert words[words.index("--port") + 1] == "7"
        assert words[-3:] == ["--max-num-seqs", "3", "--block-size=64"]
        assert words.count("--block-size") == 0

    def test_a_dry_run_for_a_gpu(self, app: typer.Typer) -> None:
        result = CliRunner().invoke(app, ["serve", "owner/model", "--device", "cuda", "--dry-run"])
        assert "vllm.entrypoints.cli.main serve owner/model" in result.stdout
        assert "VLLM_CPU" not in result.stdout

    def test_speculation_is_on_and_can_be_set(self, app: typer.Typer) -> None:
        arguments = ["serve", "m", "--device", "cpu", "--dry-run"]
        result = CliRunner().invoke(app, arguments)
        assert "AgentSAMProposer" in result.stdout
        assert result.stderr == ""
        result = CliRunner().invoke(
            app, [*arguments, "--sam-max-draft", "5", "--sam-memory", "off", "--sam-memory-tokens", "9"]
        )
        words = shlex.split(result.stdout)
        assert json.loads(words[words.index("--speculative-config") + 1])["num_speculative_tokens"] == 5
        ours = json.loads(words[words.index("--additional-config") + 1])["agentinfer"]["sam"]
        assert (ours["memory"], ours["memory_tokens"]) == ("off", 9)

    def test_speculation_is_off_on_request_or_with_a_reason(self, app: typer.Typer) -> None:
        result = CliRunner().invoke(app, ["serve", "m", "--device", "cpu", "--dry-run", "--no-sam"])
        assert "AgentSAM" not in result.output
        arguments = ["serve", "m", "--device", "cpu", "--dry-run", "--", "--async-scheduling"]
        result = CliRunner().invoke(app, arguments)
        assert "AgentSAMProposer" not in result.stdout
        assert "AgentSAM is off: vLLM cannot draft so with --async-scheduling." in result.stderr

    def test_scheduling_is_on_and_can_be_set(self, app: typer.Typer) -> None:
        arguments = ["serve", "m", "--device", "cpu", "--dry-run"]
        words = shlex.split(CliRunner().invoke(app, arguments).stdout)
        assert words[words.index("--scheduler-cls") + 1].endswith(".make_scheduler")
        words = shlex.split(CliRunner().invoke(app, [*arguments, "--sched-max-wait", "5"]).stdout)
        ours = json.loads(words[words.index("--additional-config") + 1])["agentinfer"]["sched"]
        assert ours == {"max_wait_seconds": 5}

    def test_scheduling_is_off_on_request_or_with_a_reason(self, app: typer.Typer) -> None:
        result = CliRunner().invoke(app, ["serve", "m", "--device", "cpu", "--dry-run", "--no-sched"])
        assert "scheduler" not in result.output
        arguments = ["serve", "m", "--device", "cpu", "--dry-run", "--", "--scheduling-policy", "priority"]
        result = CliRunner().invoke(app, arguments)
        assert "make_scheduler" not in result.stdout
        assert (
            "AgentSched is off: --scheduling-policy priority chooses another order."
            in result.stderr.splitlines()
        )

    def test_an_npu_gets_both_parts(self, app: typer.Typer) -> None:
        result = CliRunner().invoke(app, ["serve", "m", "--device", "npu", "--dry-run"])
        assert "make_scheduler" in result.stdout
        assert "AgentSAMProposer" in result.stdout
        assert not result.stderr

    def test_a_scheduler_of_ascend_is_refused_until_somebody_decides(self, app: typer.Typer) -> None:
        start = ["serve", "m", "--device", "npu", "--dry-run"]
        theirs = ["--", "--additional-config", '{"enable_balance_scheduling": true}']
        result = CliRunner().invoke(app, [*start, *theirs])
        assert result.exit_code == 2
        assert (
            "AgentSched cannot run: enable_balance_scheduling in --additional-config chooses Ascend's balance "
            "scheduling; take that out, or give --no-sched"
        ) in result.stderr
        result = CliRunner().invoke(app, [*start, "--no-sched", *theirs])
        assert result.exit_code == 0
        assert "make_scheduler" not in result.stdout

    def test_an_impossible_wait_is_wrong_usage(self, app: typer.Typer) -> None:
        result = CliRunner().invoke(app, ["serve", "m", "--sched-max-wait", "0", "--dry-run"])
        assert result.exit_code == 2
        assert "max_wait_seconds is a number above 0" in result.stderr

    def test_an_impossible_draft_is_wrong_usage(self, app: typer.Typer) -> None:
        result = CliRunner().invoke(app, ["serve", "m", "--sam-max-draft", "0", "--dry-run"])
        assert result.exit_code == 2
        assert "drafts 1 to 64 tokens" in result.stderr

    def test_an_impossible_value_is_wrong_usage(self, app: typer.Typer) -> None:
        result = CliRunner().invoke(app, ["serve", "m", "--kv-cache-gib", "0", "--dry-run"])
        assert result.exit_code == 2
        assert "larger than 0 GiB" in result.stderr

    @pytest.mark.vllm
    def test_a_missing_folder_is_told_without_a_traceback(
        self, app: typer.Typer, demo_model_folder: Path
    ) -> None:
        result = CliRunner().invoke(app, ["serve", str(demo_model_folder / "none"), "--port", "0"])
        assert result.exit_code == 3
        assert "there is no model folder" in result.stderr
        assert "Traceback" not in result.output

    def test_serves_until_it_is_interrupted(self, demo_model_folder: Path) -> None:
        command = [sys.executable, "-m", "agentinfer_lg.cli", "serve", str(demo_model_folder), "--port", "0"]
        command += [
            "--kv-cache-gib",
            "1",
            "--max-model-len",
            "1024",
            "--served-model-name",
            "small",
            "--sam-memory",
            "off",
        ]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # A shell starts background jobs with SIGINT ignored, and children inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stdout is not None
        try:
            with process.stdout:
                line = next(text for text in process.stdout if text.startswith("ready"))
                url = line.split("AGENTINFER_SMALL__BASE_URL=")[1].strip()
                assert httpx.get(f"{url}/models", timeout=30).json()["data"][0]["id"] == "small"
                groups = groups_below(process.pid)
                assert (
                    sum(len(processes_of(group)) for group in groups) >= 3
                )  # API server, engine core, worker
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=60) == 130
        finally:
            process.kill()
            process.wait()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/models", timeout=30)
        assert [processes_of(group) for group in groups] == [[] for _ in groups]


FAKE_RESEARCH = """
import json, os, sys
print("report of the research")
with open(os.environ["SEEN"], "w") as file:
    names = ("BASE_URL", "MODEL")
    tiers = {t: [os.environ[f"AGENTINFER_{t}__{n}"] for n in names] for t in ("SMALL", "LARGE")}
    json.dump({"arguments": sys.argv[1:], **tiers}, file)
sys.exit(4)
"""


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Replace engine and research command; the list tells what happened to the engine."""
    happened: list[str] = []

    @contextmanager
    def engine() -> Iterator[SimpleNamespace]:
        happened.append("started")
        try:
            yield SimpleNamespace(base_url="http://127.0.0.1:9/v1", model="tiny")
        finally:
            happened.append("stopped")

    python = tmp_path / "python"
    (tmp_path / "research.py").write_text(FAKE_RESEARCH)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/research.py "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(demo, "_engine", engine)
    monkeypatch.setattr(demo.sys, "executable", str(python))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    return happened


class TestDemo:
    def test_researches_with_both_tiers_on_the_engine_and_stops_it(
        self, app: typer.Typer, fake_engine: list[str], tmp_path: Path
    ) -> None:
        result = CliRunner().invoke(
            app, ["demo", "--docs", str(tmp_path), "--", "-v what?", "--max-turns", "3"]
        )
        assert result.exit_code == 4  # the exit code of the research
        assert fake_engine == ["started", "stopped"]
        seen = json.loads((tmp_path / "seen.json").read_text())
        assert seen["SMALL"] == seen["LARGE"] == ["http://127.0.0.1:9/v1", "tiny"]
        arguments = seen["arguments"]
        assert arguments[:3] == ["-m", "agentinfer_lg.cli", "research"]
        assert arguments[arguments.index("--docs") + 1] == str(tmp_path)
        assert arguments[-4:] == ["--max-turns", "3", "--", "-v what?"]

    def test_asks_the_default_question_of_the_examples(
        self, app: typer.Typer, fake_engine: list[str], tmp_path: Path
    ) -> None:
        CliRunner().invoke(app, ["demo", "--docs", os.path.relpath(EXAMPLES / "corpus"), "--", ""])
        seen = json.loads((tmp_path / "seen.json").read_text())
        assert seen["arguments"][-1] == demo.default_question(EXAMPLES / "corpus")

    def test_other_documents_need_a_question(
        self, app: typer.Typer, fake_engine: list[str], tmp_path: Path
    ) -> None:
        result = CliRunner().invoke(app, ["demo", "--docs", str(tmp_path)])
        assert result.exit_code == 2
        assert "Pass a question" in result.stderr
        assert fake_engine == []

    def test_a_missing_folder_is_noticed_before_the_engine_starts(
        self, app: typer.Typer, fake_engine: list[str], tmp_path: Path
    ) -> None:
        result = CliRunner().invoke(app, ["demo", "What?", "--docs", str(tmp_path / "none")])
        assert result.exit_code == 2
        assert "there is no such folder" in result.stderr
        assert fake_engine == []

    def test_an_installed_wheel_has_no_examples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "example_corpus", lambda: None)
        with pytest.raises(UserInputError, match="Pass a question and --docs FOLDER"):
            demo._task("", None)

    def test_the_engine_stops_when_the_research_cannot_start(
        self, app: typer.Typer, fake_engine: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(demo.sys, "executable", str(tmp_path / "none"))
        result = CliRunner().invoke(app, ["demo", "What?", "--docs", str(tmp_path)])
        assert result.exit_code == 1
        assert fake_engine == ["started", "stopped"]


class TestRealDemo:
    def test_answers_the_default_question_from_the_documents(self, demo_model_folder: Path) -> None:
        process = subprocess.run(
            [sys.executable, "-m", "agentinfer_lg.cli", "demo"],
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        questions = json.loads((EXAMPLES / "questions.json").read_text(encoding="utf-8"))
        asked = next(entry for entry in questions if entry.get("default"))
        assert process.returncode in (0, 4), process.stderr[-2000:]
        assert asked["accept"][0] in process.stdout
        assert asked["supporting"][0] in process.stdout
        assert "Stopping the engine" in process.stderr


class TestExamples:
    def test_every_question_names_documents_that_are_there(self) -> None:
        questions = json.loads((EXAMPLES / "questions.json").read_text(encoding="utf-8"))
        assert len({entry["id"] for entry in questions}) == len(questions)
        assert sum(bool(entry.get("default")) for entry in questions) == 1
        for entry in questions:
            assert entry["hops"] in (1, 2, 3)
            assert entry["accept"]
            for name in entry["supporting"]:
                assert (EXAMPLES / "corpus" / name).is_file(), name

    def test_the_answers_are_in_the_documents(self) -> None:
        """Plain text formats only; the PDF is read by the tools' own tests."""
        questions = json.loads((EXAMPLES / "questions.json").read_text(encoding="utf-8"))
        for entry in questions:
            texts = [
                (EXAMPLES / "corpus" / name).read_text(encoding="utf-8")
                for name in entry["supporting"]
                if not name.endswith(".pdf")
            ]
            if len(texts) == len(entry["supporting"]):
                everything = " ".join("\n".join(texts).split()).lower()
                assert any(word.lower() in everything for word in entry["accept"]), entry["id"]
