"""The middlewares in agents of `create_agent`, against a scripted endpoint."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("langchain", reason="needs the extra `middleware`")

from langchain.agents import create_agent
from langchain.agents.middleware.types import AgentMiddleware, ModelRequest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.base import GetOp, Item
from langgraph.store.memory import InMemoryStore
from pydantic import SecretStr
from support.fake_openai import FakeOpenAI, Recorded, Reply, content_text, render_prompt
from support.waiting import wait_until

from agentinfer_lg import ConfigurationError, Context
from agentinfer_lg.llm.affinity import session_rank
from agentinfer_lg.middleware import DistillationMiddleware, EscalationMiddleware
from agentinfer_lg.middleware.background import BACKGROUND

Mode = Literal["sync", "async"]
MODES: tuple[Mode, ...] = ("sync", "async")
ROOT = Path(__file__).parents[2]
QUESTION = "Which keeper lit Heron Point Light, and when?"
TRUE = "===PROGRESS===\n<reason>the step brings news on it</reason> <value>TRUE</value>\n===END_PROGRESS==="
FALSE = TRUE.replace("TRUE", "FALSE")
THREAD: RunnableConfig = {"configurable": {"thread_id": "thread-1"}}


def look_up(topic: str) -> str:
    """Look a topic up."""
    return page(topic)


def page(topic: str) -> str:
    """A long page with facts of its own."""
    number = int(re.sub(r"\D", "", topic) or 0)
    lines = [
        f"Register entry {number}-{line}: the keeper Ada Winter{number} lit Heron Point Light lamp {line} "
        f"in {1800 + number * 7 + line}."
        for line in range(14)
    ]
    return f"[7] Topic {topic}\n" + "\n".join(lines)


def kind(body: dict[str, Any]) -> str:
    """What a request is for, told from its text: nothing depends on hints."""
    last = content_text(body["messages"][-1])
    if "===PROGRESS===" in last:
        return "check"
    if last.startswith("Results:\n"):
        return "distill"
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return "prewarm" if limit == 1 else "think"


class Agent:
    """A script: looks `rounds` topics up, then answers."""

    def __init__(self, rounds: int = 4, **replies: Callable[[dict[str, Any], int], Reply | str]) -> None:
        self.rounds = rounds
        self.replies = replies
        self.counts: dict[str, int] = {}

    def __call__(self, body: dict[str, Any], index: int) -> Reply | str:
        what = kind(body)
        count = self.counts[what] = self.counts.get(what, 0) + 1
        if what in self.replies:
            return self.replies[what](body, count)
        if what == "check":
            return TRUE
        if what == "distill":
            return distillate(body)
        if what == "prewarm":
            return "x"
        steps = sum(m["role"] == "assistant" for m in body["messages"])
        if steps >= self.rounds:
            return f"Ada Winter, says {body['model']}."
        return Reply(
            text=f"Step {steps} asks for another page.", tool_calls=(("look_up", {"topic": f"t{steps}"}),)
        )


def distillate(body: dict[str, Any]) -> str:
    """Notes that repeat the first sentence of each result."""
    text = content_text(body["messages"][-1])
    found = re.findall(r"(?m)^\[(\d+)\] look_up.*\n?Register entry|^\[(\d+)\] look_up", text)
    numbers = [first or second for first, second in found]
    entries = re.findall(r"Register entry (\d+)-0: (.*)", text)
    return "".join(f"[{number}] {entry[1]}\n" for number, entry in zip(numbers, entries, strict=False))


def model(server: FakeOpenAI, name: str = "fake-small", **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=name,
        base_url=server.url,
        api_key=SecretStr("none"),
        max_retries=0,
        default_headers={"Connection": "close"},
        **options,
    )


def run(agent: Any, value: Any, mode: Mode, config: RunnableConfig | None = None) -> dict[str, Any]:
    if mode == "sync":
        result: dict[str, Any] = agent.invoke(value, config)
        return result
    return asyncio.run(agent.ainvoke(value, config))


def streamed(
    agent: Any, value: Any, mode: Mode, config: RunnableConfig | None = None
) -> list[dict[str, Any]]:
    """Run, and return the events of the middlewares."""
    if mode == "sync":
        return list(agent.stream(value, config, stream_mode="custom"))

    async def events() -> list[dict[str, Any]]:
        return [event async for event in agent.astream(value, config, stream_mode="custom")]

    return asyncio.run(events())


class Alternating(AgentMiddleware):
    """Has another model make some of the calls, by their numbers from 0."""

    def __init__(self, other: ChatOpenAI, turns: set[int]) -> None:
        super().__init__()
        self.other, self.turns = other, turns

    def _seen(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        turn = sum(isinstance(message, AIMessage) for message in request.state["messages"])
        return request.override(model=self.other) if turn in self.turns else request

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(self._seen(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(self._seen(request))


def ask(text: str = QUESTION) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def calls(server: FakeOpenAI, what: str) -> list[Recorded]:
    return [request for request in server.chats if kind(request.body) == what]


def models(server: FakeOpenAI, what: str = "think") -> list[str]:
    return [request.model.removeprefix("fake-") for request in calls(server, what)]


def extends(left: Recorded, right: Recorded) -> bool:
    """Whether the prompt of `right` begins with that of `left`."""
    return render_prompt(right.body).startswith(render_prompt(left.body))


@pytest.fixture(autouse=True)
def _no_background() -> Iterator[None]:
    yield
    BACKGROUND.close()


def escalating(server: FakeOpenAI, **options: Any) -> EscalationMiddleware:
    settings: dict[str, Any] = {"warmup_steps": 0, "verifier": False, "hints": "off"}
    return EscalationMiddleware(large=model(server, "fake-large"), **{**settings, **options})


def test_the_signature_names_every_knob_with_its_default() -> None:
    shown = inspect.signature(EscalationMiddleware).parameters
    assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in shown.values())
    defaults = {name: one.default for name, one in shown.items() if name in Context.model_fields}
    assert len(defaults) == 14
    assert defaults == {name: getattr(Context(), name) for name in defaults}


def test_distillation_has_the_defaults_of_the_knobs_with_the_same_names() -> None:
    shown = inspect.signature(DistillationMiddleware).parameters
    same = set(shown) & set(Context.model_fields) - {"max_turns"}  # here the agent may have no limit
    assert len(same) == 9
    assert {name: shown[name].default for name in same} == {name: getattr(Context(), name) for name in same}


@pytest.mark.parametrize("wrong", [{"cool_down": 1}, {"agent": "planner"}])
def test_a_keyword_that_is_no_knob_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(wrong))):
        EscalationMiddleware(large=ChatOpenAI(model="m", api_key=SecretStr("none")), **wrong)


@pytest.mark.parametrize("mode", MODES)
def test_escalates_when_a_check_fails_and_returns(mode: Mode) -> None:
    verdicts = iter([TRUE, FALSE, TRUE, TRUE])
    with FakeOpenAI(Agent(4, check=lambda body, count: next(verdicts))) as server:
        agent = create_agent(model(server), [look_up], middleware=[escalating(server)])
        result = run(agent, ask(), mode)
    assert models(server) == ["small", "small", "large", "small", "small"]
    assert models(server, "check") == ["small", "small", "large", "small"]
    texts = [str(message.content) for message in result["messages"]]
    assert not any("PROGRESS" in text for text in texts)
    assert [type(m) for m in result["messages"]] == [HumanMessage] + [AIMessage, ToolMessage] * 4 + [
        AIMessage
    ]
    assert "agentinfer_escalation" not in result
    assert "agentinfer_session" not in result


@pytest.mark.parametrize("mode", MODES)
def test_a_check_extends_the_prompt_of_its_step(mode: Mode) -> None:
    with FakeOpenAI(Agent(2)) as server:
        run(create_agent(model(server), [look_up], middleware=[escalating(server)]), ask(), mode)
    for check, step in zip(calls(server, "check"), calls(server, "think")[1:], strict=True):
        assert extends(step, check)  # the very prompt of the next step, and a question after it
        assert check.body["tools"] == step.body["tools"]
        assert check.body["tool_choice"] == "none"
        assert check.body["max_tokens"] == 96
        assert "regex" in check.body["structured_outputs"]


def test_warms_up_on_the_large_model_and_begins_anew_in_the_next_run() -> None:
    with FakeOpenAI(Agent(2)) as server:
        agent = create_agent(
            model(server),
            [look_up],
            middleware=[escalating(server, warmup_steps=2)],
            checkpointer=InMemorySaver(),
        )
        run(agent, ask(), "sync", THREAD)
        assert models(server) == ["large", "large", "small"]
        run(agent, ask("And who came after?"), "sync", THREAD)
        assert models(server)[3:] == ["large"]


@pytest.mark.parametrize("mode", MODES)
def test_the_budget_of_a_rescue_ends_it(mode: Mode) -> None:
    with FakeOpenAI(Agent(6, check=lambda body, count: FALSE)) as server:
        agent = create_agent(
            model(server),
            [look_up],
            middleware=[escalating(server, budget="static", static_budget=2, cooldown=1)],
        )
        run(agent, ask(), mode)
    assert models(server) == ["small", "large", "large", "small", "small", "large", "large"]


def test_the_cap_on_large_steps_holds() -> None:
    with FakeOpenAI(Agent(6, check=lambda body, count: FALSE)) as server:
        middleware = escalating(server, max_large_steps=1, cooldown=0)
        run(create_agent(model(server), [look_up], middleware=[middleware]), ask(), "sync")
    assert models(server) == ["small", "large", "small", "small", "small", "small", "small"]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "maybe so",
        "TRUE or FALSE?",
        "<value></value>",
        Reply(status=500, text="no"),
        Reply(raw="{}"),
        Reply(tool_calls=(("look_up", {"topic": "t9"}),)),
    ],
    ids=["empty", "neither", "both", "no-value", "error", "malformed", "tool-call"],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_check_that_cannot_be_read_changes_nothing(mode: Mode, answer: Reply | str) -> None:
    with FakeOpenAI(Agent(3, check=lambda body, count: answer)) as server:
        agent = create_agent(model(server), [look_up], middleware=[escalating(server)])
        result = run(agent, ask(), mode)
    assert models(server) == ["small"] * 4
    assert len(result["messages"]) == 8
    assert all("t9" not in str(message) for message in result["messages"])


def test_the_verifier_sees_a_repeated_action_without_asking() -> None:
    def think(body: dict[str, Any], count: int) -> Reply | str:
        return Reply(tool_calls=(("look_up", {"topic": "t1"}),)) if count < 5 else "Ada Winter."

    with FakeOpenAI(Agent(think=think)) as server:
        middleware = escalating(server, verifier=True)
        run(create_agent(model(server), [look_up], middleware=[middleware]), ask(), "sync")
    assert models(server)[:3] == ["small", "small", "small"]
    assert models(server)[3] == "large"


def test_a_fixed_policy_asks_nothing() -> None:
    with FakeOpenAI(Agent(2)) as server:
        middleware = escalating(server, policy="always-large")
        run(create_agent(model(server), [look_up], middleware=[middleware]), ask(), "sync")
    assert models(server) == ["large"] * 3
    assert not calls(server, "check")


@pytest.mark.parametrize("mode", MODES)
def test_the_small_model_goes_on_when_the_large_one_fails(mode: Mode) -> None:
    def think(body: dict[str, Any], count: int) -> Reply | str:
        return Reply(status=503, text="busy") if body["model"] == "fake-large" else Agent(2)(body, count)

    with FakeOpenAI(Agent(think=think)) as server:
        middleware = escalating(server, policy="always-large")
        result = run(create_agent(model(server), [look_up], middleware=[middleware]), ask(), mode)
    assert "fake-small" in result["messages"][-1].content


def test_the_small_models_failure_is_the_agents() -> None:
    import openai

    with FakeOpenAI(Agent(think=lambda body, count: Reply(status=400, text="no"))) as server:
        agent = create_agent(model(server), [look_up], middleware=[escalating(server)])
        with pytest.raises(openai.BadRequestError):
            run(agent, ask(), "sync")


@pytest.mark.parametrize("mode", MODES)
def test_the_tier_survives_a_crash(mode: Mode) -> None:
    """A tool fails in the middle of a rescue; the resumed run goes on with it."""
    broken = [True]

    def fragile(topic: str) -> str:
        """Look a topic up."""
        if topic == "t1" and broken[0]:
            raise RuntimeError("power cut")
        return page(topic)

    fragile.__name__ = "look_up"
    verdicts = iter([FALSE, FALSE, TRUE])
    with FakeOpenAI(Agent(3, check=lambda body, count: next(verdicts))) as server:
        agent = create_agent(
            model(server), [fragile], middleware=[escalating(server)], checkpointer=InMemorySaver()
        )
        with pytest.raises(RuntimeError, match="power cut"):
            run(agent, ask(), mode, THREAD)
        assert models(server) == ["small", "large"]
        broken[0] = False
        result = run(agent, None, mode, THREAD)
    assert models(server) == ["small", "large", "large", "small"]
    assert len(result["messages"]) == 8


def test_checks_and_notes_are_not_streamed() -> None:
    def distill(body: dict[str, Any], count: int) -> str:
        return distillate(body) + "open: SECRETDISTILLER leads nowhere else\n"

    with FakeOpenAI(Agent(5, check=lambda b, c: TRUE + "SECRETCHECK", distill=distill)) as server:
        agent = create_agent(
            model(server),
            [look_up],
            middleware=[escalating(server), distilling(server, compression="barrier")],
        )

        async def stream() -> tuple[str, list[dict[str, Any]]]:
            text, events = "", []
            async for form, chunk in agent.astream(ask(), stream_mode=["messages", "custom"]):
                if form == "messages":
                    text += str(chunk[0].content)
                else:
                    events.append(chunk)
            return text, events

        text, events = asyncio.run(stream())
        sync_text = "".join(str(c[0].content) for c in agent.stream(ask(), stream_mode="messages"))
    assert calls(server, "distill")
    assert calls(server, "check")
    for streamed in (text, sync_text):
        assert "Step 2 asks" in streamed
        assert "SECRET" not in streamed
        assert "PROGRESS" not in streamed
    assert {"progress", "distill_start", "distill_end", "swap"} <= {event["event"] for event in events}


def distilling(server: FakeOpenAI, **options: Any) -> DistillationMiddleware:
    settings: dict[str, Any] = {"compress_after_tokens": 900, "keep_rounds": 1, "hints": "off"}
    return DistillationMiddleware(distiller=model(server), **{**settings, **options})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prewarm", [True, False])
def test_old_results_are_swapped_for_notes(mode: Mode, prewarm: bool) -> None:
    with FakeOpenAI(Agent(6)) as server:
        middleware = distilling(server, compression="barrier", prewarm=prewarm)
        agent = create_agent(model(server), [look_up], middleware=[middleware])
        result = run(agent, ask(), mode)
    steps = calls(server, "think")
    final = render_prompt(steps[-1].body)
    assert "Notes on results" in final
    assert "[1] (in the notes below)" in final
    assert "Ada Winter0 lit Heron Point Light lamp 0 in 1800" in final
    assert "Register entry 0-9" not in final
    results = [message for message in result["messages"] if isinstance(message, ToolMessage)]
    assert [message.content for message in results] == [
        page(f"t{n}") for n in range(6)
    ]  # the state keeps all
    assert bool(calls(server, "prewarm")) is prewarm
    swaps = [not extends(left, right) for left, right in pairwise(steps)]
    assert 1 <= sum(swaps) <= 3
    assert len(final) < 0.75 * sum(len(result.content) for result in results)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_prefilled_is_the_prompt_after_the_swap(mode: Mode) -> None:
    with FakeOpenAI(Agent(4)) as server:
        agent = create_agent(model(server), [look_up], middleware=[distilling(server, compression="barrier")])
        run(agent, ask(), mode)
    warmed = calls(server, "prewarm")
    assert warmed
    for request in warmed:
        assert any(extends(request, step) for step in calls(server, "think"))
        assert request.body["max_tokens"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_nothing_waits_for_a_slow_distiller(mode: Mode) -> None:
    with FakeOpenAI(Agent(6, distill=lambda body, count: Reply(hold="distiller"))) as server:
        middleware = distilling(server)
        agent = create_agent(model(server), [look_up], middleware=[middleware], checkpointer=InMemorySaver())

        async def twice() -> None:
            await agent.ainvoke(ask(), THREAD)
            await asyncio.to_thread(server.wait_for, lambda: bool(calls(server, "distill")))
            assert len(calls(server, "think")) == 7
            assert all(extends(left, right) for left, right in pairwise(calls(server, "think")))

        if mode == "async":
            asyncio.run(twice())
        else:
            agent.invoke(ask(), THREAD)
            server.wait_for(lambda: bool(calls(server, "distill")))
            assert len(calls(server, "think")) == 7


@pytest.mark.parametrize("mode", MODES)
def test_notes_arrive_while_the_agent_goes_on(mode: Mode) -> None:
    """The distiller answers while a tool runs; the compaction comes at a later model call."""
    with FakeOpenAI() as server:
        middleware = distilling(server)

        def idle() -> bool:
            return all(task.done() for task in list(middleware._shared.background._tasks.values()))

        def wait_in_tool(topic: str) -> str:
            """Look a topic up."""
            if int(topic.removeprefix("t")) >= 4:  # by then the job has been started: let it come to its end
                server.wait_for(lambda: bool(calls(server, "prewarm")))
                wait_until(idle)
            return page(topic)

        wait_in_tool.__name__ = "look_up"
        server._script = Agent(9)
        agent = create_agent(model(server), [wait_in_tool], middleware=[middleware])
        run(agent, ask(), mode)
        final = render_prompt(calls(server, "think")[-1].body)
    assert "Notes on results [1]" in final


@pytest.mark.parametrize(
    ("distill", "seconds"),
    [
        (Reply(hold="never"), 0.5),
        (Reply(text="Lorem ipsum, [99] dolor\n[1] The moon is made of 4711 cheeses by Bob Zed."), 60.0),
        (Reply(status=500, text="broken"), 60.0),
        (Reply(text=""), 60.0),
        (Reply(raw="no json"), 60.0),
        (Reply(reset=True), 60.0),
    ],
    ids=["hang", "nonsense", "error", "empty", "malformed", "reset"],
)
@pytest.mark.parametrize("mode", MODES)
def test_sentences_stand_in_for_a_distiller_that_fails(mode: Mode, distill: Reply, seconds: float) -> None:
    with FakeOpenAI(Agent(5, distill=lambda body, count: distill)) as server:
        middleware = distilling(server, compression="barrier", distill_seconds=seconds)
        result = run(create_agent(model(server), [look_up], middleware=[middleware]), ask(), mode)
    final = render_prompt(calls(server, "think")[-1].body)
    notes = final[final.index("Notes on results") :]
    assert re.search(r"\[1\] Register entry 0-\d+: the keeper Ada Winter0 lit", notes)
    assert "4711" not in final
    assert result["messages"][-1].content == "Ada Winter, says fake-small."


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("whole", [True, False])
def test_recall_gives_back_the_original(mode: Mode, whole: bool) -> None:
    def think(body: dict[str, Any], count: int) -> Reply | str:
        text = render_prompt(body)
        if "Notes on results" in text and "recall-" not in text:
            calls_ = (("recall", {"ticket": 2, "query": "Register entry 1-9"}), ("recall", {"ticket": 77}))
            return Reply(text="recall- now", tool_calls=calls_)
        return Agent(8)(body, count)

    with FakeOpenAI(Agent(think=think)) as server:
        options = {} if whole else {"max_observation_tokens": 120}
        middleware = distilling(server, compression="barrier", **options)
        result = run(create_agent(model(server), [look_up], middleware=[middleware]), ask(), mode)
    answers = [m for m in result["messages"] if isinstance(m, ToolMessage) and m.name == "recall"]
    if whole:
        assert answers[0].content == page("t1")
    else:
        assert "Register entry 1-9" in answers[0].content
        assert set(answers[0].content.splitlines()) < set(page("t1").splitlines())
    assert answers[1].content == "There is no distilled result [77]."
    numbered = render_prompt(calls(server, "think")[-1].body)
    assert "[4] (in the notes below)" in numbered
    assert "look_up t1" in numbered
    assert "recall 77" not in numbered


@pytest.mark.parametrize("mode", MODES)
def test_a_message_that_needs_a_distilled_result_brings_it_back(mode: Mode) -> None:
    wanted = "What does register entry 1-9 say, which lamp was it?"
    script = Agent(6)
    with FakeOpenAI(script) as server:
        middleware = distilling(server, compression="barrier")
        saver = InMemorySaver()
        agent = create_agent(model(server), [look_up], middleware=[middleware], checkpointer=saver)
        run(agent, ask(), mode, THREAD)
        assert "recall-" not in calls(server, "think")[-1].text
        result = run(agent, ask(wanted), mode, THREAD)
        run(agent, ask("Thank you, and that is all for this time."), mode, THREAD)
        *_, before, asked, later = calls(server, "think")
        script.rounds = 16
        run(agent, ask("Go on with the other topics."), mode, THREAD)
        last = calls(server, "think")[-1]
    step, shown = asked.body["messages"][-2:]
    (call,) = step["tool_calls"]
    assert (call["function"]["name"], shown["role"], shown["tool_call_id"]) == ("recall", "tool", call["id"])
    assert "Register entry 1-9: the keeper Ada Winter1 lit Heron Point Light lamp 9 in 1816" in str(
        shown["content"]
    )
    assert "Register entry 1-9" not in before.text
    assert extends(asked, later), "what was shown stays"
    assert later.body["messages"][-1]["role"] == "user", "nothing is to be recalled for thanks"
    assert "Register entry 1-9" not in last.text, "it goes with the next swap"
    assert not any(getattr(message, "name", "") == "recall" for message in result["messages"]), (
        "only the view has it"
    )


@pytest.mark.parametrize("options", [{"auto_recall": False}, {"recall": False}])
def test_no_message_brings_a_result_back_if_it_must_not(options: dict[str, Any]) -> None:
    with FakeOpenAI(Agent(6)) as server:
        middleware = distilling(server, compression="barrier", **options)
        saver = InMemorySaver()
        agent = create_agent(model(server), [look_up], middleware=[middleware], checkpointer=saver)
        run(agent, ask(), "sync", THREAD)
        run(agent, ask("What does register entry 1-9 say, which lamp was it?"), "sync", THREAD)
        assert calls(server, "think")[-1].body["messages"][-1]["role"] == "user"


def test_a_result_with_an_image_is_recalled_whole() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}

    def photograph(topic: str) -> list[Any]:
        """Look a topic up."""
        return [{"type": "text", "text": page(topic)}, image]

    photograph.__name__ = "look_up"

    def think(body: dict[str, Any], count: int) -> Reply | str:
        text = render_prompt(body)
        if "Notes on results" in text and "recall-" not in text:
            return Reply(text="recall- now", tool_calls=(("recall", {"ticket": 1}),))
        return Agent(5)(body, count)

    with FakeOpenAI(Agent(think=think)) as server:
        middleware = distilling(server, compression="barrier")
        result = run(create_agent(model(server), [photograph], middleware=[middleware]), ask(), "async")
    results = [message for message in result["messages"] if isinstance(message, ToolMessage)]
    recalled = next(message for message in results if message.name == "recall")
    assert recalled.content == results[0].content
    assert image in recalled.content
    assert "Ada Winter0 lit" in calls(server, "think")[-1].text


def test_there_is_no_tool_without_recall() -> None:
    with FakeOpenAI(Agent(5)) as server:
        middleware = distilling(server, recall=False, compression="barrier")
        run(create_agent(model(server), [look_up], middleware=[middleware]), ask(), "sync")
    step = calls(server, "think")[-1]
    assert [tool["function"]["name"] for tool in step.body["tools"]] == ["look_up"]
    assert "Notes on results" in step.text
    assert "recall" not in step.text


@pytest.mark.parametrize("mode", MODES)
def test_parallel_calls_stay_paired(mode: Mode) -> None:
    def think(body: dict[str, Any], count: int) -> Reply | str:
        steps = sum(m["role"] == "assistant" for m in body["messages"])
        if steps >= 4:
            return "Ada Winter."
        return Reply(tool_calls=tuple(("look_up", {"topic": f"t{2 * steps + n}"}) for n in range(2)))

    with FakeOpenAI(Agent(think=think)) as server:
        middleware = distilling(server, compression="barrier")
        run(create_agent(model(server), [look_up], middleware=[escalating(server), middleware]), ask(), mode)
    for request in server.chats:
        open_: list[str] = []
        for message in request.body["messages"]:
            if message["role"] == "tool":
                open_.remove(message["tool_call_id"])
            else:
                assert not open_
            open_ += [call["id"] for call in message.get("tool_calls") or ()]
        assert not open_
    final = render_prompt(calls(server, "think")[-1].body)
    assert "[1] (in the notes below)" in final
    assert "Ada Winter1 lit" in final


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given", [True, False], ids=["store", "spare"])
def test_a_resumed_run_keeps_its_notes(mode: Mode, given: bool) -> None:
    broken = [True]

    def fragile(topic: str) -> str:
        """Look a topic up."""
        if topic == "t5" and broken[0]:
            raise RuntimeError("power cut")
        return page(topic)

    fragile.__name__ = "look_up"
    saver, store = InMemorySaver(), InMemoryStore() if given else None
    with FakeOpenAI(Agent(7)) as server:

        def make() -> Any:
            middleware = distilling(server, compression="barrier")
            return create_agent(
                model(server), [fragile], middleware=[middleware], checkpointer=saver, store=store
            )

        with pytest.raises(RuntimeError, match="power cut"):
            run(make(), ask(), mode, THREAD)
        before = calls(server, "think")[-1]
        assert "Notes on results" in before.text
        broken[0] = False
        result = run(make(), None, mode, THREAD)  # as a new process would
    assert extends(before, calls(server, "think")[len(calls(server, "think")) - 2]) or "Notes" in before.text
    assert len(result["messages"]) == 16
    assert sum(isinstance(m, ToolMessage) for m in result["messages"]) == 7
    if store is not None:
        spaces = store.list_namespaces()
        assert all(space[:2] == ("agentinfer", "notes") for space in spaces)
        assert len(spaces) == 1


def test_little_is_left_of_a_session() -> None:
    with FakeOpenAI(Agent(9)) as server:
        middleware = distilling(server, compression="barrier")
        agent = create_agent(model(server), [look_up], middleware=[middleware])
        for _ in range(3):
            run(agent, ask(), "async")
    assert len(calls(server, "distill")) >= 6
    kept = [
        item
        for space in middleware._shared.spare.list_namespaces()
        for item in middleware._shared.spare.search(space)
    ]
    assert len(kept) <= 3
    assert len(middleware._shared.background._tasks) <= 6


def test_sessions_share_nothing() -> None:
    store = InMemoryStore()
    with FakeOpenAI(Agent(5)) as server:
        middleware = distilling(server, compression="barrier")
        agent = create_agent(
            model(server), [look_up], middleware=[middleware], store=store, checkpointer=InMemorySaver()
        )
        for thread in ("one", "two"):
            run(agent, ask(), "sync", {"configurable": {"thread_id": thread}})
    assert len(set(store.list_namespaces())) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_store_that_forgets_costs_no_notes(mode: Mode) -> None:
    class Forgetful(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            return [None for _ in ops]

        async def abatch(self, ops: Any) -> Any:
            return [None for _ in ops]

    with FakeOpenAI(Agent(5)) as server:
        middleware = distilling(server, compression="barrier")
        agent = create_agent(model(server), [look_up], middleware=[middleware], store=Forgetful())
        events = streamed(agent, ask(), mode)
    assert "Notes on results" in calls(server, "think")[-1].text
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert "does not keep notes" in warnings[0]


@pytest.mark.parametrize("mode", MODES)
def test_something_else_in_the_store_is_told_and_made_again(mode: Mode) -> None:
    class Corrupt(InMemoryStore):
        """Somebody else has written first, and what is written later is not kept."""

        def batch(self, ops: Any) -> Any:
            now = datetime.now(UTC)
            item = Item(value={"a": 1}, key="k", namespace=("n",), created_at=now, updated_at=now)
            return [item if isinstance(op, GetOp) else None for op in ops]

        async def abatch(self, ops: Any) -> Any:
            return self.batch(ops)

    with FakeOpenAI(Agent(5)) as server:
        middleware = distilling(server, compression="barrier")
        agent = create_agent(model(server), [look_up], middleware=[middleware], store=Corrupt())
        events = streamed(agent, ask(), mode)
    assert "Notes on results" in calls(server, "think")[-1].text
    assert any("has something else" in event.get("text", "") for event in events)


@pytest.mark.parametrize("mode", MODES)
def test_notes_that_would_not_pay_are_thought_of_again(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes are longer than expected, and too few calls are left; the next run has more of them."""
    monkeypatch.setattr("agentinfer_lg.compression.cycle._NOTES_SHARE", -1.0)
    script, saver = Agent(4), InMemorySaver()
    with FakeOpenAI(script) as server:

        def events(**options: Any) -> list[tuple[int, bool]]:
            middleware = distilling(server, compression="barrier", **options)
            agent = create_agent(model(server), [look_up], middleware=[middleware], checkpointer=saver)
            told = streamed(agent, ask(), mode, THREAD)
            return [(event["turn"], event["ok"]) for event in told if event["event"] == "swap"]

        assert events(max_turns=4) == [(2, False)], "and for four turns no more"
        script.rounds = 9
        assert events()[0] == (6, True)


@pytest.mark.parametrize("mode", MODES)
def test_each_model_is_told_once_that_its_context_is_dead(mode: Mode) -> None:
    """The small model comes back from a rescue in which the notes took effect."""
    with FakeOpenAI(Agent(9)) as server:
        middleware = distilling(server, compression="barrier", hints="on", prewarm=False)
        agent = create_agent(
            model(server), [look_up], middleware=[Alternating(model(server, "fake-large"), {3}), middleware]
        )
        events = streamed(agent, ask(), mode)
    told = [(step.model, step.body["vllm_xargs"]["agent_supersedes"]) for step in calls(server, "think")]
    assert [event["turn"] for event in events if event["event"] == "swap"][:2] == [3, 5]
    assert told[3:7] == [("fake-large", 1), ("fake-small", 1), ("fake-small", 1), ("fake-small", 0)]


@pytest.mark.parametrize("mode", MODES)
def test_a_question_in_another_language_leaves_the_context_as_it_is(mode: Mode) -> None:
    saver = InMemorySaver()
    with FakeOpenAI(Agent(5)) as server:
        for question, after in ((QUESTION, 900), ("多谢你，今天就到这里吧。", 100_000)):
            middleware = distilling(server, compression="barrier", compress_after_tokens=after)
            agent = create_agent(model(server), [look_up], middleware=[middleware], checkpointer=saver)
            run(agent, ask(question), mode, THREAD)
        *_, before, after_it = calls(server, "think")
    assert "[1] (in the notes below)" in before.text
    assert extends(before, after_it)


def test_a_store_that_fails_ends_no_run() -> None:
    class Broken(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            raise OSError("disk full")

        async def abatch(self, ops: Any) -> Any:
            raise OSError("disk full")

    with FakeOpenAI(Agent(5)) as server:
        middleware = distilling(server, compression="barrier")
        agent = create_agent(model(server), [look_up], middleware=[middleware], store=Broken())
        for mode in MODES:
            run(agent, ask(), mode)
    assert "Notes on results" in calls(server, "think")[-1].text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [1, -1])
def test_both_together_in_either_order(mode: Mode, order: int) -> None:
    verdicts = [TRUE, TRUE, FALSE, TRUE, TRUE, TRUE]
    with FakeOpenAI(Agent(6, check=lambda body, count: verdicts[count - 1])) as server:
        both = [escalating(server, hints="auto"), distilling(server, compression="barrier", hints="auto")]
        run(create_agent(model(server), [look_up], middleware=both[::order]), ask(), mode)
    assert models(server) == ["small", "small", "small", "large", "small", "small", "small"]
    steps = calls(server, "think")
    assert "Notes on results" in steps[-1].text
    for check, step in zip(calls(server, "check"), steps[1:], strict=True):
        assert check.role == "progress"
        assert extends(step, check) or not extends(
            steps[steps.index(step) - 1], step
        )  # or a swap lies between
    assert len({step.session for step in steps} - {""}) == 1
    assert [step.role for step in steps] == ["think"] * 7
    assert any(step.body["vllm_xargs"]["agent_supersedes"] for step in steps)
    assert {request.role for request in calls(server, "prewarm")} == {"prewarm"}
    assert {request.role for request in calls(server, "distill")} == {"distill"}


@pytest.mark.parametrize(
    ("owner", "hints", "sent"),
    [("vllm", "auto", True), ("someone", "auto", False), ("someone", "on", True), ("vllm", "off", False)],
)
def test_hints_go_to_vllm_or_where_they_are_switched_on(owner: str, hints: Any, sent: bool) -> None:
    with FakeOpenAI(Agent(2), owned_by=owner) as server:
        small = model(server, extra_body={"top_k": 5})
        both = [escalating(server, hints=hints), distilling(server, hints=hints)]
        run(create_agent(small, [look_up], middleware=both), ask(), "sync")
        for request in server.chats:
            assert ("vllm_xargs" in request.body) is sent
            assert request.body["top_k"] == 5  # what the model was made with stays


@pytest.mark.parametrize("mode", MODES)
def test_every_call_of_a_session_goes_to_its_data_parallel_rank(mode: Mode) -> None:
    with FakeOpenAI(Agent(6), ranks=8) as server:
        small = model(server, model_kwargs={"extra_headers": {"X-Kept": "1"}})
        both = [
            escalating(server, hints="auto"),
            distilling(server, compression="barrier", hints="auto"),
        ]
        run(create_agent(small, [look_up], middleware=both), ask(), mode)
        chats = list(server.chats)
    assert {chat.role for chat in chats} == {"think", "progress", "distill", "prewarm"}
    assert len({chat.session for chat in chats}) == 1
    for chat in chats:
        assert chat.headers["x-session-id"] == chat.session
        assert int(chat.headers["x-data-parallel-rank"]) == session_rank(chat.session, 8)
    assert {chat.headers.get("x-kept") for chat in chats if chat.role == "think"} == {"1"}


def test_options_out_of_range_are_refused() -> None:
    with FakeOpenAI() as server:
        with pytest.raises(ConfigurationError, match="budget_ceiling"):
            escalating(server, budget_ceiling=0)
        with pytest.raises(ConfigurationError, match="keep_rounds"):
            distilling(server, keep_rounds=-1)


def test_without_langchain_a_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['langchain'] = None\n"
        "import agentinfer_lg.middleware as m\n"
        "try: m.EscalationMiddleware\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (
        done.stdout.strip()
        == "EscalationMiddleware needs LangChain: pip install 'agentinfer-lg[middleware]'."
    )


def test_a_process_ends_while_a_distiller_hangs() -> None:
    """Nothing that hangs in the background keeps the process of an agent alive."""
    with FakeOpenAI(Agent(6, distill=lambda body, count: Reply(hold="never"))) as server:
        code = (
            "import sys; sys.path.insert(0, 'tests'); sys.path.insert(0, 'tests/middleware')\n"
            "from langchain.agents import create_agent\n"
            "from langchain_openai import ChatOpenAI\n"
            "from agentinfer_lg.middleware import DistillationMiddleware\n"
            "from test_middleware import look_up\n"
            f"m = ChatOpenAI(model='fake-small', base_url={server.url!r}, api_key='none')\n"
            "w = DistillationMiddleware(distiller=m, compress_after_tokens=900, keep_rounds=1)\n"
            "a = create_agent(m, [look_up], middleware=[w])\n"
            "print(a.invoke({'messages': [('user', 'who?')]})['messages'][-1].content)"
        )
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100, check=True
        )
        assert done.stdout.strip() == "Ada Winter, says fake-small."
        assert done.stderr == ""
        assert time.monotonic() - started < 90


def deep_agent(server: FakeOpenAI, **options: Any) -> Any:
    deepagents = pytest.importorskip("deepagents", reason="needs deepagents")
    return deepagents.create_deep_agent(model=model(server), tools=[look_up], **options)


@pytest.mark.parametrize("mode", MODES)
def test_a_deep_agent_escalates_and_distills(mode: Mode) -> None:
    verdicts = [TRUE, TRUE, FALSE, TRUE, TRUE, TRUE]
    with FakeOpenAI(Agent(6, check=lambda body, count: verdicts[count - 1])) as server:
        # Its own prompt and tools have some 5000 tokens.
        both = [escalating(server), distilling(server, compression="barrier", compress_after_tokens=5500)]
        result = run(deep_agent(server, middleware=both), ask(), mode)
    steps = calls(server, "think")
    assert models(server) == ["small", "small", "small", "large", "small", "small", "small"]
    assert "Notes on results" in steps[-1].text
    for request in calls(server, "prewarm"):
        assert any(extends(request, step) for step in steps)
    assert not [key for key in result if key.startswith("agentinfer")]
    results = [message.content for message in result["messages"] if isinstance(message, ToolMessage)]
    assert results == [page(f"t{n}") for n in range(6)]


@pytest.mark.parametrize("mode", MODES)
def test_summarization_of_deepagents_and_distillation_get_along(mode: Mode) -> None:
    pytest.importorskip("deepagents", reason="needs deepagents")
    from deepagents.backends import StateBackend
    from deepagents.middleware.summarization import SummarizationMiddleware

    def think(body: dict[str, Any], count: int) -> Reply | str:
        if not body.get("tools"):
            return "SUMMARY of what was done."
        return Agent(12)(body, count) if count < 24 else "Ada Winter."

    with FakeOpenAI(Agent(think=think)) as server:
        theirs = SummarizationMiddleware(
            model=model(server), backend=StateBackend(), trigger=("messages", 13), keep=("messages", 6)
        )
        ours = distilling(server, compression="barrier", compress_after_tokens=5500)
        result = run(deep_agent(server, middleware=[theirs, ours]), ask(), mode)
    texts = [request.text for request in server.chats]
    assert any("Notes on results" in text for text in texts)
    assert any("SUMMARY of what" in text for text in texts)
    assert result["messages"][-1].content.startswith("Ada Winter")


@pytest.mark.parametrize("example", ["middleware_agent", "middleware_deepagent"])
def test_the_examples_run(example: str) -> None:
    if example == "middleware_deepagent":
        pytest.importorskip("deepagents", reason="needs deepagents")
    names = [
        "lowfell-light.md",
        "kestrel-rock-light.md",
        "storm-of-1953.txt",
        "rain-harvest-project.md",
        "kestrel-rock-lens.md",
    ]

    def think(body: dict[str, Any], count: int) -> Reply | str:
        steps = sum(m["role"] == "assistant" for m in body["messages"])
        if steps == 0:
            return Reply(tool_calls=(("list_documents", {}),))
        return (
            Reply(tool_calls=(("read_document", {"name": names[steps - 1]}),))
            if steps < 6
            else "Lowfell Light."
        )

    with FakeOpenAI(Agent(think=think, distill=lambda body, count: "nothing")) as server:
        done = subprocess.run(
            [sys.executable, f"examples/{example}.py", "Which lighthouse was moved?", "--url", server.url],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=100,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Lowfell Light."
    assert "progress" in done.stdout
