"""The command line, run for real against a scripted endpoint: output, exit codes, resume, signals."""

import asyncio
import io
import json
import re
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from support.fake_openai import FakeOpenAI
from support.run_cli import ROOT, CommandLine

from agentinfer_lg.cli import main, research
from agentinfer_lg.cli.failures import ExitCode
from agentinfer_lg.cli.options import build_context, load_settings, parse_assignments
from agentinfer_lg.cli.research import _ask
from agentinfer_lg.collab.effective_policy import ONE_MODEL_NOTE
from agentinfer_lg.context import Context
from agentinfer_lg.errors import CheckpointError, UserInputError
from agentinfer_lg.question import MAX_QUESTION_CHARS, check_question
from agentinfer_lg.settings import EndpointSettings, Settings
from agentinfer_lg.threads import RunRecord, Threads, check_thread_name, new_thread_name

QUESTION = "When was Heron Point Light lit?"
FACT = "Heron Point Light was lit in 1871."
KEYS = {
    "question", "answer", "report", "plan", "sources", "findings", "turns", "tier_per_turn", "one_model",
    "progress_checks",
    "escalations", "filters", "swaps", "reprefill_tokens", "usage", "seconds", "dropped_citations", "ran_out", "complete",
    "thread", "trace", "waiting_for", "resumable", "notes", "error", "exit_code",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if re.match(r"AGENTINFER_|TAVILY_", name):
            monkeypatch.delenv(name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "heron.txt").write_text(f"Heron Point\n\n{FACT}\n")
    monkeypatch.setenv("AGENTINFER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


def _main(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    code = stop.value.code
    assert isinstance(code, int)
    return code


def _research(server: FakeOpenAI, *arguments: str) -> int:
    return _main("research", "--docs", "docs", "--small-url", server.url, *arguments)


def _chats(server: FakeOpenAI) -> int:
    return len(server.chats)


# What is refused before anything runs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], "empty"),
        (["   \n "], "empty"),
        (["q" * 100_000], "100,000 characters"),
        ([], "no question"),
        (["q", "--set", "max_turn=3"], "Did you mean max_turns"),
        (["q", "--set", "nonsense"], "KEY=VALUE"),
        (["q", "--max-turns", "0"], "max_turns"),
        (["q", "--set", "temperature=hot"], "temperature"),
        (["q", "--thread", "../../etc/passwd"], "cannot name a run"),
        (["q", "--thread", "a/b"], "cannot name a run"),
        (["q", "--thread", "x" * 65], "cannot name a run"),
        (["q", "--resume", "x"], "leave out the question"),
        (["q", "--docs", "no-such-folder"], "no such folder"),
        (["q", "--small-url", "ftp://host"], "http://"),
        (["q", "--output", "no/such/file.md"], "cannot be written"),
        (["q", "--plan", "no-such-file"], "cannot be read"),
        (["q", "--policy", "best"], "--policy"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("research", "--docs", "docs", *arguments) == 2
    shown = capsys.readouterr()
    assert words in " ".join(shown.err.replace("│", " ").split())
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_nothing_to_search(server: FakeOpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("research", "q", "--small-url", server.url) == 2
    assert "--docs" in capsys.readouterr().err


def test_a_malformed_variable_is_named_but_its_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTINFER_SMALL__TIMEOUT", "sk-pasted-into-the-wrong-place")
    assert _main("research", "q", "--docs", "docs") == 2
    shown = capsys.readouterr().err
    assert "AGENTINFER_SMALL__TIMEOUT" in shown
    assert "sk-pasted" not in shown


@given(st.text(max_size=300))
def test_question_is_stripped_text_or_refused(text: str) -> None:
    try:
        question = check_question(text)
    except UserInputError:
        assert not text.strip()
    else:
        assert question == question.strip() != ""
        question.encode("utf-8")


def test_question_limit_is_exact() -> None:
    assert len(check_question("a" * MAX_QUESTION_CHARS)) == MAX_QUESTION_CHARS
    with pytest.raises(UserInputError, match=r"20,001 characters.*20,000.*--docs"):
        check_question("a" * (MAX_QUESTION_CHARS + 1))


@given(st.text(max_size=80))
def test_thread_names_are_never_paths(name: str) -> None:
    try:
        check_thread_name(name)
    except UserInputError:
        return
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name)
    assert Path(name).name == name
    assert name not in (".", "..")


def test_new_names_are_valid_and_differ() -> None:
    names = {new_thread_name() for _ in range(50)}
    assert len(names) == 50
    assert all(check_thread_name(name) for name in names)


def test_any_knob_can_be_set() -> None:
    texts = [f"{name}={field.default}" for name, field in Context.model_fields.items()]
    assert build_context(parse_assignments(texts)) == Context()
    knobs = parse_assignments(["max-turns=7", "verifier=false", "language=zh"])
    assert build_context({"max_turns": 3}, knobs) == Context(max_turns=7, verifier=False, language="zh")


def test_a_flag_of_a_knob_has_its_name_and_every_flag_among_the_knobs_is_one() -> None:
    command = typer.main.get_group(research.app).commands["research"]
    shown = {one.name for one in command.params if getattr(one, "rich_help_panel", None) == "Knobs"}
    named = {one.name for one in command.params if one.name in Context.model_fields}
    assert shown == named | {"assignments"}


def test_flags_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTINFER_SMALL__BASE_URL", "http://a.example/v1")
    monkeypatch.setenv("AGENTINFER_SMALL__API_KEY", "sk-1")
    settings = load_settings(small={"base_url": "http://b.example/v1", "model": None})
    assert settings.small.base_url == "http://b.example/v1"
    assert settings.small.api_key.get_secret_value() == "sk-1"


def test_the_example_of_settings_is_complete_and_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / ".env.example").read_text()
    names = set(re.findall(r"^(?:# )?([A-Z_]+)=", text, flags=re.MULTILINE))
    wanted = {
        f"AGENTINFER_{tier}__{name.upper()}"
        for tier in ("SMALL", "LARGE")
        for name in EndpointSettings.model_fields
    }
    wanted |= {
        f"AGENTINFER_JUDGE__{name}" for name in ("BASE_URL", "MODEL", "API_KEY", "TIMEOUT", "MAX_RETRIES")
    }
    wanted |= {
        f"AGENTINFER_{name.upper()}"
        for name in Settings.model_fields
        if name not in ("small", "large", "judge")
    }
    assert names == wanted - {"AGENTINFER_TAVILY_API_KEY"} | {"TAVILY_API_KEY"}
    (Path.cwd() / ".env").write_text(text)
    monkeypatch.delenv("AGENTINFER_HOME")
    settings = Settings()
    assert settings.small == EndpointSettings(base_url="http://127.0.0.1:8000/v1")
    assert settings.large == settings.judge == EndpointSettings()


def test_the_reference_names_everything() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for name in KEYS:
        assert f"`{name}`" in text
    for code in ExitCode:
        assert f"| {code.value} |" in text
    for name in (*EndpointSettings.model_fields, "docs", "home", "allow_private_addresses"):
        assert f"__{name.upper()}`" in text or f"AGENTINFER_{name.upper()}`" in text


# A run


def test_json_is_one_object_and_the_rest_goes_to_stderr(
    server: FakeOpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _research(server, QUESTION, "--json", "--thread", "run-1") == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert set(result) == KEYS
    assert result["question"] == QUESTION
    assert "1871" in result["report"]
    assert result["complete"] is True
    assert result["thread"] == "run-1"
    assert result["usage"]["small"]["calls"] > 0
    assert [source["uri"] for source in result["sources"] if source["cited"]] == ["heron.txt"]
    assert "contacting the model servers" in shown.err
    assert "1 documents to search" in shown.err
    assert "what happened" in shown.err
    assert "--resume run-1" in shown.err


def test_one_model_for_both_tiers_is_told_once(
    server: FakeOpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _research(server, QUESTION, "--json", "--small-model", "fake-small") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["one_model"] is True
    said, _, table = shown.err.partition("what happened")
    assert said.count(ONE_MODEL_NOTE) == 1
    assert ONE_MODEL_NOTE in " ".join(table.split())
    assert "progress checks" not in table
    assert "progress" not in server.roles()


def test_the_report_alone_is_on_stdout(server: FakeOpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    assert _research(server, QUESTION, "--quiet", "--output", "report.md") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith(f"# {QUESTION}")
    assert Path("report.md").read_text().strip() == shown.out.strip()


def test_question_from_stdin(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n"))
    assert _research(server, "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["question"] == QUESTION


def test_knobs_reach_the_run(server: FakeOpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    assert _research(server, QUESTION, "--json", "--policy", "always-large", "--set", "report=brief") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["usage"]["small"]["calls"] == 0
    assert {tier for tiers in result["tier_per_turn"].values() for tier in tiers} == {"large"}


def test_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://127.0.0.1:1/v1"
    assert (
        _main("research", QUESTION, "--docs", "docs", "--small-url", url, "--json", "--thread", "again") == 3
    )
    shown = capsys.readouterr()
    error = json.loads(shown.out)
    assert error["exit_code"] == 3
    assert "nothing listens there" in error["error"]
    assert "nothing listens there" in shown.err
    assert not Threads(Path("home")).exists("again"), "nothing was done, so the name is free"


def test_no_checkpoint_saves_nothing(
    server: FakeOpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _research(server, QUESTION, "--json", "--no-checkpoint") == 0
    assert json.loads(capsys.readouterr().out)["resumable"] is False
    assert not (tmp_path / "home").exists()


def test_an_unexpected_error_leaves_its_traceback_in_a_file(
    server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    monkeypatch.setattr("agentinfer_lg.graphs.deep_research.create_deep_research_graph", broken)
    assert _research(server, QUESTION) == 1
    shown = capsys.readouterr().err
    assert "Unexpected error: RuntimeError: a bug" in shown
    assert "Traceback" not in shown
    [written] = (tmp_path / "home" / "errors").iterdir()
    assert str(written) in shown
    assert "in broken" in written.read_text()


# Saved runs


def test_a_finished_run_is_shown_again_without_asking_anybody(
    server: FakeOpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _research(server, QUESTION, "--thread", "run-1") == 0
    report, requests = capsys.readouterr().out, len(server.requests)
    assert _main("research", "--resume", "run-1") == 0
    assert capsys.readouterr().out == report
    assert len(server.requests) == requests


def test_unknown_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("research", "--docs", "docs", "--resume", "nobody") == 5
    assert "agentinfer threads" in capsys.readouterr().err


def test_a_name_is_not_used_twice(server: FakeOpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    assert _research(server, QUESTION, "--thread", "run-1") == 0
    assert _research(server, QUESTION, "--thread", "run-1") == 2
    assert "--resume run-1" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("AGENTINFER_HOME", "file/home")
    assert _research(server, QUESTION) == 5
    assert "AGENTINFER_HOME" in capsys.readouterr().err


def test_what_is_saved_holds_no_secret(server: FakeOpenAI, tmp_path: Path) -> None:
    url = server.url.replace("http://", "http://user:hunter2@")
    arguments = [
        "--small-key",
        "sk-secret-1",
        "--large-url",
        url,
        "--large-key",
        "sk-secret-2",
        "--thread",
        "run-1",
    ]
    assert _research(server, QUESTION, *arguments) == 0
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in (b"sk-secret", b"hunter2"))
    [record] = (tmp_path / "home" / "threads").glob("*.json")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


def test_plan_approval_waits_then_goes_on_with_an_edited_plan(
    server: FakeOpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        _research(server, QUESTION, "--plan-approval", "--json", "--thread", "run-1", "--max-turns", "3") == 6
    )
    waiting = json.loads(capsys.readouterr().out)
    assert waiting["waiting_for"] == "plan_approval"
    assert waiting["plan"]
    assert "think" not in server.roles()
    assert Threads(Path("home")).load("run-1").state == "waiting"

    Path("plan.txt").write_text("Where is Heron Point?\nWhen was Heron Point Light lit?\n")
    assert _main("research", "--resume", "run-1", "--plan", "plan.txt", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert [part["question"] for part in done["plan"]] == [
        "Where is Heron Point?",
        "When was Heron Point Light lit?",
    ]
    assert len(done["findings"]) == 2
    assert Threads(Path("home")).load("run-1").context["max_turns"] == 3


def test_plan_approved_by_flag(server: FakeOpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    assert _research(server, QUESTION, "--plan-approval", "--approve", "--json") == 0
    assert "1871" in json.loads(capsys.readouterr().out)["report"]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["", ""], True),
        (["what?", "y"], True),
        (["c"], False),
        (["e", "one?", "two?", ""], ["one?", "two?"]),
        (["e", "", "c"], False),
        ([], None),
    ],
)
def test_asking_about_a_plan(typed: list[str], answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in typed)))
    assert _ask(["Where?", "When?"]) == answer


def test_listing(server: FakeOpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("threads") == 0
    assert "no saved runs" in capsys.readouterr().err
    assert _research(server, QUESTION, "--thread", "run-1") == 0
    capsys.readouterr()
    assert _main("threads", "--json") == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert (listed["thread"], listed["state"], listed["question"]) == ("run-1", "finished", QUESTION)
    assert _main("threads") == 0
    assert "run-1" in capsys.readouterr().out


def test_a_run_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    threads = Threads(tmp_path)
    threads.save(RunRecord(thread="run-1", question="q"))
    assert threads.load("run-1").state == "stopped"
    with threads.hold("run-1"):
        assert threads.load("run-1").state == "running"
        with pytest.raises(CheckpointError, match="another process"), threads.hold("run-1"):
            pass
    with threads.hold("run-1"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"question": 1}', '{"question": "q", "state": "odd"}'])
def test_a_broken_record_is_a_clear_error(content: str, tmp_path: Path) -> None:
    threads = Threads(tmp_path)
    (tmp_path / "threads").mkdir()
    (tmp_path / "threads" / "run-1.json").write_text(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        threads.load("run-1")
    assert threads.all() == []


def test_a_full_disk_costs_the_record_not_the_run(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Threads, record: RunRecord) -> None:
        msg = "Runs cannot be recorded (No space left on device)."
        raise CheckpointError(msg)

    monkeypatch.setattr(Threads, "save", full)
    assert _research(server, QUESTION, "--json") == 4
    result = json.loads(capsys.readouterr().out)
    assert "1871" in result["report"]
    assert result["complete"] is True
    assert any("No space left" in note for note in result["notes"])
    assert result["resumable"] is False


def _holding(request: Mapping[str, Any], index: int) -> Any:
    from support.fake_openai import Brain

    reply = Brain()(dict(request), index)
    hints = request.get("vllm_xargs") or {}
    second_step = hints.get("agent_role") == "think" and hints.get("agent_turn") == 1
    return replace(reply, hold="second step") if second_step else reply


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_stops_cleanly_and_resume_finishes(number: signal.Signals, tmp_path: Path) -> None:
    with FakeOpenAI(_holding) as server:
        command = CommandLine(folder=tmp_path, small=server.url, large=server.url)
        process = command.start("research", QUESTION, "--json", "--thread", "run-1")
        server.wait_for(lambda: server.roles().count("think") == 2)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert "agentinfer research --resume run-1" in stderr
        assert "Traceback" not in stderr
        stopped = json.loads(stdout)
        assert (stopped["exit_code"], stopped["resumable"], stopped["report"]) == (130, True, "")
        before = server.roles()
        server.release("second step")
        done = command.run("research", "--resume", "run-1", "--json")
        assert done.code == 0, done.everything
        assert "1871" in done.result["report"]
        assert done.result["seconds"]["total"] > stopped["seconds"]["total"]
        assert server.roles().count("plan") == before.count("plan"), "the plan is not made again"
        assert server.roles()[len(before)] == "think", "it goes on with the step that was cut off"


def test_kill_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    with FakeOpenAI(_holding) as server:
        command = CommandLine(folder=tmp_path, small=server.url, large=server.url)
        process = command.start("research", QUESTION, "--thread", "run-1")
        server.wait_for(lambda: server.roles().count("think") == 2)
        process.kill()
        process.communicate(timeout=60)
        record = Threads(command.home).load("run-1")
        assert (record.state, record.seconds) == ("stopped", 0.0)
        before = server.roles()
        server.release("second step")
        done = command.run("research", "--resume", "run-1", "--json")
        assert done.code == 0, done.everything
        assert "1871" in done.result["report"]
        assert server.roles().count("plan") == before.count("plan")
        record = Threads(command.home).load("run-1")
        assert (record.state, record.sitting) == ("finished", "")
        took = float(re.findall(r"\[ *([\d.]+)s\]", done.stderr)[-1])
        assert record.seconds > took, "the time before the kill counts"


def test_run_can_be_driven_from_a_running_loop(server: FakeOpenAI, tmp_path: Path) -> None:
    """Without a main thread there are no signal handlers, and it still works."""
    from agentinfer_lg.cli.live import SilentView
    from agentinfer_lg.cli.runner import Run, run

    settings = load_settings(docs=tmp_path / "docs", small={"base_url": server.url})
    request = Run(
        record=RunRecord(thread="t", question=QUESTION), settings=settings, context=Context(), save=False
    )

    async def work() -> int:
        return await asyncio.to_thread(
            lambda: int(asyncio.run(run(request, view=SilentView(), ask_plan=lambda _: True)).code)
        )

    assert asyncio.run(work()) == 0
