"""The fake endpoint keeps its promises: other tests lean on them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_openai import ChatOpenAI
from support.fake_openai import FakeOpenAI, Faults, PageServer, Reply, minimal_instance, minimal_match

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def chat(server: FakeOpenAI, key: str = "none", **fields: Any) -> httpx.Response:
    body = {"model": "fake-small", "messages": MESSAGES, "max_tokens": 100, **fields}
    return httpx.post(server.url + "/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})


def text_of(response: httpx.Response) -> Any:
    return response.json()["choices"][0]["message"]["content"]


def client(server: FakeOpenAI, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=server.url, api_key="none", model="fake-small", max_retries=2, **fields)


def test_plain_answer_usage_and_record() -> None:
    with FakeOpenAI(lambda request, index: f"reply {index}") as server:
        response = chat(server, key="secret")
        assert text_of(response) == "reply 0"
        assert response.json()["usage"]["prompt_tokens"] > 5
        recorded = server.chats[0]
    assert recorded.body["messages"] == MESSAGES
    assert recorded.authorized
    assert "secret" not in json.dumps(recorded.headers)


def test_cached_tokens_are_the_real_common_prefix() -> None:
    with FakeOpenAI(lambda request, index: "ok") as server:
        first = chat(server).json()["usage"]
        longer = [
            *MESSAGES,
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "And of Italy?"},
        ]
        second = chat(server, messages=longer).json()["usage"]
        other_model = chat(server, model="fake-large").json()["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] == first["prompt_tokens"]
    assert other_model["prompt_tokens_details"]["cached_tokens"] == 0


async def test_through_chat_openai_streamed_and_not() -> None:
    with FakeOpenAI(lambda request, index: "The capital is Paris, in France.") as server:
        model = client(server)
        whole = await model.ainvoke("hi", extra_body={"vllm_xargs": {"agent_role": "qa"}})
        streamed = [chunk async for chunk in client(server, stream_usage=True).astream("hi")]
        assert server.roles() == ["qa", ""]
    assert whole.content == "The capital is Paris, in France."
    assert "".join(str(chunk.content) for chunk in streamed) == whole.content
    assert any(chunk.usage_metadata for chunk in streamed)
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_token_details"]["cache_read"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls(stream: bool) -> None:
    tool = {
        "name": "search",
        "description": "d",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
    }
    with FakeOpenAI(lambda request, index: Reply(tool_calls=(("search", {"query": "a"}),))) as server:
        model = client(server).bind_tools([{"type": "function", "function": tool}])
        if stream:
            message = None
            async for chunk in model.astream("hi"):
                message = chunk if message is None else message + chunk
        else:
            message = await model.ainvoke("hi")
    assert message is not None
    assert [(c["name"], c["args"]) for c in message.tool_calls] == [("search", {"query": "a"})]


def test_rules_in_order_then_the_brain() -> None:
    script = [
        {"role": "progress", "times": 1, "reply": "FALSE"},
        {"contains": "Italy", "reply": {"text": "Rome"}},
    ]
    with FakeOpenAI(script) as server:
        progress = {
            "vllm_xargs": {"agent_role": "progress"},
            "structured_outputs": {"choice": ["FALSE", "TRUE"]},
        }
        assert [text_of(chat(server, **progress)) for _ in range(2)] == ["FALSE", "TRUE"]
        assert text_of(chat(server, messages=[{"role": "user", "content": "Italy?"}])) == "Rome"


def test_constraints_are_honoured() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    with FakeOpenAI() as server:
        assert json.loads(text_of(chat(server, structured_outputs={"json": schema}))) == {"n": 3}
        wrapped = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert json.loads(text_of(chat(server, response_format=wrapped))) == {"n": 3}
        assert text_of(chat(server, structured_outputs={"regex": "(yes|no){2}!"})) == "nono!"


def test_faults_of_the_server() -> None:
    with FakeOpenAI(
        faults=Faults(api_key="sk-right", rejects=frozenset({"tools"}), rate_limited=1)
    ) as server:
        assert chat(server).status_code == 401
        assert not server.chats[0].authorized
        assert chat(server, key="sk-right").status_code == 429
        assert chat(server, key="sk-right").status_code == 200
        assert chat(server, key="sk-right", tools=[{}]).status_code == 400
        assert chat(server, key="sk-right", model="nobody").status_code == 404


def test_garbage_of_many_kinds() -> None:
    replies = [
        Reply(raw="<html>"),
        Reply(no_choices=True),
        Reply(text=None),
        Reply(text="x" * 1_000_000, truncate=False),
    ]
    with FakeOpenAI(lambda request, index: replies[index]) as server:
        assert chat(server).text == "<html>"
        assert chat(server).json()["choices"] == []
        assert text_of(chat(server)) is None
        assert len(text_of(chat(server))) == 1_000_000


def test_max_tokens_and_context_length() -> None:
    with FakeOpenAI(lambda request, index: "a b c d e f", max_model_len=50) as server:
        response = chat(server, max_tokens=3)
        assert response.json()["choices"][0]["finish_reason"] == "length"
        assert response.json()["usage"]["completion_tokens"] == 3
        too_long = chat(server, messages=[{"role": "user", "content": "word " * 60}])
    assert too_long.status_code == 400
    assert "maximum context length is 50 tokens" in too_long.text


def test_reset_death_and_hold() -> None:
    def script(request: dict[str, Any], index: int) -> Reply:
        return Reply(reset=True) if index == 0 else Reply(text="held", hold="gate")

    with FakeOpenAI(script) as server:
        with pytest.raises(httpx.TransportError):
            chat(server)
        server.release("gate")
        assert text_of(chat(server)) == "held"
        server.kill()
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url + "/models")


def test_dies_after() -> None:
    with FakeOpenAI(faults=Faults(dies_after=1)) as server:
        assert chat(server).status_code == 200
        with pytest.raises(httpx.TransportError):
            chat(server)
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url + "/models")


def test_lists_models_like_vllm_or_not() -> None:
    with FakeOpenAI() as server, FakeOpenAI(owned_by="library", models=["m"]) as other:
        assert httpx.get(server.url + "/models").json()["data"][0]["max_model_len"] == 131_072
        assert httpx.get(server.url.removesuffix("/v1") + "/version").json() == {"version": "0.32.0"}
        assert (
            httpx.post(server.url.removesuffix("/v1") + "/tokenize", json={"prompt": "a b"}).json()["count"]
            == 3
        )
        assert [m["id"] for m in httpx.get(other.url + "/models").json()["data"]] == ["m"]
        assert (
            httpx.post(other.url.removesuffix("/v1") + "/tokenize", json={"prompt": "a"}).status_code == 404
        )


def test_as_a_process(tmp_path: Path) -> None:
    script = tmp_path / "rules.json"
    script.write_text(json.dumps([{"reply": "from the file"}]))
    source = Path(__file__).with_name("fake_openai.py")
    with subprocess.Popen(
        [sys.executable, str(source), "--script", str(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            response = httpx.post(
                url + "/chat/completions", json={"model": "fake-small", "messages": MESSAGES}
            )
            assert text_of(response) == "from the file"
            assert len(httpx.get(url.removesuffix("/v1") + "/_requests").json()) == 1
        finally:
            process.kill()


def test_page_server_counts_holds_and_is_huge() -> None:
    with PageServer() as pages:
        small = pages.add("/a", "<p>hello</p>")
        huge = pages.add("/huge", "x", size=3_000_000)
        assert httpx.get(small).text == "<p>hello</p>"
        assert len(httpx.get(huge).content) == 3_000_000
        assert httpx.get(pages.url + "/none").status_code == 404
        assert pages.visits == ["/a", "/huge", "/none"]


@pytest.mark.parametrize(
    "pattern",
    [
        r"TRUE|FALSE",
        r"[A-Z][a-z]{2,4} \d+",
        r"[^<\n]{1,30}</x>",
        r"(?:a|bc)?d",
        r"\{\"a\": (true|false)\}",
        r".{3}",
    ],
)
def test_minimal_match(pattern: str) -> None:
    assert re.fullmatch(pattern, minimal_match(pattern))


@given(st.sampled_from(["search", "answer", "read"]), st.text(min_size=1))
def test_the_wanted_branch_of_a_schema_is_taken(action: str, thought: str) -> None:
    branches = [
        {
            "type": "object",
            "properties": {
                "thought": {"type": "string"},
                "action": {"const": name},
                f"{name}_arg": {"type": "string"},
            },
            "required": ["thought", "action", f"{name}_arg"],
        }
        for name in ("search", "read", "answer")
    ]
    instance = minimal_instance({"anyOf": branches}, wanted={"action": action, "thought": thought})
    assert instance == {"thought": thought, "action": action, f"{action}_arg": "x"}
