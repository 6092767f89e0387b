"""Think: the active model says what is known and what is to be done next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langgraph.runtime import Runtime

from agentinfer_lg.collab.controller import CollabState
from agentinfer_lg.compression.view import latest_tokens
from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.calling import Called, Caller, recalls, seeker_caller
from agentinfer_lg.llm.chat import (
    ChatTier,
    ContextOverflowError,
    Guide,
    OutOfTimeError,
    RefusedRequestError,
    Reply,
)
from agentinfer_lg.llm.protocol import (
    Action,
    Choices,
    Step,
    action_regex,
    action_schema,
    parse_step,
    read_tool_call,
)
from agentinfer_lg.llm.transcript import step_message, write_transcript
from agentinfer_lg.nodes.seeker.budget import seconds_left
from agentinfer_lg.nodes.seeker.compaction import recallable_numbers, seeker_view, supersedes
from agentinfer_lg.nodes.seeker.handover import after_rescue
from agentinfer_lg.nodes.seeker.read_answer import answer_tier, has_unread
from agentinfer_lg.prompts import PROMPTS, Prompts
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import CallRecord, PendingCall, SeekerState


async def think(state: SeekerState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Make one Think step with the model of `state["tier"]`.

    Writes the step to the transcript and its tool calls to `pending`. A step that cannot be read becomes a search for
    the task, or an answer once there is something to answer from; a lost endpoint or a full context ends the seeker.
    """
    context = runtime.context or Context()
    tier, turn, agent = state["tier"], state.get("turn", 0), state["task"]["id"]
    model = resources.models.tier(tier)
    mode: Literal["native", "json"] = (
        "json" if state.get("modes", {}).get(tier) == "json" else model.tool_mode
    )
    caller = seeker_caller(state, context, resources)
    prompts = PROMPTS[state["language"]]
    if reads_first(state, context):
        return _read_step(f"{agent}-{turn}")
    try:
        called, mode = await _call(state, context, caller, model, mode, prompts)
    except ContextOverflowError:
        return _stop(prompts.out_of_context.format(agent=agent, tier=tier))
    except OutOfTimeError:
        return _stop(prompts.out_of_seconds.format(agent=agent, limit=context.max_seconds))
    except EndpointError as error:
        return _stop(str(error))
    step = _read(called.reply, mode)
    if mode == "native" and not called.reply.tool_calls:
        model.prefer_json()
    raw = called.reply.text if mode == "json" and step.actions else None
    step = _with_action(step, state, called.reply)
    message = step_message(step, message_id=f"{agent}-{turn}", raw=raw)
    update: dict[str, Any] = {
        "messages": [message],
        "calls": [called.record],
        "pending": [
            PendingCall(id=str(call["id"]), tool=call["name"], arguments=dict(call["args"]))
            for call in message.tool_calls
        ],
        "modes": state.get("modes", {}) | {tier: "json" if model.tool_mode == "json" else mode},
    }
    if called.warning:
        update["ran_out"] = [called.warning]
    return update


def choices(state: SeekerState, *, recall: bool = False) -> Choices:
    """Return the actions that make sense now.

    After a search that brought nothing new another one would be the same again, and a refused answer must not be given
    again at once; a small model does either, if it may.

    Args:
        state: Before the step.
        recall: Whether results that were distilled can be recalled.
    """
    numbers, sources = state.get("numbers", []), state.get("sources", {})
    if not numbers:
        return Choices(search=True)
    # What the search filter left out is no choice here: a small model would read it all, one by one.
    shown = [
        (number, sources[key]) for number, key in enumerate(numbers, start=1) if sources[key]["passages"]
    ]
    unread = [number for number, source in shown if not source["read"]]
    last = _last_tool(state)
    stalled = bool(state.get("verifier", {}).get("stalled_rounds", 0))
    return Choices(
        search=not (last == "web_search" and stalled),
        read=tuple(unread[-10:]),
        recall=recallable_numbers(state) if recall and last != "recall" else (),
        answer=last != "finish",
        results=True,
    )


def reads_first(state: SeekerState, context: Context) -> bool:
    """Whether this step is the first of a rescue, and there is something to read an answer from.

    An agent that is stuck has often found what it looks for. The large model then reads it for an answer at once: that
    costs it one prefill and a few tokens, where a step of its own that says "finish" would cost that prefill twice.
    """
    if not context.rescue_reads or context.policy != "agentcollab" or state["tier"] != "large":
        return False
    controller = CollabState.from_json(state["collab"])
    if controller.rescue_budget == 0 or controller.rescue_steps > 0 or _last_tool(state) == "finish":
        return False
    tier = answer_tier(context, state.get("calls", []), large_tokens=state["budget"]["large_tokens"])
    return has_unread(PROMPTS[state["language"]], state, context, tier=tier)


def _read_step(message_id: str) -> dict[str, Any]:
    step = Step(thought="", actions=(Action(tool="finish", arguments={"answer": "", "sources": []}),))
    message = step_message(step, message_id=message_id, raw=None)
    call = message.tool_calls[0]
    return {
        "messages": [message],
        "pending": [PendingCall(id=str(call["id"]), tool=call["name"], arguments=dict(call["args"]))],
    }


def _last_tool(state: SeekerState) -> str:
    for message in reversed(state["messages"]):
        if isinstance(message, AIMessage) and message.tool_calls:
            return message.tool_calls[0]["name"]
    return ""


def _guide(possible: Choices) -> Guide:
    return Guide(schema=action_schema(possible), regex=action_regex(possible))


def last_think(calls: Sequence[CallRecord]) -> CallRecord | None:
    """Return the latest Think call."""
    return next((call for call in reversed(calls) if call["role"] == "think"), None)


async def _call(
    state: SeekerState,
    context: Context,
    caller: Caller,
    model: ChatTier,
    mode: Literal["native", "json"],
    prompts: Prompts,
) -> tuple[Called, Literal["native", "json"]]:
    calls, view = state.get("calls", []), seeker_view(state, context)

    async def attempt(mode: Literal["native", "json"]) -> Called:
        return await caller.call(
            model.tier,
            write_transcript(view, mode=mode, prompts=prompts, question=state["task"]["question"]),
            role="think",
            max_tokens=context.max_thought_tokens,
            guide=_guide(choices(state, recall=recalls(context))) if mode == "json" else None,
            native_tools="auto" if mode == "native" else None,
            tool_seconds=0.0,  # the Progress Check follows at once
            timeout=seconds_left(state),
            previous=last_think(calls),
            appended=latest_tokens(state["messages"]) if after_rescue(state) else None,
            supersedes=supersedes(state, context, model.tier),
        )

    try:
        return await attempt(mode), mode
    except RefusedRequestError:
        if mode == "json":
            raise
        model.prefer_json()  # a server without a tool parser refuses the request as a whole
        if model.tool_mode == "native":
            raise
        return await attempt("json"), "json"


def _read(reply: Reply, mode: Literal["native", "json"]) -> Step:
    if mode == "native" and reply.tool_calls:
        actions = [read_tool_call(call.name, call.arguments) for call in reply.tool_calls]
        return Step(thought=reply.text, actions=tuple(action for action in actions if action is not None))
    return parse_step(reply.text)


def _with_action(step: Step, state: SeekerState, reply: Reply) -> Step:
    """Return the step with something to do, and only with calls that go together."""
    finish = [action for action in step.actions if action.tool == "finish"]
    known = bool(state.get("numbers"))
    if finish and known:
        return Step(thought=step.thought, actions=(finish[0],))
    others = tuple(action for action in step.actions if action.tool != "finish")[:5]
    if others:
        return Step(thought=step.thought, actions=_with_task_query(others, state))
    thought = step.thought[:1000]
    if known and reply.text and not reply.unreadable:
        return Step(
            thought=thought, actions=(Action(tool="finish", arguments={"answer": "", "sources": []}),)
        )
    return Step(thought=thought, actions=(_search_for(state),))


def _search_for(state: SeekerState) -> Action:
    return Action(tool="web_search", arguments={"queries": [state["task"]["question"][:500]]})


def _with_task_query(actions: tuple[Action, ...], state: SeekerState) -> tuple[Action, ...]:
    """Let the first search also ask the task itself: a poor first query then costs nothing but a few results."""
    first = actions[0]
    if state.get("turn", 0) > 0 or first.tool != "web_search":
        return actions
    queries = list(dict.fromkeys([*first.arguments["queries"], state["task"]["question"][:500]]))
    return (Action(tool="web_search", arguments={"queries": queries[:5]}), *actions[1:])


def _stop(sentence: str) -> dict[str, Any]:
    """End the seeker: without a pending call the graph goes on to its conclusion."""
    return {"pending": [], "ran_out": [sentence]}
