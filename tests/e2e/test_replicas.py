"""Several replicas behind the nginx of `examples/replicas`: sessions stay, spread, and outlive their replica."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from langchain_core.messages import HumanMessage
from support.replica_set import Replica, ReplicaSet, replica_set
from support.run_cli import COMPLETE, CommandLine
from support.waiting import wait_until

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.chat import ChatTier
from agentinfer_lg.settings import EndpointSettings

QUESTION = "When was Heron Point Light lit?"
FACT = "Heron Point Light was lit in 1871 by the keeper Ada Winter."
SESSIONS = [f"session-{number}" for number in range(24)]
PATIENCE = 60.0

SCRIPT = """
import os
from pathlib import Path

brain, marker = Brain(), Path(os.environ["MARKER"])

def reply(request, index):
    if request["vllm_xargs"]["agent_role"] != "think" or os.environ["HOLDS"] not in str(request["messages"]):
        return brain(request, index)
    try:
        marker.touch(exist_ok=False)  # once, whichever replica it is
    except FileExistsError:
        return brain(request, index)
    return Reply(hold="until it is killed")
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Exists once a replica holds the request that is never answered."""
    return tmp_path / "held"


@pytest.fixture
def router(tmp_path: Path, marker: Path) -> Iterator[ReplicaSet]:
    """The replicas; a Think step whose prompt has `FACT` in it is held once."""
    with replica_set(tmp_path, SCRIPT, environment={"MARKER": str(marker), "HOLDS": FACT}) as running:
        yield running


async def say(router: ReplicaSet, session: str, text: str = "hello") -> None:
    tier = ChatTier("small", EndpointSettings(base_url=router.url, model="fake-small", max_retries=0))
    hints = SessionHints(session_id=session, role="qa")
    assert (await tier.call([HumanMessage(text)], hints=hints, max_tokens=50)).text


async def test_a_session_stays_on_its_replica_and_sessions_spread(router: ReplicaSet) -> None:
    for _ in range(3):
        for session in SESSIONS:
            await say(router, session)
    first, second = (replica.sessions() for replica in router.replicas)
    assert first | second == set(SESSIONS)
    assert not first & second
    assert first
    assert second


async def test_sessions_of_a_dead_replica_go_on_at_the_other(router: ReplicaSet) -> None:
    for session in SESSIONS:
        await say(router, session)
    dead, alive = router.replicas
    moved = dead.sessions()
    dead.kill()
    for session in SESSIONS:
        await say(router, session, "still there?")
    assert moved
    assert alive.sessions() == set(SESSIONS)


async def test_a_request_without_a_session_is_answered_too(router: ReplicaSet) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(4):
            listed = await client.get(f"{router.url}/models")
            assert [model["id"] for model in listed.json()["data"]] == ["fake-small", "fake-large"]


def test_a_request_outlives_the_replica_that_computes_it(router: ReplicaSet, marker: Path) -> None:
    body = {
        "model": "fake-small",
        "messages": [{"role": "user", "content": FACT}],
        "max_tokens": 50,
        "vllm_xargs": {"agent_role": "think"},
    }

    def ask() -> httpx.Response:
        headers = {"X-Session-ID": "one"}
        return httpx.post(f"{router.url}/chat/completions", json=body, headers=headers, timeout=PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        wait_until(marker.exists)
        router.holder("one").kill()
        assert asked.result().status_code == 200


def test_a_run_goes_on_when_the_replica_of_its_session_is_killed(
    router: ReplicaSet, marker: Path, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "heron.txt").write_text(f"Heron Point\n\n{FACT}\n")
    line = CommandLine(folder=tmp_path, small=router.url, large=router.url)
    with line.start("research", "--json", "--", QUESTION) as run:
        try:
            wait_until(lambda: marker.exists() or run.poll() is not None)
            dead, alive = by_holding(router)
            before = dead.requests()
            dead.kill()
            stdout, stderr = run.communicate(timeout=PATIENCE)
        except (AssertionError, subprocess.TimeoutExpired):
            run.kill()
            raise
    assert run.returncode == COMPLETE, stderr
    assert "1871" in stdout
    held = before[-1]
    repeated = [request for request in alive.requests() if request["body"] == held["body"]]
    assert len(repeated) == 1, "the step that was lost is asked again once, with all that was found before it"
    assert FACT in str(held["body"])


def by_holding(router: ReplicaSet) -> tuple[Replica, Replica]:
    """The replica that holds a request, and the other one."""

    def holds(replica: Replica) -> bool:
        last = [request["body"] for request in replica.requests()[-1:]]
        return any(body["vllm_xargs"]["agent_role"] == "think" and FACT in str(body) for body in last)

    first, second = router.replicas
    assert holds(first) != holds(second)
    return (first, second) if holds(first) else (second, first)
