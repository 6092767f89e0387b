"""The benchmark runner on a tiny data set: unattended, resumable, and right about its figures."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import Brain, FakeOpenAI, Reply
from support.run_cli import COMPLETE, ENDPOINT_FAILED, PARTIAL, USAGE, CommandLine, command_line
from support.text import one_spaced

from agentinfer_lg.errors import ConfigurationError, UserInputError
from agentinfer_lg.evals.agent.benchmark.run import BenchmarkRun, Scored, run_benchmark, summarise
from agentinfer_lg.evals.datasets.hotpotqa import load_questions, write_corpus
from agentinfer_lg.evals.datasets.question import Question

BRAIN = Brain()
CORPUS = {
    "Heron Point": ["Heron Point Light was lit in 1871.", " It stands on a cliff."],
    "Gull Rock": ["Gull Rock Light was lit in 1902."],
    "Gull Rock!": ["Gull Rock! is a musical of 1999."],
    "鸬鹚礁": ["鸬鹚礁灯塔于1950年点亮。"],
}
QUESTIONS = [
    {"_id": "q-heron", "question": "When was Heron Point Light lit? ", "answer": "1871"},
    {
        "_id": "q-gull",
        "question": "When was Gull Rock Light lit?",
        "answer": "1902",
        "type": "bridge",
        "supporting_facts": [["Gull Rock", 0], ["鸬鹚礁", 0], ["Gull Rock", 1]],
    },
    {"_id": "q-wrong", "question": "Where does Heron Point Light stand?", "answer": "on a cliff"},
]
YEARS = {"Heron Point Light lit": "1871", "Gull Rock Light lit": "1902", "Point Light stand": "1871"}


def _short(request: dict[str, Any], index: int) -> Any:
    """Read like a model that answers in a word."""
    if request["vllm_xargs"]["agent_role"] in ("qa", "write"):
        last = Brain.last(request)
        return next(year for words, year in YEARS.items() if words in last.rpartition("Question:")[2])
    reply = BRAIN(request, index)
    step = json.loads(reply.text or "") if request["vllm_xargs"]["agent_role"] == "think" else {}
    # To answer it asks for a reading of the passages, as the protocol has it.
    return {"thought": "It is there.", "action": "answer"} if step.get("action") == "answer" else reply


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "questions_tiny.json").write_text(json.dumps(QUESTIONS))
    (folder / "corpus_tiny.json").write_text(json.dumps(CORPUS))
    return folder


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(_short) as fake:
        yield fake


def _shell(folder: Path, server: FakeOpenAI) -> CommandLine:
    return command_line(folder, server, environment={"AGENTINFER_SMALL__TOOL_CALLING": "json"})


def _flags(data: Path, *more: str) -> Sequence[str]:
    return ["eval", "hotpotqa", "--data", str(data), "--out", "run", "--report", "brief", *more]


def _eval(shell: CommandLine, data: Path, *more: str) -> Any:
    return shell.run(*_flags(data, *more), timeout=300)


def _asked(server: FakeOpenAI) -> set[str]:
    """Ids of the questions that any request was about."""
    return {row["_id"] for row in QUESTIONS for chat in server.chats if row["question"].strip() in chat.text}


# The data set


def test_questions(data: Path) -> None:
    questions = load_questions(data)
    assert questions[0] == Question(id="q-heron", question="When was Heron Point Light lit?", answer="1871")
    assert [question.id for question in questions] == ["q-heron", "q-gull", "q-wrong"]
    assert questions[1].evidence == ("Gull Rock", "鸬鹚礁")
    assert questions[1].topic == "bridge"
    assert [question.id for question in load_questions(data, offset=1, limit=1)] == ["q-gull"]
    assert load_questions(data, offset=9) == []


def test_the_corpus_keeps_every_paragraph_apart(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "corpus"
    assert write_corpus(data, target) == 4
    files = sorted(target.iterdir())
    assert len(files) == 4
    texts = [file.read_text(encoding="utf-8") for file in files]
    assert texts[0] == "# Heron Point\n\nHeron Point Light was lit in 1871. It stands on a cliff.\n"
    assert texts[3].startswith("# 鸬鹚礁\n")
    files[1].write_text("mine")
    assert write_corpus(data, target) == 4
    assert files[1].read_text() == "mine", "what is there stays"


@pytest.mark.parametrize("missing", ["questions_tiny.json", "corpus_tiny.json"])
def test_no_data_set(data: Path, tmp_path: Path, missing: str) -> None:
    (data / missing).unlink()
    read: Any = load_questions if missing.startswith("questions") else partial(write_corpus, target=tmp_path)
    with pytest.raises(UserInputError, match="--data"):
        read(data)


# Figures


def _result(answer: str, tiers: Sequence[str], **more: Any) -> dict[str, Any]:
    usage = {"calls": 2, "prompt_tokens": 100, "cached_tokens": 40, "output_tokens": 10}
    return {
        "answer": answer,
        "turns": len(tiers),
        "tier_per_turn": {"seeker-1": list(tiers)},
        "escalations": [],
        "reprefill_tokens": 0,
        "usage": {"small": usage, "large": dict.fromkeys(usage, 0)},
        "seconds": {"plan": 1.0, "think": 2.0, "total": 10.0},
        "progress_checks": {"true": 1, "false": 0, "unreadable": 0, "skipped": 1, "stalls": 0},
        "ran_out": [],
        **more,
    }


def test_summary() -> None:
    right = Scored(
        Question(id="a", question="?", answer="Ada Winter"), _result("ada winter.", ["small", "small"])
    )
    half = Scored(
        Question(id="b", question="?", answer="Ada Winter"),
        _result(
            "Ada",
            ["small", "large"],
            escalations=[{"agent": "seeker-1", "turn": 0, "cause": "c"}],
            reprefill_tokens=70,
            ran_out=["a sentence"],
            seconds={"plan": 2.0, "think": 3.0, "total": 30.0},
        ),
    )
    assert (right.correct, right.f1) == (True, 1.0)
    assert (half.correct, half.f1) == (False, pytest.approx(2 / 3))
    summary = summarise([right, half])
    assert summary["questions"] == 2
    assert summary["exact_match"] == 0.5
    assert summary["f1"] == pytest.approx(5 / 6)
    assert summary["seconds_per_question"] == 20.0
    assert summary["turns_per_question"] == 2.0
    assert summary["large_turns_share"] == 0.25
    assert summary["escalations"] == 1
    assert summary["reprefill_tokens"] == 70
    assert summary["tokens"]["small"] == {
        "calls": 4,
        "prompt_tokens": 200,
        "cached_tokens": 80,
        "output_tokens": 20,
    }
    assert summary["seconds"] == {"plan": 3.0, "think": 5.0, "total": 40.0}
    assert summary["checks"] == {"true": 2, "false": 0, "unreadable": 0, "skipped": 2, "stalls": 0}
    assert summary["ran_out"] == 1
    assert summarise([]) == {"questions": 0}


# Runs


def test_a_whole_run(tmp_path: Path, data: Path, server: FakeOpenAI) -> None:
    shell = _shell(tmp_path, server)
    done = _eval(shell, data, "--json", "figures.json", "--parallel", "2")
    assert done.code == COMPLETE, done.everything
    run = tmp_path / "run"
    assert sorted(file.name for file in (run / "results").iterdir()) == [
        "q-gull.json",
        "q-heron.json",
        "q-wrong.json",
    ]
    results = {file.stem: json.loads(file.read_text()) for file in (run / "results").iterdir()}
    assert results["q-heron"]["answer"] == "1871"
    assert results["q-heron"]["thread"] == "q-heron"
    summary = json.loads((run / "summary.json").read_text())
    assert json.loads((tmp_path / "figures.json").read_text()) == summary
    assert summary["policy"] == "agentcollab"
    assert summary["questions"] == 3
    assert summary["exact_match"] == pytest.approx(2 / 3)
    assert summary["f1"] == pytest.approx(2 / 3)
    sent = [chat for chat in server.chats if chat.model == "fake-small"]
    assert summary["tokens"]["small"]["calls"] == len(sent)
    assert summary["tokens"]["large"]["calls"] == len(server.chats) - len(sent)
    assert summary["turns_per_question"] == pytest.approx(server.roles().count("think") / 3)
    assert summary["checks"]["true"] == server.roles().count("progress")
    assert "| agentcollab | 3 | 0.67 |" in one_spaced(done.stdout)
    assert "## Findings" in results["q-heron"]["report"], "further flags reach the runs"

    before = len(server.requests)
    again = _eval(shell, data)
    assert again.code == COMPLETE
    assert len(server.requests) == before, "what is finished is not asked again"
    assert json.loads((run / "summary.json").read_text()) == summary

    other = _eval(shell, data, "--policy", "always-small")
    assert other.code == USAGE
    assert "other settings" in other.everything
    assert not other.has_traceback()
    assert len(server.requests) == before


def test_killed_in_the_middle_and_started_again(tmp_path: Path, data: Path) -> None:
    def script(request: dict[str, Any], index: int) -> Any:
        reply = _short(request, index)
        hints = request["vllm_xargs"]
        about_gull = "Gull Rock Light lit?" in json.dumps(request["messages"])
        if hints["agent_role"] == "progress" and about_gull:
            text = reply.text if isinstance(reply, Reply) else str(reply)
            return Reply(text=text, hold="second question")
        return reply

    with FakeOpenAI(script) as server:
        shell = _shell(tmp_path, server)
        process = shell.start(
            *_flags(data, "--parallel", "1", "--limit", "2", "--set", "progress_checks=all")
        )
        try:
            server.wait_for(
                lambda: any(
                    chat.role == "progress" and "Gull Rock Light lit?" in chat.text for chat in server.chats
                )
            )
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
        results = tmp_path / "run" / "results"
        assert [file.name for file in results.iterdir()] == ["q-heron.json"]
        assert _asked(server) == {"q-heron", "q-gull"}
        kept = (results / "q-heron.json").read_bytes()
        before = len(server.chats)

        server.release("second question")
        done = _eval(shell, data, "--parallel", "1", "--limit", "2", "--set", "progress_checks=all")
        assert done.code == COMPLETE, done.everything
        after = server.chats[before:]
    assert not any("Heron Point Light lit?" in chat.text for chat in after), "finished"
    gull = [chat for chat in after if "Gull Rock Light lit?" in chat.text]
    assert "plan" not in [chat.role for chat in gull], "it goes on where it was"
    assert [chat.role for chat in gull][:1] == ["progress"]
    assert (results / "q-heron.json").read_bytes() == kept
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["questions"] == 2
    assert summary["exact_match"] == 1.0


@pytest.mark.slow
def test_a_failing_question_is_reported_and_tried_again(tmp_path: Path, data: Path) -> None:
    broken = True

    def script(request: dict[str, Any], index: int) -> Any:
        if broken and "Gull Rock Light lit?" in json.dumps(request["messages"]):
            return Reply(status=401, text="no")
        return _short(request, index)

    with FakeOpenAI(script) as server:
        shell = _shell(tmp_path, server)
        first = _eval(shell, data, "--limit", "2")
        assert first.code == PARTIAL
        assert "1 questions failed; the same command tries them again." in first.everything
        failed = next(line for line in first.stderr.splitlines() if line.startswith("failed"))
        assert "q-gull" in failed
        assert not first.has_traceback()
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["questions"] == 1
        assert sorted(file.name for file in (tmp_path / "run" / "results").iterdir()) == [
            "q-heron.json",
        ]
        broken = False
        before = len(server.chats)
        second = _eval(shell, data, "--limit", "2")
        assert second.code == COMPLETE, second.everything
        assert all("Gull Rock Light lit?" in chat.text for chat in server.chats[before:])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["questions"] == 2


def test_without_data(tmp_path: Path, server: FakeOpenAI) -> None:
    shell = _shell(tmp_path, server)
    done = shell.run("eval", "hotpotqa")
    assert done.code == USAGE
    assert "AGENTINFER_DATA" in done.everything
    missing = shell.run("eval", "hotpotqa", "--data", str(tmp_path))
    assert missing.code in (USAGE, ENDPOINT_FAILED)
    assert "questions_*.json" in missing.everything
    assert not missing.has_traceback()


async def test_other_settings_are_refused_by_the_library_too(tmp_path: Path) -> None:
    def run(*flags: str) -> BenchmarkRun:
        return BenchmarkRun(
            name="x", folder=tmp_path / "run", questions=[], data="made up", docs=tmp_path, flags=flags
        )

    done: list[Any] = []
    assert await run_benchmark(run("--policy", "random"), on_done=lambda *args: done.append(args)) == []
    assert await run_benchmark(run("--policy", "random"), on_done=lambda *args: done.append(args)) == []
    with pytest.raises(ConfigurationError, match="other settings"):
        await run_benchmark(run("--policy", "always-small"), on_done=lambda *args: done.append(args))
    assert done == []
