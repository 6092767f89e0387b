"""`langgraph dev` on the repository's own `langgraph.json`, driven over the SDK as Studio drives it.

No key, no internet, no `--allow-blocking`: a blocking call on the event loop fails a run, and so a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from support.fake_openai import Brain, FakeOpenAI, Reply, render_prompt

from agentinfer_lg import Context

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
GRAPH = "deep_research"
FACTS = {
    "heron": "Heron Point Light was lit in 1871 by the keeper Ada Winter.",
    "curlew": "Curlew Rock Light was lit in 1904 by the keeper Tom Hale.",
}
LEDGER = "How much basalt did the quarry sell?"
UNSAID = "porphyry"
"""A word that only background calls say."""
START_SECONDS = 90.0


class Endpoint:
    """A brain that splits a question about both lights in two, and waits where a question says so."""

    def __init__(self) -> None:
        self.brain = Brain()

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        role = request["vllm_xargs"]["agent_role"]
        prompt = render_prompt(request)
        if LEDGER in prompt or role in ("distill", "prewarm"):
            return self.ledger(request)
        reply = self.brain(request, index)
        if role == "plan" and '"questions"' in prompt and "both lights" in prompt:
            questions = ["When was Heron Point Light lit?", "When was Curlew Rock Light lit?"]
            return Reply(text=json.dumps({"questions": questions}))
        gate = re.search(r"\(gate (\w+)\)", prompt)
        if role == "think" and gate:
            return Reply(text=reply.text, tool_calls=reply.tool_calls, hold=gate.group(1))
        return reply

    def ledger(self, request: dict[str, Any]) -> Reply:
        """Read one page of the ledger after the other, until notes have taken the place of the first ones."""
        hints = request["vllm_xargs"]
        match hints["agent_role"]:
            case "think":
                if "Notes on results" in render_prompt(request):
                    return Reply(text="Done.", tool_calls=(("finish", {"answer": "7 tons", "sources": [1]}),))
                query = f"basalt{hints['agent_turn']}"
                return Reply(text=f"I need {query}.", tool_calls=(("web_search", {"queries": [query]}),))
            case "distill":
                fact = re.search(r"^(\[\d+\]) [^:\n]+: ([^.\n]+\.)", render_prompt(request), re.MULTILINE)
                return Reply(text=f"{fact[1]} {fact[2]}\nopen: basalt tonnage of {UNSAID}\n" if fact else "")
            case "prewarm":
                return Reply(text=UNSAID)
            case _:
                return self.brain(request, 0)


@dataclass
class Studio:
    """A running `langgraph dev`."""

    url: str
    endpoint: FakeOpenAI
    log: Path
    folder: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(endpoint: FakeOpenAI, docs: Path, home: Path) -> dict[str, str]:
    kept = {
        k: v
        for k, v in os.environ.items()
        if not re.match(r"AGENTINFER_|TAVILY_|LANG(SMITH|CHAIN)_|OPENAI_", k)
    }
    return kept | {
        "PYTHONPATH": str(ROOT),
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "true",
        "LANGSMITH_TRACING": "false",
        "AGENTINFER_SMALL__BASE_URL": endpoint.url,
        "AGENTINFER_SMALL__MODEL": "fake-small",
        "AGENTINFER_LARGE__BASE_URL": endpoint.url,
        "AGENTINFER_LARGE__MODEL": "fake-large",
        "AGENTINFER_DOCS": str(docs),
        "AGENTINFER_HOME": str(home),
        # A call that leaves the machine would have to go through this, and fails at once.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url + "/ok", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    pytest.fail(f"langgraph dev did not come up:\n{log.read_text()[-4000:]}")


def wait_for(endpoint: FakeOpenAI, predicate: Callable[[], bool]) -> None:
    endpoint.wait_for(predicate, timeout=60)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    shutil.copy(ROOT / "langgraph.json", folder)  # as in a clean clone: there is no .env beside it
    docs = folder / "docs"
    docs.mkdir()
    for name, fact in FACTS.items():
        (docs / f"{name}.txt").write_text(f"{name.title()} station\n\n{fact}\n")
    for page in range(30):
        rows = " ".join(
            f"Row {row} of basalt{page} tells {row} tons, sold by Ada Quarrier." for row in range(40)
        )
        (docs / f"ledger{page}.txt").write_text(f"Basalt{page}\n\n{rows}\n")
    log = folder / "server.log"
    port = free_port()
    start = "from langgraph_cli.cli import cli; cli()"
    # Without the number of jobs the server does one run at a time, whatever its help says.
    options = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "4", "--port", str(port)]
    with FakeOpenAI(Endpoint()) as endpoint, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", start, "dev", *options],
            cwd=folder,
            env=environment(endpoint, docs, folder / "home"),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_up(url, process, log)
            yield Studio(url, endpoint, log, folder)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
async def client(studio: Studio) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=studio.url, api_key=None) as sdk:
        yield sdk


async def new_thread(client: LangGraphClient) -> str:
    return str((await client.threads.create())["thread_id"])


async def run(client: LangGraphClient, thread: str, question: str, **options: Any) -> dict[str, Any]:
    """Run to the end, or to an interrupt, and return the values of the thread."""
    payload = None if "command" in options or "checkpoint" in options else {"question": question}
    await client.runs.join(
        thread, (await client.runs.create(thread, GRAPH, input=payload, **options))["run_id"]
    )
    state = await client.threads.get_state(thread)
    return dict(state["values"])


async def interrupts(client: LangGraphClient, thread: str) -> list[Any]:
    state = await client.threads.get_state(thread)
    return [pending["value"] for task in state["tasks"] for pending in task["interrupts"]]


async def test_every_knob_has_a_description_and_a_control(client: LangGraphClient) -> None:
    assistants = await client.assistants.search(graph_id=GRAPH)
    schemas = await client.assistants.get_schemas(assistants[0]["assistant_id"])
    knobs = schemas["context_schema"]["properties"]
    assert set(knobs) == set(Context.model_fields)
    controls = {"select", "switch", "slider", "number", "text"}
    for name, knob in knobs.items():
        assert len(knob["description"]) > 10, name
        assert knob["x_oap_ui_config"]["type"] in controls, name
        assert knob["x_oap_ui_config"]["default"] == Context.model_fields[name].default, name
    for kind in ("input_schema", "output_schema", "state_schema"):
        assert schemas[kind], f"Studio shows no form without the {kind}"
    assert {"question", "messages"} <= set(schemas["input_schema"]["properties"])


async def test_events_tell_parallel_agents_apart(client: LangGraphClient) -> None:
    thread = await new_thread(client)
    kinds: dict[str, set[str]] = {}
    namespaces: set[str] = set()
    async for part in client.runs.stream(
        thread,
        GRAPH,
        input={"question": "When were both lights lit?"},
        stream_mode=["custom", "updates"],
        stream_subgraphs=True,
    ):
        if part.event.startswith("custom"):
            kinds.setdefault(part.data["agent"], set()).add(part.data["event"])
            namespaces.add(part.event)
        assert part.event != "error", part.data
    assert {"planner", "seeker-1", "seeker-2", "writer"} <= set(kinds)
    for seeker in ("seeker-1", "seeker-2"):
        assert {"model_start", "model_end", "tool_start", "tool_end", "progress", "finding"} <= kinds[seeker]
    assert "plan" in kinds["planner"]
    assert "report" in kinds["writer"]
    assert len(namespaces) > 1, "subgraphs stream under their own namespace"
    values = (await client.threads.get_state(thread))["values"]
    assert "[1]" in values["report"]
    assert {Path(source["uri"]).name for source in values["sources"].values()} == {"heron.txt", "curlew.txt"}
    assert len(values["findings"]) == 2


async def test_a_conversation_is_a_question_too(client: LangGraphClient) -> None:
    thread = await new_thread(client)
    message = {"role": "user", "content": "When was Heron Point Light lit?"}
    await client.runs.wait(thread, GRAPH, input={"messages": [message]})
    values = (await client.threads.get_state(thread))["values"]
    assert "1871" in values["report"]
    assert values["messages"][-1]["type"] == "ai"
    assert "1871" in str(values["messages"][-1]["content"])


async def test_a_plan_is_approved(client: LangGraphClient) -> None:
    thread = await new_thread(client)
    question = "When was Heron Point Light lit?"
    await run(client, thread, question, context={"plan_approval": True})
    (asked,) = await interrupts(client, thread)
    assert asked["question"] == question
    assert [task["question"] for task in asked["plan"]] == [question]
    values = await run(
        client, thread, "", command={"resume": {"approve": True}}, context={"plan_approval": True}
    )
    assert "1871" in values["report"]
    assert await interrupts(client, thread) == []


async def test_a_plan_is_edited(client: LangGraphClient) -> None:
    thread = await new_thread(client)
    knobs = {"plan_approval": True}
    await run(client, thread, "When was Heron Point Light lit?", context=knobs)
    edited = ["When was Curlew Rock Light lit?"]
    values = await run(client, thread, "", command={"resume": {"plan": edited}}, context=knobs)
    assert [task["question"] for task in values["plan"]] == edited
    assert [finding["question"] for finding in values["findings"]] == edited
    assert "1904" in values["report"]


async def test_a_plan_is_turned_down(client: LangGraphClient, studio: Studio) -> None:
    thread = await new_thread(client)
    knobs = {"plan_approval": True}
    await run(client, thread, "When was Heron Point Light lit?", context=knobs)
    before = len(studio.endpoint.chats)
    values = await run(client, thread, "", command={"resume": {"approve": False}}, context=knobs)
    assert not values.get("findings")
    assert "think" not in [chat.role for chat in studio.endpoint.chats[before:]]
    assert (await client.threads.get(thread))["status"] == "idle"


async def test_an_answer_that_makes_no_sense_can_be_given_again(client: LangGraphClient) -> None:
    thread = await new_thread(client)
    knobs = {"plan_approval": True}
    await run(client, thread, "When was Heron Point Light lit?", context=knobs)
    for answer in ("perhaps", {"plan": []}, {"plan": [""]}):
        await run(client, thread, "", command={"resume": answer}, context=knobs)
        (asked,) = await interrupts(client, thread)
        assert asked["plan"], "it is asked again"
        assert "Answer the plan with" in asked["error"] or "question is empty" in asked["error"]
    values = await run(client, thread, "", command={"resume": {"approve": True}}, context=knobs)
    assert "1871" in values["report"]


async def test_a_run_is_cancelled(client: LangGraphClient, studio: Studio) -> None:
    thread = await new_thread(client)
    started = await client.runs.create(
        thread, GRAPH, input={"question": "When was Heron Point Light lit? (gate cancelled)"}
    )
    endpoint = studio.endpoint
    await asyncio.to_thread(
        endpoint.wait_for,
        lambda: any(c.role == "think" and "(gate cancelled)" in c.text for c in endpoint.chats),
    )
    await client.runs.cancel(thread, started["run_id"], wait=True)
    assert (await client.runs.get(thread, started["run_id"]))["status"] == "interrupted"
    state = await client.threads.get_state(thread)
    assert state["next"], "what was done so far is kept"
    endpoint.release("cancelled")
    values = await run(client, thread, "", checkpoint=state["checkpoint"])
    assert "1871" in values["report"], "a cancelled run goes on from where it was"


async def test_time_travel(client: LangGraphClient, studio: Studio) -> None:
    thread = await new_thread(client)
    await run(client, thread, "When was Heron Point Light lit?")
    history = await client.threads.get_history(thread, limit=50)
    planned = next(
        item for item in history if item["values"].get("plan") and not item["values"].get("findings")
    )
    before = len(studio.endpoint.chats)
    fork = await client.threads.update_state(
        thread,
        {"plan": [{"id": "seeker-1", "question": "When was Curlew Rock Light lit?"}]},
        checkpoint=planned["checkpoint"],
        as_node="plan",
    )
    values = await run(client, thread, "", checkpoint=fork["checkpoint"])
    assert "1904" in values["report"]
    assert [finding["question"] for finding in values["findings"]] == ["When was Curlew Rock Light lit?"]
    assert "plan" not in [chat.role for chat in studio.endpoint.chats[before:]], "the plan is not made again"
    old = await client.threads.get_state(thread, checkpoint=history[0]["checkpoint"])
    assert "1871" in old["values"]["report"], "the first branch is still there"


async def test_two_threads_at_once_do_not_mix(client: LangGraphClient, studio: Studio) -> None:
    first, second = await new_thread(client), await new_thread(client)
    endpoint = studio.endpoint
    runs = [
        asyncio.create_task(run(client, first, "When was Heron Point Light lit? (gate pair)")),
        asyncio.create_task(run(client, second, "When was Curlew Rock Light lit? (gate pair)")),
    ]

    def both_wait() -> bool:
        waiting = [c for c in endpoint.chats if c.role == "think" and "(gate pair)" in c.text]
        return len({c.session for c in waiting}) >= 2

    await asyncio.to_thread(wait_for, endpoint, both_wait)
    endpoint.release("pair")
    heron, curlew = await asyncio.gather(*runs)
    for values, own, other in ((heron, "Heron", "Curlew"), (curlew, "Curlew", "Heron")):
        said = json.dumps([values[key] for key in ("question", "plan")])
        assert own in said
        assert other not in said
        assert [finding["question"] for finding in values["findings"]] == [values["question"]]
    sessions = {c.session: c for c in endpoint.chats if "(gate pair)" in c.text and c.role == "think"}
    for session, chat in sessions.items():
        texts = [c.text for c in endpoint.chats if c.session == session]
        other = (
            "Curlew Rock Light lit?" if "Heron Point Light lit?" in chat.text else "Heron Point Light lit?"
        )
        assert not any(other in text for text in texts), "a session belongs to one thread"


@pytest.mark.parametrize(
    ("knobs", "named"), [({"max_seekers": 99}, "max_seekers"), ({"policy": "vote"}, "always-small")]
)
async def test_a_bad_knob_is_a_clear_error(
    client: LangGraphClient, knobs: dict[str, Any], named: str
) -> None:
    thread = await new_thread(client)
    errors: list[str] = []
    with contextlib.suppress(httpx.HTTPStatusError):
        stream = client.runs.stream(thread, GRAPH, input={"question": "Who?"}, context=knobs)
        errors.extend([json.dumps(part.data) async for part in stream if part.event == "error"])
    assert errors
    assert named in errors[0]


async def test_an_empty_question_is_a_clear_error(client: LangGraphClient) -> None:
    thread = await new_thread(client)
    parts = [part async for part in client.runs.stream(thread, GRAPH, input={"question": "  "})]
    errors = [json.dumps(part.data) for part in parts if part.event == "error"]
    assert errors
    assert "question is empty" in errors[0]


async def test_a_context_is_compressed(client: LangGraphClient, studio: Studio) -> None:
    thread = await new_thread(client)
    knobs = {
        "policy": "always-small",
        "compress_after_tokens": 1000,
        "max_turns": 30,
        "results_per_query": 1,
        "search_filter": "off",
        "report": "brief",
    }
    events: list[dict[str, Any]] = []
    said: list[str] = []
    async for part in client.runs.stream(
        thread,
        GRAPH,
        input={"question": LEDGER},
        context=knobs,
        stream_mode=["custom", "messages-tuple"],
        stream_subgraphs=True,
    ):
        assert part.event != "error", part.data
        if part.event.startswith("custom"):
            events.append(part.data)
        elif part.event.startswith("messages"):
            said.append(str(part.data[0]["content"]))
    swapped = [event for event in events if event["event"] == "swap" and event["ok"]]
    assert swapped
    assert all(event["ok"] for event in events if event["event"] == "distill_end")
    assert any("basalt0" in text for text in said), "what the agent says is streamed"
    assert UNSAID not in "".join(said), "what is said in the background is not"
    found = await client.store.search_items(("agentinfer", "notes"))
    notes = {item["key"]: item["value"]["notes"] for item in found["items"]}
    assert notes[swapped[0]["ticket"]]["facts"], "the store of the server has it"
    values = (await client.threads.get_state(thread))["values"]
    assert [swap["ticket"] for swap in values["swaps"]] == [swap["ticket"] for swap in swapped]
    assert "7 tons" in values["report"]
    roles = studio.endpoint.roles()
    assert {"distill", "prewarm"} <= set(roles)


def test_the_example_drives_it(studio: Studio) -> None:
    question, other = "When was Heron Point Light lit?", "When was Curlew Rock Light lit?"
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "drive_studio.py"),
            question,
            "--url",
            studio.url,
            "--fork",
            other,
        ],
        cwd=studio.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, _, forked = done.stdout.partition("1871")
    assert "The plan:" in first
    assert "seeker-1" in first
    assert "1904" in forked


def test_nothing_blocked(studio: Studio) -> None:
    log = studio.log.read_text()
    assert "BlockingError" not in log
    assert "Blocking call" not in log
    assert (studio.folder / ".langgraph_api").is_dir(), "the server keeps its state where it was started"
