"""How a request is written: a longer prompt extends a shorter one, and each lesson changes one thing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agentinfer_lg.llm.capabilities import Capabilities
from agentinfer_lg.llm.protocol import tool_definitions
from agentinfer_lg.llm.request import ModelRequest, encode, write_body


def _session(texts: list[str]) -> list[BaseMessage]:
    messages: list[BaseMessage] = [SystemMessage("rules"), HumanMessage("question")]
    for number, text in enumerate(texts):
        call = {"name": "web_search", "args": {"queries": [text]}, "id": f"s-{number}", "type": "tool_call"}
        messages += [AIMessage(text, tool_calls=[call]), ToolMessage(text, tool_call_id=f"s-{number}")]
    return messages


def _body(messages: list[BaseMessage], known: Capabilities, *, quiet: bool = False) -> dict[str, object]:
    request = ModelRequest(messages=messages, max_tokens=9, tools=tool_definitions(recall=True), quiet=quiet)
    return write_body(request, known, model="m")


@given(
    st.lists(st.text(max_size=20), max_size=5),
    st.text(max_size=20),
    st.sampled_from(
        [
            Capabilities(),
            Capabilities(system="folded"),
            Capabilities(alternating=True),
            Capabilities(short_ids=True, wants_thoughts=True),
            Capabilities(tool_results="text"),
        ]
    ),
)
def test_a_longer_session_extends_the_request_byte_by_byte(
    texts: list[str], more: str, known: Capabilities
) -> None:
    shorter, longer = (_body(_session(items), known) for items in (texts, [*texts, more]))
    assert shorter["tools"] == longer["tools"]
    before, after = (encode({"messages": body["messages"]}) for body in (shorter, longer))
    assert after.startswith(before.removesuffix(b"]}"))


@pytest.mark.parametrize("form", ["template", "effort", "switch", "none"])
def test_a_call_without_thinking_leaves_the_messages_before_the_last_as_they_are(form: str) -> None:
    known = replace(Capabilities(), quiet=form, thought_tokens=5)  # type: ignore[arg-type]
    messages = [*_session(["a"]), HumanMessage("Was it of use?")]
    quiet, loud = (_body(messages, known, quiet=asked)["messages"] for asked in (True, False))
    assert isinstance(quiet, list)
    assert isinstance(loud, list)
    assert quiet[:-1] == loud[:-1]
    assert (quiet[-1] == loud[-1]) is (form != "switch")
