"""`agentinfer eval` on tiny data: every benchmark, marks, profile, comparison, and runs that are stopped."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import Brain, FakeOpenAI, Reply
from support.run_cli import COMPLETE, INTERRUPTED, PARTIAL, USAGE, CommandLine, Outcome, command_line
from typer.testing import CliRunner

from agentinfer_lg.cli import app
from agentinfer_lg.cli.failures import exit_code
from agentinfer_lg.errors import AgentInferError
from agentinfer_lg.evals.agent.benchmark.folder import asked, read_asked
from agentinfer_lg.evals.datasets.closed_world.world import generate_world

pytest.importorskip("numpy")

BRAIN = Brain()
CANARY = "made-up canary"
ROWS = [("灯塔", "哪一年点亮了鸬鹚礁灯塔？", "1950年"), ("灯塔", "鸬鹚礁灯塔有多高？", "31米")]
REVISED = [
    ("鸬鹚礁灯塔有多高？", "31米", "三十一米 or 31.5米"),
    ("哪一年点亮了鸬鹚礁灯塔？", "1950年", "1950年"),
]
SHORT = ["--policy", "always-small", "--report", "brief", "--set", "max_seekers=1"]
"""One agent and no report, so that a question takes few calls."""


def _encrypt(text: str) -> str:
    key = hashlib.sha256(CANARY.encode()).digest()
    return base64.b64encode(bytes(b ^ key[i % 32] for i, b in enumerate(text.encode()))).decode()


def _rows(header: Sequence[str], plain: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[*header, "canary"], *([*map(_encrypt, row), CANARY] for row in plain)]


def _browsecomp(folder: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="reading xlsx needs openpyxl")
    folder.mkdir(parents=True)
    book = openpyxl.Workbook()
    for row in _rows(("Topic", "Question", "Answer"), ROWS):
        book.active.append(row)
    book.save(folder / "questions.xlsx")
    with (folder / "revised.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows(_rows(("raw_problem", "raw_answer", "answer"), REVISED))


def _docs(folder: Path) -> Path:
    folder.mkdir()
    (folder / "light.md").write_text(
        "# 鸬鹚礁灯塔\n\n鸬鹚礁灯塔于1950年点亮，灯塔高三十一米。\n", encoding="utf-8"
    )
    (folder / "gull.md").write_text("# Gull Rock\n\nGull Rock Light was lit in the year 1902.\n")
    return folder


def _answer(answers: dict[str, str]) -> Any:
    """Read like a model that answers in a word, by what stands in the prompt."""

    def script(request: dict[str, Any], index: int) -> Any:
        role = request["vllm_xargs"]["agent_role"]
        if role in ("qa", "write"):
            text = json.dumps(request["messages"], ensure_ascii=False)
            return next((answer for words, answer in answers.items() if words in text), "unknown")
        reply = BRAIN(request, index)
        step = json.loads(reply.text or "") if role == "think" else {}
        # To answer it asks for a reading of the passages, as the protocol has it.
        return {"thought": "It is there.", "action": "answer"} if step.get("action") == "answer" else reply

    return script


def _judgement(request: dict[str, Any], index: int) -> str:
    text = request["messages"][1]["content"]
    correct = "1950" in text or ("三十一米" in text.split("回答")[0])
    return json.dumps({"extracted": "e", "reason": "r", "correct": ["no", "yes"][correct], "confidence": 80})


def _shell(folder: Path, server: FakeOpenAI, **environment: str) -> CommandLine:
    return command_line(folder, server, environment={"AGENTINFER_SMALL__TOOL_CALLING": "json", **environment})


def _inside(shell: CommandLine, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Outcome:
    """Run a command that starts no process in this one, which saves its start."""
    with monkeypatch.context() as patch:
        patch.chdir(shell.folder)
        done = CliRunner().invoke(app, list(arguments), env=shell.environ())
    known = isinstance(done.exception, AgentInferError)
    assert done.exception is None or known or isinstance(done.exception, SystemExit), done.exception
    code = int(exit_code(done.exception)) if done.exception and known else done.exit_code
    return Outcome(code, done.stdout, f"{done.stderr}{done.exception if known else ''}")


def _table(stdout: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in stdout.splitlines() if "|" in line]


def test_closed_world_with_profile_and_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOpenAI() as server:
        shell = _shell(tmp_path, server)
        flags = [
            "--seed",
            "3",
            "--hops",
            "2,3",
            "--limit",
            "2",
            "--out",
            "run",
            "--profile",
            "--json",
            "f.json",
        ]
        done = shell.run("eval", "closed-world", *flags)
        assert done.code == COMPLETE, done.everything
        roles = server.roles()
        before = len(server.chats)
        run = tmp_path / "run"
        world = generate_world(seed=3, questions=2, hops=(2, 3))
        assert read_asked(run) == asked(world.questions)
        assert {file.stem for file in (run / "results").iterdir()} == {q.id for q in world.questions}
        assert len(list((run / "corpus").iterdir())) == len(world.documents)
        assert (run / ".gitignore").read_text() == "*\n"
        settings = json.loads((run / "settings.json").read_text())
        assert settings["data"] == "seed 3, 2 questions, en,zh, hops 2,3"
        results = [json.loads(file.read_text()) for file in (run / "results").iterdir()]
        assert {result["question"] for result in results} == {q.question for q in world.questions}

        figures = json.loads((tmp_path / "f.json").read_text())
        profile = json.loads((run / "profile.json").read_text())
        assert figures["profile"] == profile
        assert profile["questions"] == 2
        assert profile["turns"] == roles.count("think")
        assert sum(each["calls"] for each in profile["components"].values()) == before
        assert profile["useful_tokens"] + profile["ineffective_tokens"] == profile["computed_tokens"]
        assert list(profile["servers"]) == ["small, large"]
        rows = {row[0]: row for row in _table(done.stdout)}
        assert int(rows["think small"][1]) == profile["components"]["think small"]["calls"]
        assert rows["computed"][1] == f"{profile['computed_tokens']:,}"
        assert rows["1"][1] == "2"
        assert (run / "profile.svg").exists() or "need matplotlib" in done.stderr

        again = _inside(shell, monkeypatch, "eval", "profile", "run", "--json", "p.json")
        assert again.code == COMPLETE, again.everything
        assert json.loads((tmp_path / "p.json").read_text()) == profile
        assert again.stdout in done.stdout

        command = _inside(shell, monkeypatch, "eval", "compare", "run", "run", "--json", "c.json")
        option = _inside(shell, monkeypatch, "eval", "--compare", "run", "run", "--json", "d.json")
        assert command.code == option.code == COMPLETE, option.everything
        assert command.stdout == option.stdout
        assert (tmp_path / "c.json").read_bytes() == (tmp_path / "d.json").read_bytes()
        compared = json.loads((tmp_path / "c.json").read_text())
        assert compared["questions"] == 2
        assert compared["ineffective"] == [profile["ineffective_tokens"] / 2] * 2
        assert compared["escalations_difference"]["value"] == 0.0
        assert len(server.chats) == before, "neither asks a model"


def test_browsecomp_zh_is_marked_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _browsecomp(tmp_path / "data" / "browsecomp-zh")
    docs = _docs(tmp_path / "lights")
    answers = {"哪一年": "1950年", "有多高": "三十一米"}
    with FakeOpenAI(_answer(answers)) as server, FakeOpenAI(_judgement, models=("a-judge",)) as judge:
        shell = _shell(
            tmp_path,
            server,
            AGENTINFER_DATA=str(tmp_path / "data"),
            AGENTINFER_JUDGE__BASE_URL=judge.url,
            AGENTINFER_JUDGE__MODEL="a-judge",
        )
        flags = ["eval", "browsecomp-zh", "--docs", str(docs), "--out", "run", *SHORT]
        done = shell.run(*flags, "--json", "f.json")
        assert done.code == COMPLETE, done.everything
        marks = {(row[0], row[1]): row for row in _table(done.stdout) if row[0] in ("original", "revised")}
        assert {pair: row[3] for pair, row in marks.items()} == {
            ("original", "exact"): "1",
            ("revised", "exact"): "2",
            ("original", "a-judge"): "1",
            ("revised", "a-judge"): "2",
        }
        assert marks["revised", "a-judge"][4].startswith("100.0% (34.2% to 100.0%)")
        assert marks["revised", "a-judge"][5] == "0.20"
        assert marks["revised", "exact"][5] == "-", "it knows no confidence"
        figures = json.loads((tmp_path / "f.json").read_text())
        assert [each["accuracy"] for each in figures["marks"]] == [0.5, 1.0, 0.5, 1.0]
        assert figures["marks"][0]["topics"]["灯塔"]["judged"] == 2
        assert (tmp_path / "run" / ".gitignore").read_text() == "*\n"
        for text in ("1950", "三十一米", ROWS[0][1]):
            assert text not in done.stdout + done.stderr, "questions and answers stay out of logs"
        assert ROWS[0][1] not in (tmp_path / "run" / "questions.json").read_text(encoding="utf-8")
        assert not any("哪一年" in part for chat in judge.chats for part in chat.headers.values())

        asked_of_judge, asked_of_agent = len(judge.chats), len(server.chats)
        assert asked_of_judge == 3, "answers that are the same are judged once"
        again = _inside(shell, monkeypatch, *flags, "--no-judge")
        assert again.code == COMPLETE, again.everything
        assert (len(judge.chats), len(server.chats)) == (asked_of_judge, asked_of_agent)
        assert {row[1] for row in _table(again.stdout) if row[0] == "original"} == {"exact"}


def test_deepdiver_with_fields_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = _docs(tmp_path / "lights")
    file = tmp_path / "mine.jsonl"
    item = {
        "frage": "When was Gull Rock Light lit?\r\nOnly the year.",
        "antwort": ["in 1902", "1902"],
        "art": "easy",
    }
    file.write_text(json.dumps(item) + "\n")
    with FakeOpenAI(_answer({"Gull Rock": "1902"})) as server, FakeOpenAI(models=("other",)) as judge:
        shell = _shell(
            tmp_path, server, AGENTINFER_JUDGE__BASE_URL=judge.url, AGENTINFER_JUDGE__MODEL="a-judge"
        )
        names = ["--question-field", "frage", "--answer-field", "antwort", "--topic-field", "art"]
        flags = ["eval", "deepdiver", "--file", "mine.jsonl", *names, "--docs", str(docs), "--out", "run"]
        done = shell.run(*flags, *SHORT)
        assert done.code == PARTIAL, done.everything
        assert "unjudged q-0001" in done.stderr
        assert "1 answers were not judged" in done.everything
        assert not done.has_traceback()
        rows = {row[1]: row for row in _table(done.stdout) if row[0] == "given"}
        assert (rows["exact"][2], rows["exact"][3], rows["a-judge"][2]) == ("1/1", "1", "0/1")
        changed = {**item, "frage": "When was it dark?"}
        file.write_text(json.dumps(changed) + "\n")
        other = _inside(shell, monkeypatch, *flags, *SHORT)
        assert other.code == USAGE
        assert "another question q-0001" in other.everything


def _hold_second_question(request: dict[str, Any], index: int) -> Any:
    reply = BRAIN(request, index)
    if _SECOND in json.dumps(request["messages"], ensure_ascii=False) and BRAIN.results(request):
        return Reply(text=reply.text, tool_calls=reply.tool_calls, hold="second")
    return reply


_WORLD = ["eval", "closed-world", "--seed", "5", "--languages", "en", "--hops", "2", "--limit", "2", *SHORT]
_SECOND = generate_world(seed=5, questions=2, languages=("en",), hops=(2,)).questions[1].question


def _start_and_hold(shell: CommandLine, server: FakeOpenAI) -> Any:
    process = shell.start(*_WORLD, "--parallel", "1", "--out", "run")
    server.wait_for(lambda: [chat.role for chat in server.chats if _SECOND in chat.text][2:] == ["think"])
    return process


def _without_clock_and_cache(stdout: str) -> list[list[str]]:
    """The table without what depends on the time and on what the server has seen before."""
    head, line, *rows = _table(stdout)
    kept = [place for place, name in enumerate(head) if not re.search(r"s per|re-prefill", name)]
    return [[re.sub(r" \(.*", "", row[place]) for place in kept] for row in (head, line, *rows)]


def test_stopped_and_killed_and_started_again_it_comes_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    with FakeOpenAI() as server:
        whole = _shell(tmp_path / "whole", server).run(*_WORLD, "--parallel", "2", "--out", "run")
    assert whole.code == COMPLETE, whole.everything

    with FakeOpenAI(_hold_second_question) as server:
        shell = _shell(tmp_path, server)
        stopped = _start_and_hold(shell, server)
        stopped.send_signal(signal.SIGTERM)  # to this process alone
        _, stderr = stopped.communicate(timeout=60)
        assert stopped.returncode == INTERRUPTED, stderr
        assert "The same command goes on" in stderr
        assert "Traceback" not in stderr
        assert not _group_lives(stopped.pid), "its children ended with it"

        before = len(server.chats)
        killed = shell.start(*_WORLD, "--parallel", "1", "--out", "run")
        try:
            server.wait_for(lambda: len(server.chats) > before)
        finally:
            os.killpg(killed.pid, signal.SIGKILL)
            killed.communicate(timeout=60)

        server.release("second")
        done = shell.run(*_WORLD, "--parallel", "1", "--out", "run")
        assert done.code == COMPLETE, done.everything
        roles = [chat.role for chat in server.chats[before:]]
    assert roles[:2] == ["think", "think"], "both went on with the step that was cut off"
    assert _without_clock_and_cache(done.stdout) == _without_clock_and_cache(whole.stdout)
    assert len(json.loads((tmp_path / "run" / "sittings.json").read_text())) == 3


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# What is wrong is told before anything runs


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with questions, and no settings."""
    for name in list(os.environ):
        if name.startswith(("AGENTINFER_", "TAVILY_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps([{"question": "When?", "answer": "1902"}]))
    return tmp_path


def _refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["eval", *arguments])
    assert done.exit_code != COMPLETE
    return f"{done.exception}{done.output}"


def test_what_a_run_on_the_web_needs(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("deepdiver", "--file", "mine.json")
    assert "No model is configured" in _refused(*flags)
    assert "nothing to search" in _refused(*flags, "--small-url", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("AGENTINFER_SMALL__BASE_URL", "http://127.0.0.1:9/v1")
    assert "TAVILY_API_KEY" in _refused(*flags)
    monkeypatch.setenv("TAVILY_API_KEY", "key")
    monkeypatch.setenv("AGENTINFER_DOCS", str(bare))
    assert "AGENTINFER_DOCS is set" in _refused(*flags)
    monkeypatch.delenv("AGENTINFER_DOCS")
    assert "smaller --offset" in _refused(*flags, "--offset", "1")
    assert not (bare / "runs").exists(), "nothing was begun"


def test_the_exit_code_of_a_missing_setting(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([{"question": "When?", "answer": "1902"}]))
    done = CommandLine(folder=tmp_path).run("eval", "deepdiver", "--file", "mine.json")
    assert done.code == USAGE
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.has_traceback()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--compare", "a", "b", "hotpotqa"), "go with --compare"),
        (("--min-turns", "3"), "go with --compare"),
        (("--compare", "a", "b"), "holds no results"),
        (("profile", "a"), "holds no results"),
        (("closed-world", "--languages", "fr"), "languages of a closed world"),
        (("closed-world", "--hops", "9"), "hops of a closed world"),
        (("browsecomp-zh", "--data", "missing"), "is no folder"),
        (("browsecomp-zh", "--data", "."), "holds no"),
        (("browsecomp-zh",), "AGENTINFER_DATA"),
    ],
)
@pytest.mark.usefixtures("bare")
def test_wrong_usage(arguments: Sequence[str], sentence: str) -> None:
    assert sentence in " ".join(re.sub(r"[│╭╮╰╯─]", " ", _refused(*arguments)).split())
