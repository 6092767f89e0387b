"""One model for both tiers: nothing is paid for that only another model could do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import GenericFakeChatModel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from support.fake_openai import Brain, FakeOpenAI, Reply

from agentinfer_lg import Context, EndpointSettings, Settings, create_deep_research_graph
from agentinfer_lg.collab.effective_policy import ONE_MODEL_NOTE, effective_context, effective_policy
from agentinfer_lg.context import CollabPolicy
from agentinfer_lg.llm.models import Models

QUESTION = "When was Heron Point Light lit?"
BRAIN = Brain()


class Looking:
    """A model that finds no progress in its steps, and answers in turn `last`.

    Args:
        last: Turn of the answer; None for never.
        query: What is searched for, with `{}` for the turn.
    """

    def __init__(self, *, last: int | None = 4, query: str = "lamp {}") -> None:
        self.last = last
        self.query = query

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        hints = request["vllm_xargs"]
        turn = hints["agent_turn"]
        if hints["agent_role"] == "progress":
            block = (
                "===PROGRESS===\n<reason>nothing new in it</reason> <value>FALSE</value>\n===END_PROGRESS==="
            )
            return Reply(text=block)
        if hints["agent_role"] != "think":
            return BRAIN(request, index)
        query = self.query.format(turn)
        thought = f"Thought number {turn} about {query}."
        values = {"thought": thought, "query": query, "queries": [query], "answer": "", "sources": [1]}
        finish = self.last is not None and turn >= self.last
        return BRAIN.act(request, "finish" if finish else "web_search", values)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "heron.md").write_text("# Heron Point\n\nHeron Point Light was lit in 1871 by Ada Winter.\n")
    for turn in range(12):
        (folder / f"lamp-{turn}.md").write_text(f"# Lamp {turn}\n\nLamp {turn} was made by maker {turn}.\n")
    return folder


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(Looking()) as fake:
        yield fake


def _settings(server: FakeOpenAI, docs: Path, *, small: str = "fake-small", large: str = "") -> Settings:
    """Settings with two models at one server, or with one model (`large` is empty)."""

    def at(model: str) -> EndpointSettings:
        return EndpointSettings(base_url=server.url, model=model, tool_calling="json", max_retries=0)

    return Settings(
        small=at(small), large=at(large or small), docs=docs, home=docs.parent / "home", _env_file=None
    )


async def _run(server: FakeOpenAI, settings: Settings, **knobs: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return the output of a run, and its events."""
    context = Context(**{"max_turns": 6, "verifier": False, "results_per_query": 1, **knobs})
    graph = create_deep_research_graph(settings=settings)
    events: list[Any] = []
    output: Any = {}
    stream = graph.astream({"question": QUESTION}, context=context, stream_mode=["custom", "values"])
    async for mode, chunk in stream:
        if mode == "custom":
            events.append(chunk)
        else:
            output = chunk
    return output, events


def _tiers(output: dict[str, Any]) -> set[str]:
    return {call["tier"] for call in output["calls"]}


async def test_nothing_is_checked_or_escalated(server: FakeOpenAI, docs: Path) -> None:
    output, events = await _run(server, _settings(server, docs), seeker_warmup_steps=2)
    assert "progress" not in server.roles()
    assert _tiers(output) == {"small"}
    assert not output.get("escalations")
    assert output["one_model"] is True
    assert "1871" in output["answer"]
    assert [event["text"] for event in events if event["event"] == "note"] == [ONE_MODEL_NOTE]


async def test_two_models_at_one_endpoint_are_two(server: FakeOpenAI, docs: Path) -> None:
    output, events = await _run(server, _settings(server, docs, large="fake-large"))
    assert "progress" in server.roles()
    assert _tiers(output) == {"small", "large"}
    assert output["escalations"]
    assert output["one_model"] is False
    assert not [event for event in events if event["event"] == "note"]


async def test_each_step_costs_one_call(server: FakeOpenAI, docs: Path) -> None:
    await _run(server, _settings(server, docs))
    assert server.roles() == ["plan", *["think"] * 5, "qa", "write"]


@pytest.mark.parametrize(
    ("policy", "tiers"), [("always-small", {"small"}), ("always-large", {"large"}), ("one-model", {"small"})]
)
async def test_a_policy_that_somebody_sets_keeps_its_meaning(
    server: FakeOpenAI, docs: Path, policy: CollabPolicy, tiers: set[str]
) -> None:
    output, events = await _run(server, _settings(server, docs), policy=policy)
    assert _tiers({"calls": [call for call in output["calls"] if call["role"] == "think"]}) == tiers
    assert not [event for event in events if event["event"] == "note"]


@pytest.mark.parametrize(("reads", "steps"), [(True, 3), (False, 6)])
async def test_a_stuck_seeker_reads_what_it_found(docs: Path, reads: bool, steps: int) -> None:
    """The third search for the lamp repeats the second; the first one also asked the task, and found the light."""
    with FakeOpenAI(Looking(last=None, query="lamp 3 again")) as server:
        output, _ = await _run(
            server, _settings(server, docs), verifier=True, repeat_limit=1, rescue_reads=reads, leads=False
        )
        roles = server.roles()
    assert "progress" not in roles
    assert _tiers(output) == {"small"}
    assert roles.count("think") == steps
    assert output["findings"][0]["complete"] is reads
    assert "1871" in output["answer"]


async def test_a_lost_endpoint_is_not_asked_twice(server: FakeOpenAI, docs: Path) -> None:
    class Lost(Looking):
        def __call__(self, request: dict[str, Any], index: int) -> Reply:
            lost = request["vllm_xargs"]["agent_role"] == "think" and request["vllm_xargs"]["agent_turn"] == 1
            return Reply(status=500, text="gone") if lost else super().__call__(request, index)

    with FakeOpenAI(Lost()) as lost:
        await _run(lost, _settings(lost, docs))
        failing = [c for c in lost.chats if c.role == "think" and c.body["vllm_xargs"]["agent_turn"] == 1]
    assert 0 < len({json.dumps(chat.body, sort_keys=True) for chat in failing}) == len(failing)


async def test_a_run_that_goes_on_stays_with_it(server: FakeOpenAI, docs: Path) -> None:
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "one"}}
    context = Context(plan_approval=True, seeker_warmup_steps=3, verifier=False, results_per_query=1)

    def graph() -> Any:
        return create_deep_research_graph(settings=_settings(server, docs), checkpointer=saver)

    await graph().ainvoke({"question": QUESTION}, config, context=context)
    output = await graph().ainvoke(Command(resume=True), config, context=context)
    assert "progress" not in server.roles()
    assert _tiers(output) == {"small"}
    assert output["one_model"] is True


class TestModels:
    def test_a_tier_that_is_not_configured_is_the_other_one(self, server: FakeOpenAI, docs: Path) -> None:
        endpoint = EndpointSettings(base_url=server.url, model="m")
        assert Models(Settings(small=endpoint, docs=docs, _env_file=None)).one_model
        both = Settings(small=endpoint, large=EndpointSettings(model="n"), docs=docs, _env_file=None)
        assert not Models(both).one_model

    def test_the_same_object_is_one_model(self) -> None:
        settings = Settings(_env_file=None)
        one, other = (GenericFakeChatModel(messages=iter([])) for _ in range(2))
        assert Models(settings, small=one, large=one).one_model
        assert Models(settings, small=one).one_model
        assert not Models(settings, small=one, large=other).one_model


@given(st.sampled_from(get_args(CollabPolicy)), st.booleans())
def test_only_the_policy_of_the_paper_gives_way(policy: CollabPolicy, one_model: bool) -> None:
    followed = effective_policy(policy, one_model=one_model)
    assert followed == ("one-model" if one_model and policy == "agentcollab" else policy)
    assert effective_policy(followed, one_model=one_model) == followed
    context = Context(policy=policy, max_turns=3)
    assert effective_context(context, one_model=one_model) == Context(policy=followed, max_turns=3)
