"""The stand-in server counts thoughts as real servers do, and streams what it would have sent whole."""

import json
from typing import Any

import httpx
import pytest
from support.stand_in.agent import ANSWER, FACT, QUESTION, SENTINEL, Agent, inline, silent_on
from support.stand_in.exchange import Chat
from support.stand_in.server import MODEL, Server, StandIn


def _chat(**body: Any) -> Chat:
    prompt = f"Passages:\n[1] orlen: {FACT}\n\nQuestion: {QUESTION}\nAnswer in a few words."
    messages = [{"role": "user", "content": prompt}]
    return Chat(number=0, path="", body={"model": MODEL, "messages": messages, **body}, headers={})


def _choice(agent: Agent, **body: Any) -> dict[str, Any]:
    choice: dict[str, Any] = agent.complete(_chat(**body))["choices"][0]
    return choice


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_within_the_thought_leaves_no_answer(name: str) -> None:
    choice = _choice(Agent(thinking=150), **{name: 100})
    assert choice["finish_reason"] == "length"
    assert not choice["message"]["content"]
    assert len(choice["message"]["reasoning_content"]) == 400


def test_a_limit_beyond_the_thought_leaves_the_answer() -> None:
    choice = _choice(Agent(thinking=150), max_tokens=200)
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == ANSWER


def test_a_thought_that_is_cut_has_no_closing_mark() -> None:
    agent = Agent(thinking=150, place=inline("<think>", "</think>"))
    assert "</think>" not in _choice(agent, max_tokens=100)["message"]["content"]
    assert _choice(agent, max_tokens=200)["message"]["content"].endswith(f"</think>{ANSWER}")


def test_it_does_not_think_where_it_is_told_so() -> None:
    agent = Agent(thinking=150, silent=silent_on("template"))
    quiet = _choice(agent, chat_template_kwargs={"enable_thinking": False})
    assert quiet["message"] == {"role": "assistant", "content": ANSWER}
    assert SENTINEL in _choice(agent)["message"]["reasoning_content"]


def test_a_stream_holds_what_the_whole_answer_would() -> None:
    server = Server(agent=Agent(thinking=150))
    with StandIn(server) as stand_in, httpx.Client(trust_env=False) as client:
        url = f"{stand_in.root}/v1/chat/completions"
        whole = client.post(url, json=_chat().body).json()["choices"][0]["message"]
        text = client.post(url, json=_chat(stream=True).body).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events]
    for name in ("content", "reasoning_content"):
        assert "".join(delta.get(name) or "" for delta in deltas) == whole[name]
