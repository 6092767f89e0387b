"""The whole graph against a scripted endpoint: sessions, parallel seekers, reports, plans, failures."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from support.fake_openai import Brain, FakeOpenAI, Faults, Recorded, Reply, constraint, render_prompt

from agentinfer_lg import (
    ConfigurationError,
    Context,
    EndpointSettings,
    Settings,
    UserInputError,
    create_deep_research_graph,
)
from agentinfer_lg.report.sources import source_key
from agentinfer_lg.resources import Resources

QUESTION = "When was Heron Point Light lit?"
TWO = "Which is older, Heron Point Light or Gull Rock Light?"
PARTS = ["When was Heron Point Light lit?", "When was Gull Rock Light lit?"]
THREAD: RunnableConfig = {"configurable": {"thread_id": "private-thread-77"}}
BRAIN = Brain()

_DOCUMENTS = {
    "heron.md": "# Heron Point\n\nHeron Point Light was lit in 1871 by the keeper Ada Winter.\n",
    "gull.md": "# Gull Rock\n\nGull Rock Light was lit in 1902 by the keeper Tom Quill.\n",
    "zh.md": "# 苍鹭角灯塔\n\n苍鹭角灯塔于1871年点亮，守塔人是艾达·温特。\n",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "TAVILY_API_KEY",
        "AGENTINFER_DOCS",
        "AGENTINFER_SMALL__BASE_URL",
        "AGENTINFER_LARGE__BASE_URL",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in _DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def endpoint() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


def _settings(
    server: FakeOpenAI, docs: Path | None, *, large: FakeOpenAI | None = None, **more: Any
) -> Settings:
    def tier(at: FakeOpenAI, model: str) -> EndpointSettings:
        return EndpointSettings(base_url=at.url, model=model, max_retries=0, **more)

    home = docs.parent / "home" if docs else Path("home")
    return Settings(
        small=tier(server, "fake-small"),
        large=tier(large or server, "fake-large"),
        docs=docs,
        home=home,
        _env_file=None,
    )


async def _run(
    server: FakeOpenAI, docs: Path | None, question: str = QUESTION, *, mode: str = "auto", **knobs: Any
) -> dict[str, Any]:
    graph = create_deep_research_graph(
        settings=_settings(server, docs, tool_calling=mode), checkpointer=InMemorySaver()
    )
    result: Any = await graph.ainvoke({"question": question}, THREAD, context=Context(**knobs))
    return result  # type: ignore[no-any-return]


def _sessions(server: FakeOpenAI) -> dict[str, list[Recorded]]:
    sessions: dict[str, list[Recorded]] = {}
    for chat in server.chats:
        sessions.setdefault(chat.session, []).append(chat)
    return sessions


def _only(chats: list[Recorded], *roles: str) -> list[Recorded]:
    return [chat for chat in chats if chat.role in roles]


def _offered(request: dict[str, Any]) -> set[str]:
    """Actions that the constraint of a request lets through."""
    return set(
        re.findall(r'\b(?:search|read|answer)(?=")', json.dumps(constraint(request)).replace("\\", ""))
    )


class Steps:
    """A brain whose Think steps are scripted, one list entry per turn; searches are new ones each time."""

    def __init__(self, *steps: str) -> None:
        self.steps = steps

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        hints = request["vllm_xargs"]
        if hints["agent_role"] != "think":
            return BRAIN(request, index)
        turn = hints["agent_turn"]
        kind = self.steps[min(turn, len(self.steps) - 1)]
        thoughts = [
            "alpha",
            "beta",
            "gamma",
            "delta",
            "epsilon",
            "zeta",
            "eta",
            "theta",
            "iota",
            "kappa",
            "lambda",
            "mu",
        ]
        values: dict[str, Any] = {
            "thought": " ".join(f"{word}{turn}" for word in thoughts),
            "query": f"Heron Point lamp {turn}",
            "queries": [f"Heron Point lamp {turn}"],
            "source": 1,
            "sources": [1],
            "answer": "",
        }
        tool = {"search": "web_search", "read": "crawl", "answer": "finish"}[kind]
        return BRAIN.act(request, tool, values)


# The happy path


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_a_question_becomes_a_cited_report(docs: Path, endpoint: FakeOpenAI, mode: str) -> None:
    result = await _run(endpoint, docs, mode=mode)
    assert "1871" in result["answer"]
    assert result["report"].startswith(f"# {QUESTION}\n")
    assert re.search(r"1871[^\n]*\[1\]", result["report"])
    assert "- [1] Heron Point — heron.md" in result["report"]
    (finding,) = result["findings"]
    assert finding["complete"] is True
    assert finding["sources"] == [source_key("heron.md")]
    assert result.get("ran_out", []) == []
    assert result["messages"][-1].content == result["report"]
    thinks = _only(endpoint.chats, "think")
    assert len(thinks) == 2
    for think in thinks:
        assert ("tools" in think.body) is (mode == "native")
        assert (constraint(think.body) is not None) is (mode == "json")
    assert [call["tool"] for call in result["tools"]] == ["web_search", "finish"]
    assert [check["verdict"] for check in result["checks"]] == ["SKIPPED", "SKIPPED"]


async def test_json_actions_are_offered_when_they_can_work(docs: Path, endpoint: FakeOpenAI) -> None:
    await _run(endpoint, docs, mode="json")
    first, second = _only(endpoint.chats, "think")
    assert _offered(first.body) == {"search"}
    assert "answer" in _offered(second.body)


async def test_a_server_without_tool_calling_is_driven_by_json(docs: Path) -> None:
    with (
        FakeOpenAI(faults=Faults(rejects=frozenset({"tools"}))) as small,
        FakeOpenAI() as large,
    ):
        graph = create_deep_research_graph(settings=_settings(small, docs, large=large))
        result: Any = await graph.ainvoke({"question": QUESTION})
        assert "1871" in result["answer"]
        assert result.get("ran_out", []) == [], "nothing was lost, so nobody is warned"
        thinks = _only(small.chats, "think")
        assert _only(large.chats, "think") == [], "the large model does not do the small one's work"
        assert ["tools" in think.body for think in thinks] == [True, False, False]
        assert {call["tier"] for call in result["calls"] if call["role"] == "think"} == {"small"}


async def test_a_model_that_ignores_its_tools_is_driven_by_json(docs: Path) -> None:
    def chatty(request: dict[str, Any], index: int) -> Reply:
        return Reply(text="I would search for it.") if request.get("tools") else BRAIN(request, index)

    with FakeOpenAI(chatty) as server:
        result = await _run(server, docs)
        assert "1871" in result["answer"]
        thinks = _only(server.chats, "think")
        assert ["tools" in think.body for think in thinks] == [True] + [False] * (len(thinks) - 1)


async def test_a_server_without_constraints_is_asked_in_words(docs: Path) -> None:
    rejects = frozenset({"tools", "response_format", "structured_outputs"})
    with FakeOpenAI(faults=Faults(rejects=rejects)) as server:
        result = await _run(server, docs)
        assert "1871" in result["answer"]
        assert result.get("ran_out", []) == []


# Sessions and hints


@pytest.mark.parametrize("mode", ["json", "native"])
async def test_each_prompt_of_a_session_extends_the_one_before(docs: Path, mode: str) -> None:
    with FakeOpenAI(Steps("search", "read", "search", "answer")) as server:
        result = await _run(server, docs, mode=mode, verifier=False, progress_checks="all")
        assert "1871" in result["answer"]
        thinks = _only(server.chats, "think")
        checks = _only(server.chats, "progress")
    assert [chat.body["vllm_xargs"]["agent_turn"] for chat in thinks] == [0, 1, 2, 3]
    assert [chat.body["vllm_xargs"]["agent_turn"] for chat in checks] == [0, 1, 2]
    assert len({chat.session for chat in thinks + checks}) == 1
    for turn, think in enumerate(thinks):
        messages = think.body["messages"]
        if turn:
            before = thinks[turn - 1].body["messages"]
            assert messages[: len(before)] == before
            assert len(messages) > len(before)
        assert think.body.get("tools") == thinks[0].body.get("tools"), "tools are part of the prompt"
        for check in checks[turn : turn + 1]:
            prefix, answer, *rest = (
                check.body["messages"][: len(messages)],
                *check.body["messages"][len(messages) :],
            )
            assert prefix == messages
            assert answer["role"] == "assistant"
            assert [message["role"] for message in rest] == ([] if mode == "json" else ["tool"]) + ["user"]
            assert "===PROGRESS===" in rest[-1]["content"]
            assert check.body.get("tools") == think.body.get("tools")
            assert check.body.get("tool_choice") == (None if mode == "json" else "none")
            if turn + 1 < len(thinks):
                assert answer == thinks[turn + 1].body["messages"][len(messages)]


async def test_the_prefix_cache_works(docs: Path) -> None:
    with FakeOpenAI(Steps("search", "read", "answer")) as server:
        result = await _run(server, docs, mode="json", verifier=False)
    thinks = [call for call in result["calls"] if call["role"] == "think"]
    for before, after in pairwise(thinks):
        assert after["cached_tokens"] >= before["prompt_tokens"]


async def test_hints(docs: Path, endpoint: FakeOpenAI) -> None:
    def split(request: dict[str, Any], index: int) -> Any:
        if request["vllm_xargs"]["agent_role"] == "plan":
            return {"text": json.dumps({"questions": PARTS})}
        return BRAIN(request, index)

    with FakeOpenAI(split) as server:
        result = await _run(server, docs, TWO, tenant="acme")
        sessions = _sessions(server)
    assert len(result["plan"]) == 2
    thinking = {session: chats for session, chats in sessions.items() if _only(chats, "think")}
    assert len(thinking) == 2, "each seeker has a session of its own"
    assert len(sessions) == 4, "planner and writer too"
    one_shot = {"plan", "qa", "filter", "distill", "write"}
    for session, chats in sessions.items():
        assert re.fullmatch(r"[0-9a-f]{16}", session)
        for chat in chats:
            hints = chat.body["vllm_xargs"]
            assert hints["agent_final"] == int(chat.role in one_shot)
            assert hints["agent_tenant"] == "acme"
            assert hints["agent_output_tokens"] == chat.body["max_tokens"]
            assert ("agent_tool_seconds" in hints) is (chat.role in ("think", "progress"))
            written = json.dumps(hints).lower()
            assert "private-thread" not in written
            assert "heron" not in written
            assert "gull" not in written
    for chats in thinking.values():
        for chat in _only(chats, "think"):
            assert chat.body["vllm_xargs"]["agent_tool_seconds"] == 0.0
        for chat in _only(chats, "progress"):
            assert chat.body["vllm_xargs"]["agent_tool_seconds"] > 0.0


async def test_runs_of_one_thread_are_different_sessions(docs: Path, endpoint: FakeOpenAI) -> None:
    graph = create_deep_research_graph(settings=_settings(endpoint, docs), checkpointer=InMemorySaver())
    await graph.ainvoke({"question": QUESTION}, THREAD)
    first = set(_sessions(endpoint))
    await graph.ainvoke({"question": QUESTION}, THREAD)
    assert len(set(_sessions(endpoint)) - first) == len(first)


# Planning


async def test_three_planning_steps(docs: Path) -> None:
    def plan(request: dict[str, Any], index: int) -> Any:
        hints = request["vllm_xargs"]
        if hints["agent_role"] != "plan":
            return BRAIN(request, index)
        notes = ["The ages are asked for.", "Look at the lighthouses one by one."]
        turn = hints["agent_turn"]
        return notes[turn] if turn < 2 else {"questions": PARTS}

    with FakeOpenAI(plan) as server:
        result = await _run(server, docs, TWO, warmup_steps=3)
        plans = _only(server.chats, "plan")
        thinks = _only(server.chats, "think")
    assert [chat.body["vllm_xargs"]["agent_turn"] for chat in plans] == [0, 1, 2]
    assert {chat.model for chat in plans} == {"fake-large"}
    assert ["response_format" in chat.body for chat in plans] == [False, False, True]
    assert "The ages are asked for." in plans[1].text
    assert "one by one" in plans[2].text
    assert [task["question"] for task in result["plan"]] == PARTS
    assert all("one by one" in chat.text for chat in thinks), "the seekers know the strategy"
    assert {finding["question"] for finding in result["findings"]} == set(PARTS)


async def test_one_seeker_looks_up_what_was_listed(docs: Path) -> None:
    def plan(request: dict[str, Any], index: int) -> Any:
        return (
            {"questions": PARTS} if request["vllm_xargs"]["agent_role"] == "plan" else BRAIN(request, index)
        )

    with FakeOpenAI(plan) as server:
        result = await _run(server, docs, TWO, max_seekers=1)
        first = _only(server.chats, "think")[0]
    assert [task["question"] for task in result["plan"]] == [TWO]
    assert all(part in first.text for part in PARTS)


@pytest.mark.parametrize("garbage", ["", "I'd rather not.", "{}", '{"questions": [1]}', "{" * 1000])
async def test_a_useless_plan_is_the_question(docs: Path, garbage: str) -> None:
    def plan(request: dict[str, Any], index: int) -> Any:
        return garbage if request["vllm_xargs"]["agent_role"] == "plan" else BRAIN(request, index)

    with FakeOpenAI(plan) as server:
        result = await _run(server, docs)
    assert [task["question"] for task in result["plan"]] == [QUESTION]
    assert "1871" in result["answer"]


def _approval_graph(server: FakeOpenAI, docs: Path) -> Any:
    return create_deep_research_graph(settings=_settings(server, docs), checkpointer=InMemorySaver())


async def _answer_plan(server: FakeOpenAI, docs: Path, answer: Any) -> Any:
    graph = _approval_graph(server, docs)
    knobs = Context(plan_approval=True)
    paused = await graph.ainvoke({"question": QUESTION}, THREAD, context=knobs)
    (asked,) = paused["__interrupt__"]
    assert asked.value["question"] == QUESTION
    assert [task["question"] for task in asked.value["plan"]] == [QUESTION]
    assert _only(server.chats, "think") == [], "nothing is spent before the plan is approved"
    return await graph.ainvoke(Command(resume=answer), THREAD, context=knobs)


@pytest.mark.parametrize("answer", [True, {"approve": True}])
async def test_a_plan_is_approved(docs: Path, endpoint: FakeOpenAI, answer: Any) -> None:
    result = await _answer_plan(endpoint, docs, answer)
    assert "1871" in result["answer"]
    assert endpoint.roles().count("plan") == 1


async def test_a_run_that_goes_on_elsewhere_reads_its_settings_off_the_loop(
    docs: Path, endpoint: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_loop = []
    prepare = Resources.prepare

    def spy(self: Resources) -> None:
        on_the_loop.append(threading.current_thread() is threading.main_thread())
        prepare(self)

    monkeypatch.setattr(Resources, "prepare", spy)
    saver, knobs = InMemorySaver(), Context(plan_approval=True)
    for entry in ({"question": QUESTION}, Command(resume=True)):
        graph = create_deep_research_graph(settings=_settings(endpoint, docs), checkpointer=saver)
        result: Any = await graph.ainvoke(entry, THREAD, context=knobs)
    assert "1871" in result["answer"]
    assert on_the_loop == [False, False], "a server that was restarted must not block its event loop"


@pytest.mark.parametrize("answer", [False, {"approve": False}])
async def test_a_plan_is_refused(docs: Path, endpoint: FakeOpenAI, answer: Any) -> None:
    result = await _answer_plan(endpoint, docs, answer)
    assert "not approved" in result["report"]
    assert result["ran_out"] == [result["report"]]
    assert set(endpoint.roles()) == {"plan"}


@pytest.mark.parametrize("as_dicts", [False, True])
async def test_a_plan_is_edited(docs: Path, endpoint: FakeOpenAI, as_dicts: bool) -> None:
    plan: list[Any] = [{"id": "x", "question": part} for part in PARTS] if as_dicts else list(PARTS)
    result = await _answer_plan(endpoint, docs, {"plan": plan})
    assert result["plan"] == [
        {"id": "seeker-1", "question": PARTS[0]},
        {"id": "seeker-2", "question": PARTS[1]},
    ]
    assert {finding["agent"]: finding["question"] for finding in result["findings"]} == {
        "seeker-1": PARTS[0],
        "seeker-2": PARTS[1],
    }
    answers = {finding["agent"]: finding["answer"] for finding in result["findings"]}
    assert "1871" in answers["seeker-1"]
    assert "1902" in answers["seeker-2"]


# Parallel work


async def test_seekers_work_at_the_same_time(docs: Path) -> None:
    # No seeker's first step is answered before both have asked: one after the other they would never finish.
    barrier = threading.Barrier(2, timeout=60)

    def together(request: dict[str, Any], index: int) -> Any:
        hints = request["vllm_xargs"]
        if hints["agent_role"] == "plan":
            return {"questions": PARTS}
        if hints["agent_role"] == "think" and hints["agent_turn"] == 0:
            barrier.wait()
        return BRAIN(request, index)

    with FakeOpenAI(together) as server:
        result = await _run(server, docs, TWO)
    assert not barrier.broken
    assert {finding["agent"] for finding in result["findings"]} == {"seeker-1", "seeker-2"}
    answers = {finding["agent"]: finding["answer"] for finding in result["findings"]}
    assert "1871" in answers["seeker-1"]
    assert len(result["sources"]) >= 2


async def test_two_graphs_do_not_mix(tmp_path: Path) -> None:
    graphs, servers = [], []
    for number, year in ((1, "1871"), (2, "1902")):
        docs = tmp_path / f"site-{number}" / "docs"
        docs.mkdir(parents=True)
        (docs / f"light-{number}.md").write_text(f"# Heron Point\n\nHeron Point Light was lit in {year}.\n")
        servers.append(FakeOpenAI(models=("fake-small", "fake-large")).start())
        graphs.append(create_deep_research_graph(settings=_settings(servers[-1], docs)))
    try:
        one, two = await asyncio.gather(*(graph.ainvoke({"question": QUESTION}) for graph in graphs))
    finally:
        for server in servers:
            server.close()
    assert "1871" in one["report"]
    assert "1902" in two["report"]
    assert [source["uri"] for source in one["sources"].values()] == ["light-1.md"]
    assert [source["uri"] for source in two["sources"].values()] == ["light-2.md"]
    assert not any("1902" in chat.text for chat in servers[0].chats)
    assert not any("1871" in chat.text for chat in servers[1].chats)


async def test_concurrent_runs_of_one_graph_do_not_mix(docs: Path, endpoint: FakeOpenAI) -> None:
    graph = create_deep_research_graph(
        settings=_settings(endpoint, docs, tool_calling="json"), checkpointer=InMemorySaver()
    )
    markers = ["PEBBLE", "THISTLE", "MARLIN"]

    async def ask(marker: str) -> Any:
        config: RunnableConfig = {"configurable": {"thread_id": marker}}
        question = f"When was Heron Point Light lit, {marker}?"
        return await graph.ainvoke({"question": question}, config, context=Context(tenant=marker.lower()))

    results = await asyncio.gather(*map(ask, markers))
    for marker, result in zip(markers, results, strict=True):
        others = [other for other in markers if other != marker]
        written = json.dumps(result, default=str)
        assert marker in result["report"]
        assert not any(other in written for other in others)
    for chat in endpoint.chats:
        mine = [marker for marker in markers if marker in chat.text]
        assert len(mine) <= 1, "one user's words never reach another's prompt"
        if mine:
            assert chat.body["vllm_xargs"]["agent_tenant"] == mine[0].lower()
    for chats in _sessions(endpoint).values():
        assert len({chat.body["vllm_xargs"]["agent_tenant"] for chat in chats}) == 1


# Reports


async def test_only_retrieved_sources_are_cited(docs: Path) -> None:
    def liar(request: dict[str, Any], index: int) -> Any:
        if request["vllm_xargs"]["agent_role"] == "write":
            return (
                "Heron Point Light was lit in 1871 [1]. It was lit in 1871 again [7]. "
                "See https://evil.example/page and [this](http://evil.example/x)."
            )
        return BRAIN(request, index)

    with FakeOpenAI(liar) as server:
        result = await _run(server, docs)
    assert "evil.example" not in result["report"]
    assert "[7]" not in result["report"]
    assert result["dropped_citations"] >= 2
    listed = re.findall(r"^- \[\d+\] .* — (\S+)$", result["report"], re.MULTILINE)
    assert listed
    assert set(listed) <= {source["uri"] for source in result["sources"].values()}


async def test_a_seekers_own_numbers_cite_nothing_else(docs: Path) -> None:
    # To the seeker it is source [2]; in the report, where it is the only one cited, [1].
    class Second(Steps):
        def __call__(self, request: dict[str, Any], index: int) -> Reply:
            if request["vllm_xargs"]["agent_role"] == "think" and request["vllm_xargs"]["agent_turn"] == 1:
                arguments = {"answer": "Gull Rock Light was lit in 1902 [2].", "sources": [2]}
                return Reply(text="Found.", tool_calls=(("finish", arguments),))
            return super().__call__(request, index)

    with FakeOpenAI(Second("search")) as server:
        result = await _run(server, docs, mode="native", report="brief")
        seen = _only(server.chats, "think")[-1].text
    assert "[2] Gull Rock" in seen
    assert result["findings"][0]["answer"] == "Gull Rock Light was lit in 1902."
    assert result["findings"][0]["sources"] == [source_key("gull.md")]
    assert "lit in 1902. [1]" in result["report"]
    assert re.findall(r"^- \[\d+\].*$", result["report"], re.MULTILINE) == ["- [1] Gull Rock — gull.md"]


async def test_a_brief_report_needs_no_writer(docs: Path, endpoint: FakeOpenAI) -> None:
    result = await _run(endpoint, docs, report="brief")
    assert "write" not in endpoint.roles()
    assert "1871" in result["report"]
    assert "- [1] Heron Point — heron.md" in result["report"]
    full = await _run(endpoint, docs, report="full")
    assert "write" in endpoint.roles()
    assert full["answer"] == result["answer"]


@pytest.mark.parametrize("draft", ["No.", Reply(status=500, text="down")])
async def test_a_writer_that_fails_is_replaced_by_the_findings(docs: Path, draft: Any) -> None:
    def script(request: dict[str, Any], index: int) -> Any:
        return draft if request["vllm_xargs"]["agent_role"] == "write" else BRAIN(request, index)

    with FakeOpenAI(script) as server:
        result = await _run(server, docs)
    assert "1871" in result["report"]
    assert "## Findings" in result["report"]
    assert bool(result.get("ran_out")) is isinstance(draft, Reply), "a failure is said, silence is not"


async def test_chinese_from_end_to_end(docs: Path, endpoint: FakeOpenAI) -> None:
    question = "苍鹭角灯塔是哪一年点亮的？"
    result = await _run(endpoint, docs, question, report="brief")
    assert "1871" in result["answer"]
    assert "## 来源" in result["report"]
    assert "## 发现" in result["report"]
    assert "Sources" not in result["report"]
    for chat in endpoint.chats:
        words = re.sub(r"\{.*", "", chat.text)
        assert not re.search(r"\b(Question|Results|Write|Answer)\b", words), chat.role
    forced = await _run(endpoint, docs, QUESTION, report="brief", language="zh")
    assert "## 来源" in forced["report"]


async def test_an_unknown_answer_is_refused_at_most_twice(docs: Path) -> None:
    class Unsure(Steps):
        def __call__(self, request: dict[str, Any], index: int) -> Reply:
            if request["vllm_xargs"]["agent_role"] == "qa":
                return Reply(text="The passages do not mention it.")
            return super().__call__(request, index)

    with FakeOpenAI(Unsure("search", "answer", "answer", "answer", "answer")) as server:
        result = await _run(server, docs, mode="json", verifier=False)
        thinks = _only(server.chats, "think")
        assert len(_only(server.chats, "qa")) == 1, "the same passages are not read again"
    assert len(thinks) == 4, "the third answer is taken as it is"
    assert sum("not accepted" in chat.text for chat in thinks) == 2
    (finding,) = result["findings"]
    assert finding["answer"] == ""
    assert finding["complete"] is False
    assert "No answer was found." in result["report"]
    assert "heron.md" in result["report"], "what was found is quoted"


async def test_new_passages_are_read(docs: Path) -> None:
    class Unsure(Steps):
        def __call__(self, request: dict[str, Any], index: int) -> Reply:
            if request["vllm_xargs"]["agent_role"] == "qa":
                return Reply(text="The passages do not mention it.")
            return super().__call__(request, index)

    (docs / "later.md").write_text("# Gull Rock\n\nGull Rock Light was built by Otto Summer.\n")
    with FakeOpenAI(Unsure("search", "answer", "search", "answer")) as server:
        await _run(server, docs, mode="json", verifier=False, max_turns=4, results_per_query=1)
        readings = _only(server.chats, "qa")
    texts = [chat.text for chat in readings]
    assert len(texts) == len(set(texts)), "each reading is of something else"


async def test_nothing_found(tmp_path: Path, endpoint: FakeOpenAI) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("Cheese\n\nCheese is made of milk.\n")
    result = await _run(endpoint, docs, "Wann dreht Zylinderkopf?", max_turns=3)
    assert result["answer"] == ""
    assert "No documents were found." in result["report"]
    assert "max_turns" in result["report"]


async def test_half_a_character_in_a_step_does_no_harm(docs: Path) -> None:
    half = "Heron \ud83d Point"

    class Odd(Steps):
        def __call__(self, request: dict[str, Any], index: int) -> Reply:
            hints = request["vllm_xargs"]
            if hints["agent_role"] == "think" and hints["agent_turn"] == 0:
                if not request.get("tools"):
                    return Reply(text=json.dumps({"thought": half, "action": "search", "query": half}))
                function = {"name": "web_search", "arguments": json.dumps({"queries": [half]})}
                call = {"id": "c", "type": "function", "function": function}
                message = {"role": "assistant", "content": half, "tool_calls": [call]}
                return Reply(raw=json.dumps({"choices": [{"index": 0, "message": message}]}))
            return super().__call__(request, index)

    for mode in ("json", "native"):
        with FakeOpenAI(Odd("search", "answer")) as server:
            result = await _run(server, docs, mode=mode)
            first, second = _only(server.chats, "think")
            assert "Heron ? Point" in second.text or mode == "json"
            assert first.session == second.session
        assert "1871" in result["answer"]
        json.dumps(result, default=str, ensure_ascii=False).encode()


# Input and configuration


async def test_a_conversation_as_input(docs: Path, endpoint: FakeOpenAI) -> None:
    graph = create_deep_research_graph(settings=_settings(endpoint, docs))
    messages: Any = [
        HumanMessage("Hello!"),
        AIMessage("What would you like to know?"),
        HumanMessage([{"type": "text", "text": QUESTION}]),
    ]
    result: Any = await graph.ainvoke({"messages": messages})
    assert result["question"] == QUESTION
    assert [message.type for message in result["messages"]] == ["human", "ai", "human", "ai"]
    assert "1871" in result["messages"][-1].content
    from_dicts: Any = await graph.ainvoke({"messages": [{"role": "user", "content": QUESTION}]})  # type: ignore[list-item]
    assert from_dicts["question"] == QUESTION


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"question": ""}, "question is empty"),
        ({"question": " \n\t"}, "question is empty"),
        ({"question": "x" * 20_001}, "20,001 characters"),
        ({"messages": []}, "There is no question"),
        ({"messages": [AIMessage("Hi")]}, "There is no question"),
    ],
)
async def test_no_usable_question(docs: Path, endpoint: FakeOpenAI, given: Any, sentence: str) -> None:
    graph = create_deep_research_graph(settings=_settings(endpoint, docs))
    with pytest.raises(UserInputError, match=sentence):
        await graph.ainvoke(given)
    assert endpoint.requests == []


async def test_nothing_to_search(endpoint: FakeOpenAI) -> None:
    graph = create_deep_research_graph(settings=_settings(endpoint, None))
    with pytest.raises(ConfigurationError, match="AGENTINFER_DOCS"):
        await graph.ainvoke({"question": QUESTION})
    assert endpoint.requests == [], "it is said before anything is spent"


async def test_no_model(docs: Path, endpoint: FakeOpenAI) -> None:
    graph = create_deep_research_graph(settings=Settings(docs=docs, _env_file=None))
    with pytest.raises(ConfigurationError, match="AGENTINFER_SMALL__BASE_URL"):
        await graph.ainvoke({"question": QUESTION})


async def test_knobs_may_be_a_mapping(docs: Path, endpoint: FakeOpenAI) -> None:
    graph = create_deep_research_graph(settings=_settings(endpoint, docs))
    result: Any = await graph.ainvoke({"question": QUESTION}, context={"report": "brief"})  # type: ignore[arg-type]
    assert "1871" in result["report"]
    assert "write" not in endpoint.roles()


async def test_no_secret_and_no_raw_prompt_reach_the_output(docs: Path, endpoint: FakeOpenAI) -> None:
    key = "sk-not-for-anybody"
    endpoint.faults = Faults(api_key=key)
    settings = _settings(endpoint, docs)
    for tier in (settings.small, settings.large):
        tier.api_key = type(tier.api_key)(key)
    saver = InMemorySaver()
    graph = create_deep_research_graph(settings=settings, checkpointer=saver)
    result: Any = await graph.ainvoke({"question": QUESTION}, THREAD)
    assert "1871" in result["report"]
    assert key not in json.dumps(result, default=str)
    async for item in saver.alist(None):
        assert key not in repr(item)
    assert all(key not in render_prompt(chat.body) for chat in endpoint.chats)
