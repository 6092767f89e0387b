"""The proxy that chooses an agent's searches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_openai import FakeOpenAI, constrained_text

from agentinfer_lg.errors import EngineError
from agentinfer_lg.evals.compression.long_session.scripted_search import (
    ScriptedSearchProxy,
    narrowed,
    searchable,
)
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.grammar import prose
from agentinfer_lg.llm.protocol import Choices, action_regex, parse_step

SEARCHES = ("first things", "second things")


def answer(request: dict[str, Any], index: int) -> str:
    return constrained_text(request) or f"answer {index}"


@pytest.fixture
def engine() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(answer) as server:
        yield server


@pytest.fixture
def scripted(engine: FakeOpenAI) -> Iterator[ScriptedSearchProxy]:
    with ScriptedSearchProxy(base_url=engine.url, searches=SEARCHES) as endpoint:
        yield endpoint


def ask(endpoint: ScriptedSearchProxy, **body: object) -> httpx.Response:
    messages = [{"role": "user", "content": "hello"}]
    with httpx.Client(trust_env=False) as http:
        return http.post(
            f"{endpoint.base_url}/chat/completions",
            json={"model": "fake-small", "messages": messages, "max_tokens": 200, **body},
        )


def hints(**values: object) -> dict[str, object]:
    return dict(SessionHints(session_id="s", **values).to_xargs())  # type: ignore[arg-type]


GRAMMAR = action_regex(Choices(search=True, read=(1, 2), answer=True, results=True))


@given(st.text(max_size=300), st.booleans())
def test_whatever_is_searched_survives_grammar_and_json(text: str, results: bool) -> None:
    query = searchable(text)
    assert len(query) <= 120
    step = (
        narrowed(action_regex(Choices(search=True, answer=True, results=results)), query)
        .replace(prose(r'"\\\n', words=32), "x")
        .replace("\\{", "{")
        .replace("\\}", "}")
    )
    (action,) = parse_step(step).actions or (None,)
    found = action.arguments["queries"] if action else []
    assert found == ([query] if query else [])
    assert re.fullmatch(narrowed(GRAMMAR, query), narrowed_text(query))


def narrowed_text(query: str) -> str:
    return f'{{"known": "a", "missing": "b", "action": "search", "query": "{query}"}}'


def test_no_other_action_is_left() -> None:
    regex = narrowed(GRAMMAR, "first things")
    assert re.fullmatch(regex, narrowed_text("first things"))
    assert not re.fullmatch(regex, narrowed_text("other things"))
    for ending in ('"action": "answer"}', '"action": "read", "source": 1}'):
        step = f'{{"known": "a", "missing": "b", {ending}'
        assert re.fullmatch(GRAMMAR, step)
        assert not re.fullmatch(regex, step)


def test_what_is_no_step_cannot_be_narrowed() -> None:
    with pytest.raises(EngineError, match="grammar"):
        narrowed("(a|b)", "first things")


def test_think_steps_search_what_is_next(scripted: ScriptedSearchProxy) -> None:
    found = []
    for turn in range(3):
        body = {"vllm_xargs": hints(turn=turn), "structured_outputs": {"regex": GRAMMAR}}
        text = ask(scripted, **body).json()["choices"][0]["message"]["content"]
        found.append(json.loads(text)["query"])
    assert found == ["first things", "second things", "first things"]
    assert not scripted.problem


def test_other_requests_pass_as_they_are(scripted: ScriptedSearchProxy, engine: FakeOpenAI) -> None:
    body = {"vllm_xargs": hints(role="distill"), "structured_outputs": {"regex": GRAMMAR}, "max_tokens": 7}
    reply = ask(scripted, **body)
    sent = engine.chats[-1].body
    assert {name: sent[name] for name in body} == body
    assert reply.json()["usage"]["prompt_tokens"] > 0


def test_every_call_is_written_down(scripted: ScriptedSearchProxy) -> None:
    ask(scripted, vllm_xargs=hints(role="distill", turn=3))
    ask(scripted, vllm_xargs=hints(supersedes=True, turn=4), structured_outputs={"regex": GRAMMAR})
    one, other = scripted.exchanges
    assert (one.role, one.turn, one.supersedes) == ("distill", 3, False)
    assert (other.role, other.turn, other.supersedes) == ("think", 4, True)
    assert one.messages == ({"role": "user", "content": "hello"},)
    assert one.sent <= one.done <= other.sent <= other.done
    assert other.output_tokens > 0
    assert 0 <= other.cached_tokens < other.prompt_tokens


def test_what_the_engine_refuses_reaches_the_agent(scripted: ScriptedSearchProxy) -> None:
    reply = ask(scripted, model="unknown")
    assert reply.status_code == 404
    assert "error" in reply.json()
    assert scripted.exchanges == []


def test_a_step_that_cannot_be_steered_is_told(scripted: ScriptedSearchProxy) -> None:
    assert ask(scripted, vllm_xargs=hints()).status_code == 200
    assert "grammar" in scripted.problem


def test_models_are_those_of_the_engine(scripted: ScriptedSearchProxy) -> None:
    with httpx.Client(trust_env=False) as http:
        listed = http.get(f"{scripted.base_url}/models").json()
    assert [model["id"] for model in listed["data"]] == ["fake-small", "fake-large"]


def test_an_engine_that_is_gone_is_a_bad_gateway() -> None:
    with (
        FakeOpenAI() as engine,
        ScriptedSearchProxy(base_url=engine.url, searches=SEARCHES) as scripted,
    ):
        engine.close()
        assert ask(scripted).status_code == 502
