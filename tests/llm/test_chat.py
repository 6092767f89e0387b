"""The two tiers against a real HTTP server: what is sent, what is understood, what a failure says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatResult
from langchain_openai import ChatOpenAI
from pydantic import SecretStr, ValidationError
from support.fake_openai import FakeOpenAI, Faults, Reply

from agentinfer_lg.context import Context
from agentinfer_lg.errors import ConfigurationError, EndpointError
from agentinfer_lg.hints import SessionHints, parse_hints
from agentinfer_lg.llm.affinity import session_rank
from agentinfer_lg.llm.calling import Caller, session_name
from agentinfer_lg.llm.chat import (
    ChatTier,
    ContextOverflowError,
    Guide,
    OutOfTimeError,
    RefusedRequestError,
)
from agentinfer_lg.llm.models import Models
from agentinfer_lg.llm.protocol import tool_definitions
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import EndpointSettings, Settings

KEY = "sk-very-secret-0123456789"
HINTS = SessionHints(session_id="abc", turn=3, role="progress", tool_seconds=1.25, tenant="t")
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(lambda request, index: "hello") as fake:
        yield fake


def _endpoint(server: FakeOpenAI, **more: Any) -> EndpointSettings:
    return EndpointSettings(base_url=server.url, model="fake-small", **{"max_retries": 0, **more})


def _tier(server: FakeOpenAI, **more: Any) -> ChatTier:
    return ChatTier("small", _endpoint(server, **more))


async def _call(tier: ChatTier, text: str = "hi", **more: Any) -> Any:
    return await tier.call([HumanMessage(text)], **{"hints": HINTS, "max_tokens": 50, **more})


# What is sent


@pytest.mark.parametrize(
    ("owned_by", "hints", "sent"),
    [
        ("vllm", "auto", True),
        ("vllm", "on", True),
        ("vllm", "off", False),
        ("openai", "auto", False),
        ("openai", "on", True),
        ("openai", "off", False),
    ],
)
async def test_hints_are_sent_to_servers_that_understand_them(owned_by: str, hints: str, sent: bool) -> None:
    with FakeOpenAI(lambda request, index: "ok", owned_by=owned_by) as server:
        await _call(_tier(server, hints=hints))
        body = server.chats[-1].body
    assert ("vllm_xargs" in body) is sent
    if sent:
        assert parse_hints(body["vllm_xargs"]).hints == HINTS


@pytest.mark.parametrize(("hints", "sent"), [("auto", True), ("off", False)])
async def test_the_session_is_named_in_a_header_too(server: FakeOpenAI, hints: str, sent: bool) -> None:
    await _call(_tier(server, hints=hints))
    headers = server.chats[-1].headers
    assert headers.get("x-session-id") == ("abc" if sent else None)
    assert "x-data-parallel-rank" not in headers  # there is one rank only


@pytest.mark.parametrize("size", [0, 4])
async def test_a_session_keeps_its_rank(size: int) -> None:
    sessions = [SessionHints(session_id=f"session {number}") for number in range(24)]
    with FakeOpenAI(lambda request, index: "ok", ranks=4) as server:
        for _ in range(2):  # another process, as after a crash, finds the same rank
            tier = _tier(server, data_parallel_size=size)
            for hints in sessions:
                await _call(tier, hints=hints)
        ranks = [int(chat.headers["x-data-parallel-rank"]) for chat in server.chats]
    assert ranks[:24] == ranks[24:] == [session_rank(hints.session_id, 4) for hints in sessions]
    assert set(ranks) == {0, 1, 2, 3}


async def test_no_rank_is_named_if_vllm_is_to_choose() -> None:
    with FakeOpenAI(lambda request, index: "ok", ranks=2) as server:
        await _call(_tier(server, data_parallel_size=1))
        assert "x-data-parallel-rank" not in server.chats[-1].headers
        assert server.chats[-1].headers["x-session-id"] == "abc"


async def test_a_server_that_was_started_anew_with_fewer_ranks_is_asked_without_one() -> None:
    high = next(name for name in map(str, range(99)) if session_rank(name, 4) == 3)
    with FakeOpenAI(lambda request, index: "ok", ranks=4) as server:
        tier = _tier(server)
        await _call(tier, hints=SessionHints(session_id=high))
        server.ranks = 2
        replies = await asyncio.gather(*(_call(tier, hints=SessionHints(session_id=high)) for _ in range(3)))
        assert [reply.text for reply in replies] == ["ok"] * 3
        await _call(tier, hints=SessionHints(session_id=high))
        assert "x-data-parallel-rank" not in server.chats[-1].headers


async def test_a_wrong_number_of_ranks_is_told(server: FakeOpenAI) -> None:
    high = next(name for name in map(str, range(99)) if session_rank(name, 4) == 3)
    tier = _tier(server, data_parallel_size=4)
    with pytest.raises(EndpointError, match=r"fewer than 4 .* AGENTINFER_SMALL__DATA_PARALLEL_SIZE"):
        await _call(tier, hints=SessionHints(session_id=high))


async def test_half_an_answer_of_a_dying_server_is_not_taken_for_one() -> None:
    halves = [Reply(text="The light was lit in", finish_reason="abort")] * 2
    answers = iter([*halves, Reply(text="whole"), *halves])
    with FakeOpenAI(lambda request, index: next(answers)) as server:
        tier = _tier(server, max_retries=2)
        assert (await _call(tier)).text == "whole"
        assert len(server.chats) == 3
        with pytest.raises(EndpointError, match=r"small model at .* broke off its answer"):
            await _call(_tier(server, max_retries=1))


async def test_headers_of_a_given_model_stay(server: FakeOpenAI) -> None:
    model = ChatOpenAI(
        base_url=server.url,
        api_key=SecretStr("none"),
        model="fake-small",
        default_headers={"X-First": "1", "Connection": "close"},
        model_kwargs={"extra_headers": {"X-Second": "2"}},
    )
    await _call(ChatTier("small", EndpointSettings(hints="on"), model=model))
    headers = server.chats[-1].headers
    assert [headers[f"x-{name}"] for name in ("first", "second", "session-id")] == ["1", "2", "abc"]


async def test_the_request(server: FakeOpenAI) -> None:
    reply = await _call(_tier(server), max_tokens=33, temperature=0.5)
    body = server.chats[-1].body
    assert body["model"] == "fake-small"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["max_tokens"] == 33
    assert body["temperature"] == 0.5
    assert not {"tools", "tool_choice", "response_format", "structured_outputs"} & set(body)
    assert reply.text == "hello"
    assert reply.model == "fake-small"
    assert reply.unreadable == ""
    assert reply.seconds > 0


async def test_constraints_are_sent(server: FakeOpenAI) -> None:
    tier = _tier(server)
    await _call(tier, guide=Guide(schema=SCHEMA))
    sent = server.chats[-1].body["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"] == SCHEMA
    await _call(tier, guide=Guide(regex="a+"))
    assert server.chats[-1].body["structured_outputs"] == {"regex": "a+"}


async def test_a_regex_is_sent_to_vllm_only() -> None:
    with FakeOpenAI(lambda request, index: "ok", owned_by="openai") as server:
        await _call(_tier(server), guide=Guide(regex="a+"))
        assert "structured_outputs" not in server.chats[-1].body


@pytest.mark.parametrize(
    ("field", "guide"), [("response_format", Guide(schema=SCHEMA)), ("structured_outputs", Guide(regex="a+"))]
)
async def test_a_refused_constraint_is_given_up(field: str, guide: Guide) -> None:
    with FakeOpenAI(lambda request, index: "free", faults=Faults(rejects=frozenset({field}))) as server:
        tier = _tier(server)
        assert (await _call(tier, guide=guide)).text == "free"
        assert [field in chat.body for chat in server.chats] == [True, False]
        await _call(tier, guide=guide)
        assert len(server.chats) == 3, "refused once, never sent again"
        assert field not in server.chats[-1].body
        assert server.chats[-1].body["vllm_xargs"], "the hints stay"


async def test_parallel_calls_survive_the_loss_of_constraints() -> None:
    # All three are under way when the first refusal arrives.
    def refuse(request: dict[str, Any], index: int) -> Reply:
        if "response_format" in request:
            return Reply(status=400, text="response_format is not supported", hold="refuse")
        return Reply(text="free")

    with FakeOpenAI(refuse) as server:
        tier = _tier(server)
        calls = [asyncio.create_task(_call(tier, f"q{n}", guide=Guide(schema=SCHEMA))) for n in range(3)]
        await asyncio.to_thread(server.wait_for, lambda: len(server.chats) == 3)
        server.release("refuse")
        assert [reply.text for reply in await asyncio.gather(*calls)] == ["free"] * 3


async def test_tools_are_sent_and_calls_are_read() -> None:
    call = ("web_search", {"queries": ["a"]})
    with FakeOpenAI(lambda request, index: Reply(text="t", tool_calls=(call,))) as server:
        tier = _tier(server)
        reply = await _call(tier, tools=tool_definitions(recall=True))
        assert server.chats[-1].body["tools"] == list(tool_definitions(recall=True))
        assert server.chats[-1].body["tool_choice"] == "auto"
        await _call(tier, tools=tool_definitions(recall=True), tool_choice="none")
        assert server.chats[-1].body["tool_choice"] == "none"
    assert (reply.text, [(c.name, c.arguments) for c in reply.tool_calls]) == ("t", [call])


async def test_a_server_without_a_tool_parser_refuses(server: FakeOpenAI) -> None:
    server.faults = Faults(rejects=frozenset({"tools"}))
    with pytest.raises(RefusedRequestError, match="refused the request"):
        await _call(_tier(server), tools=tool_definitions(recall=True))


async def test_llama_cpp_refuses_tools_with_500() -> None:
    with (
        FakeOpenAI(lambda request, index: Reply(status=500, text="tools param requires --jinja")) as server,
        pytest.raises(RefusedRequestError),
    ):
        await _call(_tier(server), tools=tool_definitions(recall=True))


def test_tool_mode_follows_the_settings() -> None:
    for setting, before, after in (
        ("auto", "native", "json"),
        ("native", "native", "native"),
        ("json", "json", "json"),
    ):
        tier = ChatTier("small", EndpointSettings(base_url="http://a.example", tool_calling=setting))  # type: ignore[arg-type]
        assert tier.tool_mode == before
        tier.prefer_json()
        assert tier.tool_mode == after


async def test_tool_calling_that_has_worked_is_kept() -> None:
    call = Reply(text="", tool_calls=(("web_search", {"queries": ["tides"]}),))
    with FakeOpenAI(lambda request, index: call) as server:
        tier = _tier(server)
        await _call(tier, tools=tool_definitions(recall=True))
        tier.prefer_json()
        assert tier.tool_mode == "native", "one step without a call changes nothing"


# What is understood


async def test_cached_tokens_are_counted(server: FakeOpenAI) -> None:
    tier = _tier(server)
    first = (await _call(tier, "one two three four five six seven")).usage
    second = (await _call(tier, "one two three four five six seven eight")).usage
    assert first.cached_tokens == 0
    assert 0 < second.cached_tokens < second.prompt_tokens
    assert second.output_tokens > 0


async def test_an_oversized_answer_is_clipped() -> None:
    with FakeOpenAI(lambda request, index: Reply(text="word " * 200_000, truncate=False)) as server:
        reply = await _call(_tier(server), max_tokens=20)
    assert len(reply.text) <= 400
    assert reply.text.startswith("word word")


async def test_thoughts_are_left_out() -> None:
    with FakeOpenAI(lambda request, index: "<think>maybe\nnot</think>\n\nYes") as server:
        assert (await _call(_tier(server))).text == "Yes"


async def test_a_thought_that_was_cut_within_a_line_is_left_out() -> None:
    cut = Reply(text="It is lit. Or <think>is the keeper a wombat", finish_reason="length", truncate=False)
    with FakeOpenAI(lambda request, index: cut) as server:
        reply = await _call(_tier(server), whole=False)
    assert reply.cut
    assert "wombat" not in reply.text
    assert "wombat" in reply.thoughts


@pytest.mark.parametrize(
    "reply",
    [
        Reply(raw="not json"),
        Reply(raw="{}"),
        Reply(raw='{"choices": null}'),
        Reply(raw='{"choices": [{"message": null}]}'),
        Reply(no_choices=True),
        Reply(text=""),
        Reply(text=None),
        Reply(text="<think>only a thought</think>"),
    ],
    ids=range(8),
)
async def test_an_unreadable_answer_is_no_failure(reply: Reply) -> None:
    with FakeOpenAI(lambda request, index: reply) as server:
        answer = await _call(_tier(server))
    assert answer.text == ""
    assert answer.tool_calls == ()
    assert answer.unreadable


async def test_half_a_character_becomes_a_question_mark() -> None:
    body = '{"choices": [{"index": 0, "message": {"role": "assistant", "content": "a\\ud83d"}}]}'
    with FakeOpenAI(lambda request, index: Reply(raw=body)) as server:
        assert (await _call(_tier(server))).text == "a?"


async def test_messages_are_never_changed(server: FakeOpenAI) -> None:
    messages: list[BaseMessage] = [HumanMessage("q"), AIMessage("a"), HumanMessage("r")]
    before = [message.model_dump_json() for message in messages]
    await _tier(server).call(messages, hints=HINTS, max_tokens=10)
    assert [message.model_dump_json() for message in messages] == before


# What a failure says


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, "refused the request"),
        (401, "refused the key. Set AGENTINFER_SMALL__API_KEY to a valid one."),
        (403, "refused the key. Set AGENTINFER_SMALL__API_KEY to one that may use this model."),
        (404, "does not serve this model. Set AGENTINFER_SMALL__MODEL"),
        (429, "is over its rate limit or quota. Wait, or ask for less at once (--max-seekers, --parallel)."),
        (500, "failed with status 500"),
        (503, "failed with status 503"),
    ],
)
async def test_failures_are_sentences_without_the_key(status: int, sentence: str) -> None:
    def fail(request: dict[str, Any], index: int) -> Reply:
        return Reply(status=status, text=f"no, your key {KEY} will not do")

    with FakeOpenAI(fail, faults=Faults(api_key=KEY)) as server:
        with pytest.raises(EndpointError) as caught:
            await _call(_tier(server, api_key=SecretStr(KEY)))
        assert str(caught.value).startswith(f"The small model at {server.url} ")
    assert sentence in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None, "the server's own words are not shown either"
    assert not isinstance(caught.value, OutOfTimeError)


async def test_connection_refused() -> None:
    with FakeOpenAI() as server:
        tier = _tier(server)
        await _call(tier)
    with pytest.raises(EndpointError, match="cannot be reached"):
        await _call(tier)
    with pytest.raises(EndpointError):
        await _call(ChatTier("small", EndpointSettings(base_url=server.url)))


async def test_a_reset_connection(server: FakeOpenAI) -> None:
    tier = _tier(server)
    await _call(tier)
    server.kill()
    with pytest.raises(EndpointError, match="cannot be reached"):
        await _call(tier)


async def test_a_passing_rate_limit_is_waited_out(server: FakeOpenAI) -> None:
    with FakeOpenAI(lambda request, index: "ok", faults=Faults(rate_limited=1)) as server:
        assert (await _call(_tier(server, max_retries=1))).text == "ok"


async def test_credentials_in_the_address_are_not_shown() -> None:
    with FakeOpenAI(lambda request, index: Reply(status=503)) as server:
        url = server.url.replace("http://", f"http://user:{KEY}@")
        with pytest.raises(EndpointError) as caught:
            await _call(ChatTier("small", EndpointSettings(base_url=url, max_retries=0)))
    assert KEY not in str(caught.value)


async def test_the_callers_time_is_over() -> None:
    with FakeOpenAI(lambda request, index: Reply(text="late", hold="never")) as server:
        tier = _tier(server)
        with pytest.raises(OutOfTimeError, match="small model"):
            await _call(tier, timeout=0.05)
        with pytest.raises(OutOfTimeError):
            await _call(tier, timeout=0.0)


async def test_a_server_that_hangs_is_a_lost_endpoint() -> None:
    with (
        FakeOpenAI(lambda request, index: Reply(text="late", hold="never")) as server,
        pytest.raises(EndpointError, match="did not answer within") as caught,
    ):
        await _call(_tier(server, timeout=0.5), timeout=60.0)
    assert not isinstance(caught.value, OutOfTimeError)


async def test_a_prompt_that_does_not_fit() -> None:
    with FakeOpenAI(max_model_len=200) as server:
        tier = _tier(server)
        with pytest.raises(ContextOverflowError, match="200 tokens"):
            await _call(tier, "word " * 2_000)
        assert server.chats == [], "clear cases cost no request"
        assert tier.max_model_len == 200


async def test_the_server_has_the_last_word_on_the_context() -> None:
    text = "This model's maximum context length is 200 tokens. However, you requested 300 tokens."
    with (
        FakeOpenAI(lambda request, index: Reply(status=400, text=text)) as server,
        pytest.raises(ContextOverflowError),
    ):
        await _call(_tier(server))


async def test_output_is_lowered_to_what_the_window_leaves() -> None:
    with FakeOpenAI(lambda request, index: "ok", max_model_len=300) as server:
        await _call(_tier(server), "lighthouses " * 40, max_tokens=5_000)
        assert 100 <= server.chats[-1].body["max_tokens"] < 300


# Keys


async def test_the_key_of_the_environment_is_never_sent(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.faults = Faults(api_key=KEY)
    await asyncio.to_thread(_no_key_arrives, server)
    own = EndpointSettings(base_url=server.url, model="fake-small", api_key=SecretStr(KEY), max_retries=0)
    assert (await _call(ChatTier("small", own))).text == "hello"


def _no_key_arrives(server: FakeOpenAI) -> None:
    async def probe_refused_then_chat_refused() -> None:
        with pytest.raises(EndpointError, match="key"):
            await _call(_tier(server))
        # The probe sends no key either; let it through to see what the chat request carries.
        tier = _tier(server)
        server.faults = Faults()
        await _call(tier)
        server.faults = Faults(api_key=KEY)
        with pytest.raises(EndpointError, match="refused the key"):
            await _call(tier)

    asyncio.run(probe_refused_then_chat_refused())
    assert not server.requests[-1].authorized


def test_keys_are_not_printed() -> None:
    endpoint = EndpointSettings(base_url="http://a.example", api_key=SecretStr(KEY))
    assert KEY not in f"{endpoint!r} {endpoint} {endpoint.model_dump()}"


# Both tiers together


def _settings(**more: Any) -> Settings:
    return Settings(_env_file=None, **more)


def _caller(resources: Resources) -> Caller:
    return Caller(resources=resources, context=Context(tenant="acme"), run_id="r", agent="seeker-1", turn=2)


async def _think(resources: Resources, **more: Any) -> Any:
    return await _caller(resources).call("small", [HumanMessage("q")], role="think", max_tokens=20, **more)


@pytest.fixture
def two() -> Iterator[tuple[FakeOpenAI, FakeOpenAI]]:
    with FakeOpenAI(lambda r, i: "small says") as small, FakeOpenAI(lambda r, i: "large says") as large:
        yield small, large


def _both(small: FakeOpenAI, large: FakeOpenAI) -> Resources:
    return Resources(
        _settings(small=_endpoint(small), large=_endpoint(large).model_copy(update={"model": "fake-large"}))
    )


async def test_the_other_tier_steps_in_with_a_warning(two: tuple[FakeOpenAI, FakeOpenAI]) -> None:
    small, large = two
    resources = _both(small, large)
    called = await _think(resources)
    assert (called.reply.text, called.warning, called.record["tier"]) == ("small says", "", "small")
    small.kill()
    called = await _think(resources)
    assert called.reply.text == "large says"
    assert called.record["tier"] == "large"
    assert called.record["model"] == "fake-large"
    assert "cannot be reached" in called.warning
    assert called.warning.endswith("The large model goes on instead.")
    large.kill()
    with pytest.raises(EndpointError, match="large model"):
        await _think(resources)


async def test_no_other_tier_steps_in_where_it_must_not(two: tuple[FakeOpenAI, FakeOpenAI]) -> None:
    small, large = two
    resources = _both(small, large)
    await _think(resources)
    small.kill()
    with pytest.raises(EndpointError, match="small model"):
        await _think(resources, fallback=False)
    assert large.chats == []


async def test_a_refusal_of_tools_is_not_a_lost_endpoint(two: tuple[FakeOpenAI, FakeOpenAI]) -> None:
    small, large = two
    small.faults = Faults(rejects=frozenset({"tools"}))
    with pytest.raises(RefusedRequestError, match="small model"):
        await _think(_both(small, large), native_tools="auto")
    assert large.chats == []


async def test_one_endpoint_serves_both_tiers(server: FakeOpenAI) -> None:
    resources = Resources(_settings(small=_endpoint(server)))
    assert (await _think(resources)).reply.text == "hello"
    called = await _caller(resources).call("large", [HumanMessage("q")], role="write", max_tokens=20)
    assert called.record["tier"] == "large"
    server.kill()
    before = len(server.requests)
    with pytest.raises(EndpointError, match="small model"):
        await _think(resources)
    assert len(server.requests) <= before + 2, (
        "a kept connection is tried anew once; the same place is not asked twice"
    )


def test_nothing_configured() -> None:
    with pytest.raises(ConfigurationError, match="AGENTINFER_SMALL__BASE_URL"):
        Models(_settings())


async def test_hints_of_a_caller(server: FakeOpenAI) -> None:
    resources = Resources(_settings(small=_endpoint(server)))
    await _think(resources, tool_seconds=2.0)
    await _caller(resources).call("small", [HumanMessage("q")], role="qa", max_tokens=20)
    think, qa = (parse_hints(chat.body["vllm_xargs"]).hints for chat in server.chats)
    assert think == SessionHints(
        session_id=session_name("r", "seeker-1"),
        turn=2,
        role="think",
        tool_seconds=2.0,
        output_tokens=20,
        tenant="acme",
    )
    assert qa.final
    assert not think.final


async def test_reprefill_is_what_the_other_model_had_not_cached(two: tuple[FakeOpenAI, FakeOpenAI]) -> None:
    resources = _both(*two)
    first = (await _think(resources)).record
    long = [HumanMessage("q " + "word " * 50)]
    same = await _caller(resources).call("small", long, role="think", max_tokens=20, previous=first)
    assert same.record["reprefill_tokens"] == 0
    longer = [HumanMessage("q " + "word " * 60)]
    switch = await _caller(resources).call("large", longer, role="think", max_tokens=20, previous=same.record)
    known = same.record["prompt_tokens"] + same.record["output_tokens"]
    assert switch.record["reprefill_tokens"] == known
    again = await _caller(resources).call("large", longer, role="think", max_tokens=20, previous=same.record)
    assert again.record["reprefill_tokens"] < 5, "now the large server has it cached"


# A chat model that the caller brings


class _OwnModel(GenericFakeChatModel):
    """Records what it is given."""

    seen: list[Any] = []  # noqa: RUF012  # a pydantic field: copied for each instance

    def _generate(self, messages: Sequence[BaseMessage], *args: Any, **options: Any) -> ChatResult:  # type: ignore[override]
        self.seen.append((list(messages), options))
        return super()._generate(list(messages), *args, **options)


async def test_a_model_of_the_caller_gets_no_hints_and_needs_no_endpoint() -> None:
    own = _OwnModel(messages=iter([AIMessage("mine"), AIMessage("mine too")]))
    resources = Resources(_settings(), small=own)
    called = await _think(resources)
    assert called.reply.text == "mine"
    assert called.record["prompt_tokens"] > 0, "estimated, as the model does not count"
    assert called.record["model"] == "_OwnModel"
    called = await _caller(resources).call("large", [HumanMessage("q")], role="write", max_tokens=20)
    assert called.reply.text == "mine too", "one model serves both tiers"
    for _, options in own.seen:
        assert not {"extra_body", "vllm_xargs", "temperature"} & set(options)


class _Broken(_OwnModel):
    def _generate(self, *args: Any, **options: Any) -> ChatResult:
        msg = "the model is on fire"
        raise RuntimeError(msg)


async def test_a_broken_model_of_the_caller_is_replaced_by_the_other() -> None:
    good = _OwnModel(messages=iter([AIMessage("saved")]))
    resources = Resources(_settings(), small=_Broken(messages=iter([])), large=good)
    called = await _think(resources)
    assert called.reply.text == "saved"
    assert "on fire" in called.warning
    alone = Resources(_settings(), small=_Broken(messages=iter([])))
    with pytest.raises(EndpointError, match="_Broken"):
        await _think(alone)


async def test_a_model_of_the_caller_beside_an_endpoint(server: FakeOpenAI) -> None:
    resources = Resources(
        _settings(small=_endpoint(server)), large=_OwnModel(messages=iter([AIMessage("own large")]))
    )
    assert (await _think(resources)).reply.text == "hello"
    called = await _caller(resources).call("large", [HumanMessage("q")], role="write", max_tokens=20)
    assert called.reply.text == "own large"


async def test_one_probe_for_many_first_calls(server: FakeOpenAI) -> None:
    tier = _tier(server)
    await asyncio.gather(*(_call(tier, f"q{n}") for n in range(4)))
    assert [request.path for request in server.requests].count("/v1/models") == 1


def test_a_tier_works_in_several_event_loops(server: FakeOpenAI) -> None:
    tier = _tier(server)
    for _ in range(2):
        assert asyncio.run(_call(tier)).text == "hello"
    assert threading.active_count() < 50


async def test_fields_of_the_owner_win_and_those_of_a_role_over_them(server: FakeOpenAI) -> None:
    own = {"temperature": 0.7, "top_k": 5}
    tier = _tier(server, extra_body=own, role_body={"progress": {"top_k": 1}})
    await _call(tier)
    await _call(tier, hints=SessionHints(session_id="abc", role="qa"))
    progress, qa = (chat.body for chat in server.chats)
    assert (progress["temperature"], progress["top_k"]) == (0.7, 1)
    assert (qa["temperature"], qa["top_k"]) == (0.7, 5)


def test_a_role_that_does_not_exist_is_told() -> None:
    with pytest.raises(ValidationError, match="progress"):
        EndpointSettings(role_body={"checking": {}})  # type: ignore[dict-item]


async def test_a_server_that_was_started_anew_is_met_as_for_the_first_time() -> None:
    with FakeOpenAI(
        lambda request, index: "ok", faults=Faults(rejects=frozenset({"response_format"}))
    ) as old:
        tier, port = _tier(old), old.port
        await _call(tier, guide=Guide(schema=SCHEMA))
        assert "guide" in tier.known.lessons
    with pytest.raises(EndpointError, match="cannot be reached"):
        await _call(tier)
    with FakeOpenAI(lambda request, index: "ok", port=port) as new:
        await _call(tier, guide=Guide(schema=SCHEMA))
        assert "response_format" in new.chats[-1].body, "what the old one refused, the new one may take"


async def test_another_model_in_its_place_is_found() -> None:
    with FakeOpenAI(lambda request, index: "ok", models=("first",)) as server:
        tier = ChatTier("small", EndpointSettings(base_url=server.url, max_retries=0))
        assert (await _call(tier)).model == "first"
        server.models = ("second",)
        with pytest.raises(EndpointError, match="does not serve this model"):
            await _call(tier)
        assert (await _call(tier)).model == "second"
