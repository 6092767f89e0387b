"""Judging a run: one judgement per question, kept, resumable, and whole whatever the judge does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_openai import FakeOpenAI, Reply

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.evals.grading.judge import ExactJudge, ModelJudge
from agentinfer_lg.evals.grading.judgements import Judged, judge_run, wilson_interval
from agentinfer_lg.settings import EndpointSettings

QUESTIONS = [
    Question(id="heron", question="When was Heron Point lit?", answer="1871", topic="lights"),
    Question(id="gull", question="When was Gull Rock lit?", answer="1902", topic="lights"),
    Question(id="ferry", question="Who built the ferry?", answer="Ada", topic="ships"),
    Question(id="later", question="Not finished?", answer="x", topic="ships"),
]
ANSWERS = {"heron": "1871", "gull": "1903", "ferry": "Ada"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    for question in QUESTIONS:
        if question.id in ANSWERS:
            save(tmp_path, question, ANSWERS[question.id])
    return tmp_path


def save(run: Path, of: Question, answer: str, **more: Any) -> None:
    result = {"question": of.question, "report": f"# {answer} it was.", "answer": answer} | more
    (run / "results" / f"{of.id}.json").write_text(json.dumps(result))


def verdict(request: dict[str, Any], index: int = 0) -> str:
    """Judge like a model would."""
    text = request["messages"][1]["content"]
    right, given = text.split("\nRight answer:")[1].split("\nResponse:")
    correct = right.splitlines()[2] in given
    return json.dumps({"extracted": "e", "reason": "r", "correct": ["no", "yes"][correct], "confidence": 90})


def model_judge(server: FakeOpenAI) -> ModelJudge:
    return ModelJudge(EndpointSettings(base_url=server.url, model="fake-large", max_retries=0))


def judge(
    run: Path, server: FakeOpenAI, questions: Sequence[Question] = QUESTIONS, **more: Any
) -> tuple[dict[str, Any], list[str]]:
    """Return the summary and what was reported of failures."""
    failures: list[str] = []

    def on_done(judged: Judged | None, reason: str) -> None:
        assert (judged is None) is bool(reason)
        failures.extend([reason] if reason else [])

    summary = asyncio.run(judge_run(run, questions, model_judge(server), on_done=on_done, **more))
    return summary, failures


def test_figures(run: Path) -> None:
    with FakeOpenAI(verdict) as server:
        summary, failures = judge(run, server)
    assert failures == []
    low, high = wilson_interval(2, 3)
    assert summary == {
        "questions": 4,
        "finished": 3,
        "judged": 3,
        "correct": 2,
        "accuracy": pytest.approx(2 / 3),
        "accuracy_low": low,
        "accuracy_high": high,
        "calibration_error": pytest.approx(0.9 - 2 / 3),
        "unreadable": 0,
        "judges": ["fake-large"],
        "topics": {
            "lights": {"judged": 2, "correct": 1, "accuracy": 0.5},
            "ships": {"judged": 1, "correct": 1, "accuracy": 1.0},
        },
    }
    (heron,) = (chat.text for chat in server.chats if "Heron" in chat.text)
    assert "# 1871 it was.\n\nAnswer: 1871\n" in heron
    folder = run / "judgements" / "fake-large"
    assert sorted(file.name for file in folder.iterdir()) == ["ferry.json", "gull.json", "heron.json"]


def test_the_exact_match_needs_no_server(run: Path) -> None:
    summary = asyncio.run(judge_run(run, QUESTIONS, ExactJudge()))
    assert (summary["judged"], summary["correct"], summary["judges"]) == (3, 2, ["exact"])
    assert summary["calibration_error"] == pytest.approx(1 / 3)
    assert (run / "judgements" / "exact" / "gull.json").is_file()


def test_only_what_changed_is_asked_again(run: Path) -> None:
    with FakeOpenAI(verdict) as server:
        first = judge(run, server)
        assert judge(run, server) == first
        assert len(server.chats) == 3

        revised = [
            *QUESTIONS[:1],
            Question(id="gull", question=QUESTIONS[1].question, answer="1903", topic="lights"),
        ]
        summary, _ = judge(run, server, revised)
        assert (summary["judged"], summary["correct"]) == (2, 2)
        assert len(server.chats) == 4, "only where the right answers differ"
        assert judge(run, server) == first
        judge(run, server, revised)
        assert len(server.chats) == 4, "both are kept"

        save(run, QUESTIONS[0], "1872")
        summary, _ = judge(run, server)
        assert (summary["correct"], len(server.chats)) == (1, 5)
        (run / "judgements" / "fake-large" / "ferry.json").write_text('{"response": ')
        judge(run, server)
        assert len(server.chats) == 6, "what is damaged is judged anew"


def test_unreadable_counts_as_wrong_and_is_told(run: Path) -> None:
    def script(request: dict[str, Any], index: int) -> str:
        return "no idea" if "Heron" in json.dumps(request) else verdict(request)

    with FakeOpenAI(script) as server:
        summary, failures = judge(run, server)
        again = judge(run, server)[0]
        assert len(server.chats) == 4
    assert failures == []
    assert again == summary
    assert (summary["judged"], summary["correct"], summary["unreadable"]) == (3, 1, 1)
    assert summary["calibration_error"] == pytest.approx(0.4), "of the two that were read"


def test_a_refused_question_stays_unjudged(run: Path) -> None:
    def script(request: dict[str, Any], index: int) -> Any:
        return Reply(status=400, text="content policy") if "Gull" in json.dumps(request) else verdict(request)

    with FakeOpenAI(script) as server:
        summary, failures = judge(run, server, parallel=1)
    assert len(failures) == 1
    assert failures[0].startswith("gull: The judge model at ")
    assert "content policy" in failures[0]
    assert (summary["finished"], summary["judged"], summary["correct"]) == (3, 2, 2)
    assert not (run / "judgements" / "fake-large" / "gull.json").exists()
    with FakeOpenAI(verdict) as server:
        summary, failures = judge(run, server)
        assert len(server.chats) == 1
    assert (summary["judged"], failures) == (3, [])


def test_a_dead_endpoint(run: Path) -> None:
    with FakeOpenAI(verdict) as server:
        server.kill()
        summary, failures = judge(run, server)
    assert len(failures) == 3
    assert (summary["judged"], summary["accuracy"], summary["accuracy_low"]) == (0, None, None)
    assert (summary["calibration_error"], summary["topics"]) == (None, {})


def test_results_that_are_none(run: Path) -> None:
    (run / "results" / "heron.json").write_text("{")
    save(run, QUESTIONS[1], "1902", question="Another question?")
    save(run, QUESTIONS[2], "Ada", report=None)
    with FakeOpenAI(verdict) as server:
        summary, failures = judge(run, server)
        assert server.chats == []
    assert summary["judged"] == 0
    assert [failure.split(":")[0] for failure in failures] == ["heron", "gull", "ferry"]
    assert "is no result of `agentinfer research --json`" in failures[0]
    assert "answers another question" in failures[1]
    assert "is no result" in failures[2]


async def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="holds no results"):
        await judge_run(tmp_path, QUESTIONS, ExactJudge())


def test_killed_and_started_again(run: Path) -> None:
    def script(request: dict[str, Any], index: int) -> Any:
        text = verdict(request)
        return Reply(text=text, hold="second") if "Gull" in json.dumps(request) else text

    program = (
        "import asyncio, sys; from pathlib import Path; import test_judgements as t\n"
        "from agentinfer_lg.evals.grading.judgements import judge_run; from types import SimpleNamespace as N\n"
        "asyncio.run(judge_run(Path(sys.argv[1]), t.QUESTIONS, t.model_judge(N(url=sys.argv[2])), parallel=1))"
    )
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    folder = run / "judgements" / "fake-large"
    with FakeOpenAI(script) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(run), server.url], env={**os.environ, "PYTHONPATH": path}
        )
        try:
            server.wait_for(lambda: any("Gull" in chat.text for chat in server.chats))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
        assert [file.name for file in folder.iterdir()] == ["heron.json"]
        kept = (folder / "heron.json").read_bytes()
        before = len(server.chats)
        server.release("second")
        summary, failures = judge(run, server)
        after = server.chats[before:]
    assert (summary["judged"], failures) == (3, [])
    assert not any("Heron" in chat.text for chat in after)
    assert len(after) == 2
    assert (folder / "heron.json").read_bytes() == kept


# The interval


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_interval_holds_the_share(successes: int, trials: int) -> None:
    if successes > trials:
        with pytest.raises(ValueError, match="no share"):
            wilson_interval(successes, trials)
        return
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1.0
    mirrored = wilson_interval(trials - successes, trials)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)


def test_a_known_interval() -> None:
    # 81 of 263: from the textbook example of Newcombe (1998), 0.2553 to 0.3662.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(0, 0)
