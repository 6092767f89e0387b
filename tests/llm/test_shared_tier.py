"""One tier that serves many sessions, in several event loops: what one does leaves the others as they are."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from langchain_core.messages import HumanMessage
from support.fake_openai import FakeOpenAI, Faults, Reply

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.chat import ChatTier, Guide
from agentinfer_lg.llm.protocol import tool_definitions
from agentinfer_lg.settings import EndpointSettings

TOOLS = tool_definitions(recall=False)
CALL = Reply(text="", tool_calls=(("web_search", {"queries": ["tides"]}),))


def _tier(server: FakeOpenAI, **more: Any) -> ChatTier:
    endpoint = EndpointSettings(base_url=server.url, model="fake-small", max_retries=0, **more)
    return ChatTier("small", endpoint)


async def _call(tier: ChatTier, session: str = "a", **more: Any) -> Any:
    return await tier.call(
        [HumanMessage("hi")], **{"hints": SessionHints(session_id=session), "max_tokens": 50, **more}
    )


async def test_silent_steps_of_many_sessions_leave_native_calls_to_all() -> None:
    with FakeOpenAI(lambda request, index: CALL) as server:
        tier = _tier(server)
        await _call(tier, tools=TOOLS)
        assert [tier.prefer_json(session=str(number)) for number in range(9)] == ["native"] * 9
        assert tier.prefer_json(session="3") == "json"
        assert tier.tool_mode == "native"
        assert tier.prefer_json(session="5", refused=True) == "json"
        assert tier.tool_mode == "native"


async def test_silent_steps_that_are_not_in_a_row_are_forgiven() -> None:
    with FakeOpenAI(lambda request, index: CALL) as server:
        tier = _tier(server)
        for _ in range(3):
            await _call(tier, tools=TOOLS)
            assert tier.prefer_json(session="a") == "native"


async def test_an_answer_that_cannot_be_read_is_asked_for_again_also_later() -> None:
    texts = iter(["", "", "fine", "", "whole"])
    with FakeOpenAI(lambda request, index: next(texts)) as server:
        tier = _tier(server)
        assert (await _call(tier)).unreadable
        assert (await _call(tier)).text == "fine"
        assert (await _call(tier)).text == "whole"


async def test_a_stream_that_is_only_tried_reaches_no_other_call() -> None:
    bodies: list[Any] = []
    with FakeOpenAI(lambda request, index: "" if "odd" in str(request) else "ok") as server:
        tier = _tier(server)
        odd = tier.call([HumanMessage("odd")], hints=SessionHints(), max_tokens=9)
        await asyncio.gather(odd, *(_call(tier, str(number)) for number in range(8)))
        bodies = [chat.body for chat in server.chats]
    streamed = [body for body in bodies if body.get("stream")]
    assert all("odd" in str(body) for body in streamed)
    assert not tier.known.capabilities.streams_only


def test_a_tier_is_made_in_several_event_loops_at_once() -> None:
    with FakeOpenAI(lambda request, index: "ok") as server:
        tier, texts = _tier(server), []

        async def many() -> None:
            texts.extend(reply.text for reply in await asyncio.gather(*(_call(tier) for _ in range(4))))

        threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
        assert texts == ["ok"] * 16


async def test_a_refusal_of_regular_expressions_is_remembered_by_the_next_tier() -> None:
    guide = Guide(regex="(TRUE|FALSE)")
    with FakeOpenAI(lambda request, index: "TRUE") as server:
        server.faults = Faults(rejects=frozenset({"structured_outputs"}))
        for _ in range(3):
            await _call(_tier(server), guide=guide)
        assert sum("structured_outputs" in chat.body for chat in server.chats) == 1


async def test_thinking_that_is_off_is_never_begun() -> None:
    with FakeOpenAI(lambda request, index: "ok") as server:
        await _call(_tier(server, thinking="off"))
        await _call(_tier(server, thinking="auto"))
        first, second = (chat.body for chat in server.chats)
    assert first["chat_template_kwargs"]["enable_thinking"] is False
    assert "chat_template_kwargs" not in second


async def test_a_cut_report_of_a_model_that_does_not_think_is_kept() -> None:
    """Its first word is one with which thoughts begin, too."""
    cut = Reply(text="The user experience of the three lighthouses differs", finish_reason="length")
    with FakeOpenAI(lambda request, index: cut if "report" in str(request) else "whole") as server:
        tier = _tier(server)
        for _ in range(3):
            await _call(tier)
        reply = await tier.call([HumanMessage("report")], hints=SessionHints(), max_tokens=50)
    assert reply.cut
    assert reply.text.startswith("The user experience")


async def test_a_cut_text_of_a_model_of_which_nothing_is_known_may_be_a_thought() -> None:
    cut = Reply(text="Okay, the user wants a report, so", finish_reason="length")
    with FakeOpenAI(lambda request, index: cut) as server:
        reply = await _call(_tier(server))
    assert (reply.text, reply.cut) == ("", True)


async def test_a_cache_of_langchain_answers_no_model_at_an_endpoint() -> None:
    from langchain_core.caches import InMemoryCache
    from langchain_core.globals import get_llm_cache, set_llm_cache

    before = get_llm_cache()
    set_llm_cache(InMemoryCache())
    try:
        with FakeOpenAI(lambda request, index: "one") as one, FakeOpenAI(lambda r, i: "two") as two:
            texts = [(await _call(_tier(server))).text for server in (one, two, one)]
            assert texts == ["one", "two", "one"]
            assert len(one.chats) == 2
    finally:
        set_llm_cache(before)


async def test_an_owner_s_limit_is_not_asked_for_again() -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    cut = Reply(text="a text without an end", finish_reason="length")
    with FakeOpenAI(lambda request, index: cut) as server:
        model = ChatOpenAI(
            base_url=server.url, api_key=SecretStr("k"), model="fake-small", max_completion_tokens=700
        )
        reply = await _call(ChatTier("small", EndpointSettings(), model=model))
        assert len(server.chats) == 2, "once more, briefly"
    assert (reply.cut, reply.text) == (True, "a text without an end")
