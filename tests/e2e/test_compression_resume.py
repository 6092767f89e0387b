"""A run that is killed while its context is compressed goes on, and ends as if nobody had killed it.

Each round reads one page of a server that counts its visits, so a tool call that is made twice is seen.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from support.fake_openai import FakeOpenAI, PageServer, Recorded, Reply
from support.long_session import (
    NOTES,
    QUESTION,
    LongSession,
    check_extends,
    code,
    fact,
    honest,
    superseding,
    thinks,
)
from support.run_cli import COMPLETE, CommandLine, Outcome, command_line, flags

THREAD = "lamps"
PAGES = 50
PATIENCE = 60.0
ONCE = ("plan", "think", "progress", "distill", "filter", "qa", "write")
"""Roles of requests that must not be made twice; a prefill is made again, because the server may have lost it."""
KNOBS: dict[str, object] = {
    "policy": "always-small",
    "compress_after_tokens": 2000,
    "report": "brief",
    "max_turns": PAGES,
    "verifier": False,
}


@dataclass
class Session:
    """A session that is held at one point."""

    pages: PageServer
    point: str = ""
    """`distilling`, `prefilled`, `swapped`, or empty: it is not held."""
    background: bool = False
    turn: int = 0
    """Turn whose Think step is held in the background mode, where the swap itself is not what is waited for."""
    brain: LongSession = field(init=False)

    def __post_init__(self) -> None:
        urls = [self.pages.url + f"/{number}" for number in range(PAGES)]
        self.brain = LongSession(
            turns=0 if self.background else 9,
            after_notes=1 if self.background else None,
            distill=self._distill,
            on_think=self._think,
            others={"prewarm": self._prewarm},
        )
        self._urls = urls

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        reply = self.brain(request, index)
        if reply.tool_calls and reply.tool_calls[0][0] == "web_search":
            turn = request["vllm_xargs"]["agent_turn"]
            crawl = (("crawl", {"urls": [self._urls[turn]], "sources": []}),)
            reply = Reply(text=reply.text, tool_calls=crawl, hold=reply.hold)
        return reply

    def _distill(self, request: dict[str, Any]) -> Reply:
        reply = honest(request)
        hold = "gate" if self.point == "distilling" else ""
        return Reply(text=reply.text, truncate=False, hold=hold)

    def _prewarm(self, request: dict[str, Any]) -> Reply:
        hold = "gate" if self.point == "prefilled" and not self.background else ""
        return Reply(text="x", hold=hold)

    def _think(self, turn: int, request: dict[str, Any]) -> Reply | None:
        seen = any(NOTES in str(message["content"]) for message in request["messages"])
        late = self.background and self.point != "swapped" and turn >= self.turn
        if (self.point == "swapped" and seen) or (self.point and late):
            reply = self.brain._think(turn, request)
            return Reply(text=reply.text, tool_calls=reply.tool_calls, hold="gate")
        return None


@contextlib.contextmanager
def _pages() -> Iterator[PageServer]:
    with PageServer() as server:
        for number in range(PAGES):
            rest = " ".join(f"Row {row} of oil store book {number} is about trimming." for row in range(12))
            body = f"<p>{fact(number)} {rest} Its inventory mark is {code(number)} now.</p>"
            server.add(f"/{number}", f"<html><title>Lamp{number:04d}</title>{body}</html>")
        yield server


@pytest.fixture
def pages() -> Iterator[PageServer]:
    with _pages() as server:
        yield server


def _line(folder: Path, server: FakeOpenAI) -> CommandLine:
    line = command_line(folder, server, environment={"AGENTINFER_ALLOW_PRIVATE_ADDRESSES": "true"})
    line.docs.mkdir(exist_ok=True)
    (line.docs / "nothing.txt").write_text("Nothing of importance is here.\n")
    return line


def _arguments(**knobs: object) -> list[str]:
    return ["research", "--json", "--thread", THREAD, *flags(**{**KNOBS, **knobs}), QUESTION]


@contextlib.contextmanager
def _started(line: CommandLine, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = line.start(*arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _distillates(line: CommandLine) -> int:
    """Results of distillations that are on disk."""
    query = "SELECT COUNT(*) FROM store WHERE prefix LIKE 'agentinfer.notes.%'"
    with contextlib.closing(
        sqlite3.connect(f"file:{line.home}/store.sqlite?mode=ro", uri=True)
    ) as connection:
        return int(connection.execute(query).fetchone()[0])


def _seeker(line: CommandLine) -> dict[str, Any]:
    """The last saved state of the seeker."""
    with SqliteSaver.from_conn_string(str(line.home / "checkpoints.sqlite")) as saver:
        found = [
            item
            for item in saver.list({"configurable": {"thread_id": THREAD}})
            if item.config["configurable"]["checkpoint_ns"].startswith("seeker:")
        ]
    last = max(found, key=lambda item: item.config["configurable"]["checkpoint_id"])
    return dict(last.checkpoint["channel_values"])


def _kill_and_resume(
    line: CommandLine, server: FakeOpenAI, reached: Callable[[], bool], stored: int, **knobs: object
) -> tuple[Outcome, list[Recorded]]:
    """Run until `reached`, kill, check what is on disk, go on; return the outcome and the requests not answered."""
    with _started(line, *_arguments(**knobs)) as process:
        server.wait_for(reached, timeout=PATIENCE, what="the point at which to kill")
        process.kill()
        process.communicate(timeout=PATIENCE)
    assert _distillates(line) == stored
    before = list(server.chats)
    server.release("gate")
    done = line.run("research", "--json", "--resume", THREAD)
    assert done.code == COMPLETE, done.everything
    return done, before


def _check_once(server: FakeOpenAI, *, twice: set[str]) -> None:
    """Check that no request was made twice but those of `twice` (roles), which were in flight."""
    for role in ONCE:
        counts = Counter(chat.text for chat in server.chats if chat.role == role)
        repeated = [text for text, count in counts.items() if count > 1]
        assert len(repeated) == (role in twice), role
        assert all(counts[text] == 2 for text in repeated)


def _steps(server: FakeOpenAI) -> list[str]:
    """The prompts of the Think steps in order, each once."""
    return list(dict.fromkeys(chat.text for chat in thinks(server)))


def _same(text: str, pages: PageServer) -> str:
    """`text` without the port of the pages, which differs from run to run."""
    return text.replace(pages.url, "http://pages")


def _key(swap: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        swap[name] for name in ("turn", "lag", "tokens_before", "tokens_after", "removed", "failure")
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, Any]]:
    """The Think prompts and the result of a run that nobody kills."""
    with _pages() as pages, FakeOpenAI(Session(pages)) as server:
        line = _line(tmp_path_factory.mktemp("undisturbed"), server)
        done = line.run(*_arguments(compression="barrier"))
        assert done.code == COMPLETE, done.everything
        return [_same(step, pages) for step in _steps(server)], done.result


@pytest.mark.parametrize(
    ("point", "role", "stored"),
    [("distilling", "distill", 0), ("prefilled", "prewarm", 1), ("swapped", "think", 1)],
)
def test_killed_while_rounds_wait(
    tmp_path: Path,
    pages: PageServer,
    undisturbed: tuple[list[str], dict[str, Any]],
    point: str,
    role: str,
    stored: int,
) -> None:
    steps, result = undisturbed
    with FakeOpenAI(Session(pages, point)) as server:
        line = _line(tmp_path, server)

        def reached() -> bool:
            return bool(superseding(server)) if point == "swapped" else role in server.roles()

        done, _ = _kill_and_resume(line, server, reached, stored, compression="barrier")
        assert [_same(step, pages) for step in _steps(server)] == steps, "the same messages"
        _check_once(server, twice={role})
        check_extends(thinks(server))
    assert len(done.result["swaps"]) >= 1
    assert [_key(swap) for swap in done.result["swaps"]] == [_key(swap) for swap in result["swaps"]]
    assert done.result["answer"] == result["answer"]
    assert fact(2) in done.result["report"]
    assert done.result["usage"]["small"]["output_tokens"] == result["usage"]["small"]["output_tokens"]
    assert set(Counter(pages.visits).values()) == {1}, "no page is read twice"
    assert len(pages.visits) == done.result["turns"] - 1


@pytest.mark.parametrize(
    ("point", "rounds", "stored", "twice"),
    [
        ("distilling", 2, 0, {"distill", "think"}),
        ("prefilled", 0, 1, {"think"}),
        ("swapped", 0, 1, {"think"}),
    ],
)
def test_killed_while_rounds_go_on(
    tmp_path: Path,
    pages: PageServer,
    undisturbed: tuple[list[str], dict[str, Any]],
    point: str,
    rounds: int,
    stored: int,
    twice: set[str],
) -> None:
    asked = undisturbed[1]["swaps"][0]["turn"]  # until it is asked for, nothing depends on time
    with FakeOpenAI(Session(pages, point, background=True, turn=asked + rounds)) as server:
        line = _line(tmp_path, server)

        def reached() -> bool:
            if point == "swapped":
                return bool(superseding(server))
            held = any(chat.body["vllm_xargs"]["agent_turn"] == asked + rounds for chat in thinks(server))
            return held and ("distill" if point == "distilling" else "prewarm") in server.roles()

        done, before = _kill_and_resume(line, server, reached, stored, compression="background")
        _check_once(server, twice=twice)
        check_extends(thinks(server))
        tickets = len({chat.text for chat in server.chats if chat.role == "distill"})
        changed = superseding(server)
        if point == "swapped":
            assert changed[0].text == changed[1].text, "the step that was in flight is made again"
        else:
            assert changed[0] not in before, "it was swapped in after the kill"
    swapped = [swap["ticket"] for swap in done.result["swaps"]]
    assert 1 <= len(swapped) == len(set(swapped))
    assert tickets - len(swapped) in (0, 1), "one may be open at the end"
    seeker = _seeker(line)
    assert seeker["compression"]["ticket"] is None, "and is given up"
    assert seeker["compression"]["swap"]["ticket"] == swapped[-1]
    first = done.result["swaps"][0]
    assert first["turn"] - first["lag"] == asked
    assert first["lag"] > rounds
    assert fact(2) in done.result["report"]
    assert set(Counter(pages.visits).values()) == {1}, "no page is read twice"
    assert len(pages.visits) == done.result["turns"] - 1
