"""Prompts that did not fit, made shorter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from agentinfer_lg.llm.shorten import LEFT_OUT, prompt_tokens, shorten


def test_the_longest_give_up_their_middles() -> None:
    long = "begin " + "word " * 4000 + " end"
    messages = [
        SystemMessage("rules " * 50),
        HumanMessage("the question"),
        AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1", "type": "tool_call"}]),
        ToolMessage(long, tool_call_id="1"),
    ]
    shorter = shorten(messages, tokens=800)
    assert prompt_tokens(shorter) <= 800
    assert shorter[:3] == messages[:3]
    assert all(mine is theirs for mine, theirs in zip(shorter[:3], messages[:3], strict=True))
    text = str(shorter[3].content)
    assert text.startswith("begin ")
    assert text.endswith(" end")
    assert LEFT_OUT in text
    assert shorter[3].tool_call_id == "1"  # type: ignore[union-attr]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=8), st.integers(600, 4000))
def test_it_fits(lengths: list[int], tokens: int) -> None:
    messages = [HumanMessage("word " * length) for length in lengths]
    shorter = shorten(messages, tokens=tokens)
    assert len(shorter) == len(messages)
    assert prompt_tokens(shorter) <= max(tokens, min(prompt_tokens(messages), 80 * len(messages)))
