"""Answering without an agent."""

from collections.abc import Sequence

import pytest
from support.fake_openai import FakeOpenAI, Faults

from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError, ToolError
from agentinfer_lg.evals.agent.benchmark.figures import break_down
from agentinfer_lg.evals.agent.engines import AgentEngines
from agentinfer_lg.evals.agent.one_shot import OneShot
from agentinfer_lg.result import build_result
from agentinfer_lg.tools.search import Document, SearchHit

QUESTION = "When was Heron Point Light lit?"


class FakeSearch:
    """Finds two documents and counts."""

    name = "fake"

    def __init__(self, *, broken: bool = False, empty: bool = False) -> None:
        self.queries: list[list[str]] = []
        self.limits: list[int] = []
        self._broken, self._empty = broken, empty

    async def search(self, queries: Sequence[str], *, limit: int) -> list[list[SearchHit]]:
        self.queries.append(list(queries))
        self.limits.append(limit)
        if self._broken:
            msg = "the search is down"
            raise ToolError(msg)
        texts = [] if self._empty else ["Heron Point Light was lit in 1871.", "Herons are birds."]
        return [
            [
                SearchHit(uri=f"{number}.md", title=f"Page {number}", snippet=text, score=1.0, complete=True)
                for number, text in enumerate(texts)
            ]
        ]

    async def fetch(self, uri: str, *, timeout: float, max_bytes: int) -> Document | None:
        raise AssertionError


def reader(server: FakeOpenAI, search: FakeSearch) -> OneShot:
    return OneShot(AgentEngines(urls={"large": server.url}).settings(), search)


async def test_one_search_and_one_call() -> None:
    search = FakeSearch()
    with FakeOpenAI(models=["large"]) as server:
        result = await reader(server, search).ask(QUESTION, Context(results_per_query=4), thread="q1")
        assert server.roles() == ["qa"]
        (chat,) = server.chats
    assert (search.queries, search.limits) == ([[QUESTION]], [4])
    assert QUESTION in chat.text
    assert "lit in 1871" in chat.text
    assert (chat.session, chat.model) == ("q1", "large")
    assert "1871" in result["answer"]


async def test_the_result_is_that_of_the_agent() -> None:
    with FakeOpenAI(models=["large"]) as server:
        result = await reader(server, FakeSearch()).ask(QUESTION, Context(), thread="q1")
    assert result.keys() == build_result({}, thread="q1", seconds=0.0).keys()
    assert [source["title"] for source in result["sources"]] == ["Page 0", "Page 1"]
    assert (result["question"], result["thread"], result["complete"]) == (QUESTION, "q1", True)
    assert result["usage"]["large"]["calls"] == 1
    assert result["usage"]["small"]["calls"] == 0
    (call,) = result["trace"]["calls"]
    assert (call["agent"], call["role"], call["tier"]) == ("reader", "qa", "large")
    (shown,) = result["trace"]["rounds"]
    assert set(shown["shown"]) <= {source["key"] for source in result["sources"]}
    assert shown["accepted"]
    assert 0 < result["seconds"]["observe"] <= result["seconds"]["total"]
    parts = break_down(result, evidence=["Page 0"])
    assert parts.tokens == call["prompt_tokens"] + call["output_tokens"]
    assert 0 <= parts.ineffective.total <= parts.computed_tokens


async def test_nothing_found_is_no_failure() -> None:
    with FakeOpenAI(lambda request, index: "", models=["large"]) as server:
        result = await reader(server, FakeSearch(empty=True)).ask(QUESTION, Context(), thread="q1")
    assert (result["answer"], result["sources"], result["complete"]) == ("", [], False)


async def test_a_dead_search_or_endpoint_is_told() -> None:
    with FakeOpenAI(models=["large"]) as server:
        with pytest.raises(ToolError, match="the search is down"):
            await reader(server, FakeSearch(broken=True)).ask(QUESTION, Context(), thread="q1")
        assert server.chats == []
    with (
        FakeOpenAI(models=["large"], faults=Faults(api_key="another")) as server,
        pytest.raises(EndpointError),
    ):
        await reader(server, FakeSearch()).ask(QUESTION, Context(), thread="q1")
