"""A run that was killed or stopped goes on: nothing that had finished is done again, and nothing found is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import Brain, FakeOpenAI, PageServer, Reply, render_prompt
from support.run_cli import COMPLETE, INTERRUPTED, PARTIAL, USAGE, CommandLine, command_line

HERON = "When was Heron Point Light lit?"
CURLEW = "When was Curlew Rock Light lit?"
QUESTION = "When were Heron Point Light and Curlew Rock Light lit?"
HERON_FACT = "Heron Point Light was lit in 1871 by the keeper Ada Winter."
CURLEW_FACT = "Curlew Rock Light was lit in 1904 by the keeper Tom Hale."
THREAD = "lights"
PATIENCE = 60.0


class Lights:
    """The model: one seeker reads two pages at once, the other finds its answer in the documents."""

    def __init__(self, fast: str, slow: str) -> None:
        self._crawls = tuple(("crawl", {"urls": [url]}) for url in (fast, slow))
        self._brain = Brain()

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        role = request["vllm_xargs"]["agent_role"]
        if role == "plan":
            return Reply(text=json.dumps({"questions": [HERON, CURLEW]}))
        if role == "think" and seeks(request, HERON):
            if not self._brain.results(request):
                return Reply(text="I read both pages.", tool_calls=self._crawls)
            return Reply(text="Found.", tool_calls=(("finish", {"answer": HERON_FACT, "sources": [1, 2]}),))
        return self._brain(request, index)


def seeks(request: dict[str, Any], question: str) -> bool:
    """Whether a request belongs to the seeker of `question`."""
    return f"Question: {question}" in render_prompt(request)


@pytest.fixture
def pages() -> Iterator[PageServer]:
    with PageServer() as server:
        server.add("/fast", f"<html><title>Fast</title><p>{HERON_FACT}</p></html>")
        server.add(
            "/slow",
            "<html><title>Slow</title><p>The keeper Ada Winter was born inland.</p></html>",
            hold="slow",
        )
        yield server


@pytest.fixture
def server(pages: PageServer) -> Iterator[FakeOpenAI]:
    with FakeOpenAI(Lights(pages.url + "/fast", pages.url + "/slow")) as endpoint:
        yield endpoint


@pytest.fixture
def line(tmp_path: Path, server: FakeOpenAI) -> CommandLine:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "curlew.txt").write_text(f"Curlew Rock\n\n{CURLEW_FACT}\n")
    open_network = {"AGENTINFER_ALLOW_PRIVATE_ADDRESSES": "true"}
    return command_line(tmp_path, server, environment=open_network)


@contextlib.contextmanager
def started(line: CommandLine, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = line.start(*arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    """Poll what cannot wake us: the contents of the database of another process."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"the run ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE:g} s"
        time.sleep(0.02)


def saved(line: CommandLine, channel: str, text: str) -> bool:
    """Whether a finished task has its write to `channel` on disk, with `text` in it."""
    database = line.home / "checkpoints.sqlite"
    if not database.exists():
        return False
    query = "SELECT COUNT(*) FROM writes WHERE channel = ? AND instr(value, CAST(? AS BLOB)) > 0"
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)
        ) as connection:
            return bool(connection.execute(query, (channel, text)).fetchone()[0])
    except sqlite3.OperationalError:  # not created yet
        return False


def reach_the_middle(line: CommandLine, pages: PageServer, process: subprocess.Popen[str]) -> None:
    """Wait until one seeker is done and the other has one of its two calls on disk and the other one hanging."""
    pages.wait_for(
        lambda: {"/fast", "/slow"} <= set(pages.visits), timeout=PATIENCE, what="both pages to be asked for"
    )
    until(lambda: saved(line, "findings", CURLEW), process, "finding of the second seeker on disk")
    until(lambda: saved(line, "observations", "/fast"), process, "finished tool call on disk")
    assert not saved(line, "observations", "/slow")


def check_the_rest(line: CommandLine, pages: PageServer, server: FakeOpenAI) -> None:
    """Resume, and check that only what had not finished is done."""
    before = list(server.chats)
    pages.release("slow")
    done = line.run("research", "--json", "--resume", THREAD)
    assert done.code == COMPLETE, done.everything
    assert pages.visits.count("/fast") == 1, "the call that had finished is not repeated"
    assert pages.visits.count("/slow") == 2, "the call that hung is made again"
    after = server.chats[len(before) :]
    assert "plan" not in [chat.role for chat in after]
    assert not [
        chat for chat in after if chat.role in ("think", "progress", "qa") and seeks(chat.body, CURLEW)
    ]
    asked = [render_prompt(chat.body) for chat in server.chats if chat.role in ("plan", "think", "progress")]
    assert len(asked) == len(set(asked)), "no model call is made twice"
    result = done.result
    assert {finding["question"] for finding in result["findings"]} == {HERON, CURLEW}
    assert all(finding["answer"] for finding in result["findings"])
    answers = " ".join(finding["answer"] for finding in result["findings"])
    assert "1871" in answers
    assert "1904" in answers
    assert {source["uri"].rsplit("/")[-1] for source in result["sources"]} == {"fast", "slow", "curlew.txt"}
    assert result["complete"]
    assert result["seconds"]["total"] > 0


def test_killed_in_the_middle_of_a_tool_call(
    line: CommandLine, pages: PageServer, server: FakeOpenAI
) -> None:
    with started(line, "research", "--json", "--thread", THREAD, QUESTION) as process:
        reach_the_middle(line, pages, process)
        os.kill(process.pid, signal.SIGKILL)
        stdout, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert stdout == "", "it was killed before there was a report"
    check_the_rest(line, pages, server)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopped_in_the_middle_of_a_tool_call(
    line: CommandLine, pages: PageServer, server: FakeOpenAI, number: signal.Signals
) -> None:
    with started(line, "research", "--json", "--thread", THREAD, QUESTION) as process:
        reach_the_middle(line, pages, process)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert f"agentinfer research --resume {THREAD}" in " ".join(stderr.split())
    assert "Traceback" not in stderr
    found = json.loads(stdout)["findings"]
    assert [finding["question"] for finding in found] == [CURLEW], "what was found so far is told"
    check_the_rest(line, pages, server)


@pytest.mark.slow
def test_killed_twice(line: CommandLine, pages: PageServer, server: FakeOpenAI) -> None:
    with started(line, "research", "--json", "--thread", THREAD, QUESTION) as process:
        reach_the_middle(line, pages, process)
        process.kill()
        process.communicate(timeout=PATIENCE)
    with started(line, "research", "--json", "--resume", THREAD) as process:
        pages.wait_for(
            lambda: pages.visits.count("/slow") >= 2, timeout=PATIENCE, what="the hanging page again"
        )
        process.kill()
        process.communicate(timeout=PATIENCE)
    pages.release("slow")
    done = line.run("research", "--json", "--resume", THREAD)
    assert done.code == COMPLETE, done.everything
    assert pages.visits.count("/fast") == 1
    assert pages.visits.count("/slow") == 3
    assert len(done.result["findings"]) == 2


def test_a_finished_run_is_only_shown_again(line: CommandLine, pages: PageServer, server: FakeOpenAI) -> None:
    pages.release("slow")
    first = line.run("research", "--json", "--thread", THREAD, QUESTION)
    assert first.code == COMPLETE, first.everything
    requests = len(server.chats)
    again = line.run("research", "--json", "--resume", THREAD)
    assert again.code == COMPLETE
    assert again.result["report"] == first.result["report"]
    assert len(server.chats) == requests


def test_a_run_that_does_not_exist(line: CommandLine) -> None:
    done = line.run("research", "--resume", "no-such-run")
    assert done.code in (USAGE, 5)
    assert "no-such-run" in done.everything
    assert not done.has_traceback()


def test_resumed_while_the_endpoint_is_dead(line: CommandLine, pages: PageServer, server: FakeOpenAI) -> None:
    with started(line, "research", "--json", "--thread", THREAD, QUESTION) as process:
        reach_the_middle(line, pages, process)
        process.kill()
        process.communicate(timeout=PATIENCE)
    pages.release("slow")
    server.kill()
    done = line.run("research", "--json", "--resume", THREAD)
    assert done.code == PARTIAL, done.everything
    assert "1904" in done.result["report"], "what had been found is reported without a model"
    assert not done.has_traceback()
