"""Think: the active model says what is known and what is to be done next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.runtime import Runtime

from agentinfer_lg.collab.controller import CollabState
from agentinfer_lg.compression.view import latest_tokens
from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.calling import Called, recalls, seeker_caller, session_name
from agentinfer_lg.llm.chat import (
    ChatTier,
    ContextOverflowError,
    Guide,
    OutOfTimeError,
    RefusedRequestError,
    Reply,
)
from agentinfer_lg.llm.protocol import (
    MAX_QUERIES,
    READ_ANSWER,
    Action,
    Choices,
    Step,
    action_regex,
    action_schema,
    gives_answer,
    parse_step,
    read_tool_call,
)
from agentinfer_lg.llm.transcript import Mode, step_message, write_transcript
from agentinfer_lg.nodes.seeker.budget import seconds_left
from agentinfer_lg.nodes.seeker.compaction import recallable_numbers, seeker_view, supersedes
from agentinfer_lg.nodes.seeker.handover import after_rescue
from agentinfer_lg.nodes.seeker.read_answer import answer_tier, has_unread
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import CallRecord, PendingCall, SeekerState

_MOST_UNREAD = 10
"""Unread results that can be chosen: the latest ones."""
_MOST_CALLS = 5
"""Calls of one step."""
_MOST_UNREADABLE = 4
"""Answers in a row that cannot be read, after which more of them help nobody."""


async def think(state: SeekerState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Make one Think step with the model of `state["tier"]`.

    Writes the step to the transcript and its actions to `pending`. A step that cannot be read becomes a search for
    the task, or an answer once there is something to answer from; a lost endpoint or a full context ends the seeker.
    """
    context = runtime.context
    if reads_first(state, context):
        return _taken(Step(actions=(READ_ANSWER,)), state, raw=None)
    prompts, agent = PROMPTS[state["language"]], state["task"]["id"]
    model = resources.models.tier(state["tier"])
    try:
        called, mode = await _call(state, context, resources, model)
    except ContextOverflowError:
        return _stop(prompts.out_of_context.format(agent=agent, tier=state["tier"]))
    except OutOfTimeError:
        return _stop(prompts.out_of_seconds.format(agent=agent, limit=context.max_seconds))
    except EndpointError as error:
        return _stop(str(error))
    reply = called.reply
    following = mode
    if mode == "native" and not reply.tool_calls:
        following = model.prefer_json(session=_session(state))
    step = _read(reply, mode)
    unreadable = 0 if step.actions or reply.text else state.get("unreadable", 0) + 1
    if unreadable >= _MOST_UNREADABLE:
        cause = prompts.unreadable_answers.format(
            agent=agent, count=unreadable, tier=called.record["tier"], cause=reply.unreadable
        )
        return _stop(cause) | {"calls": [called.record], "unreadable": unreadable}
    raw = reply.text if mode == "json" and step.actions else None
    thoughts = reply.thoughts if model.known.capabilities.wants_thoughts else ""
    update = _taken(_with_action(step, state, reply), state, raw=raw, thoughts=thoughts)
    update |= {"calls": [called.record], "unreadable": unreadable}
    update["modes"] = state.get("modes", {}) | {state["tier"]: following}
    return update | ({"ran_out": [called.warning]} if called.warning else {})


def _taken(step: Step, state: SeekerState, *, raw: str | None, thoughts: str = "") -> dict[str, Any]:
    """Return what a step changes: the transcript grows by it, and its actions are to be done."""
    message_id = f"{state['task']['id']}-{state.get('turn', 0)}"
    message = step_message(step, message_id=message_id, raw=raw, thoughts=thoughts)
    pending = [
        PendingCall(id=str(call["id"]), tool=action.tool, arguments=dict(action.arguments))
        for call, action in zip(message.tool_calls, step.actions, strict=True)
    ]
    return {"messages": [message], "pending": pending}


def choices(state: SeekerState, *, recall: bool = False) -> Choices:
    """Return the actions that make sense now.

    After a search that brought nothing new another one would be the same again, and a refused answer must not be given
    again at once; a small model does either, if it may.

    Args:
        state: Before the step.
        recall: Whether results that were distilled can be recalled.
    """
    if not state.get("numbers"):
        return Choices(search=True)
    last = _last_tool(state)
    no_progress = bool(state.get("verifier", {}).get("stalled_rounds", 0))
    return Choices(
        search=not (last == "web_search" and no_progress),
        read=_unread(state)[-_MOST_UNREAD:],
        recall=recallable_numbers(state) if recall and last != "recall" else (),
        answer=not gives_answer(last),
        results=True,
    )


def _unread(state: SeekerState) -> tuple[int, ...]:
    """Return the numbers of the results that are shown and were not read in full.

    What the result filter left out is no choice: a small model would read it all, one by one.
    """
    sources = state["sources"]
    return tuple(
        number
        for number, key in enumerate(state["numbers"], start=1)
        if sources[key]["passages"] and not sources[key]["read"]
    )


def reads_first(state: SeekerState, context: Context) -> bool:
    """Whether this step reads what was found for an answer, without asking a model what to do.

    An agent that makes no progress has often found what it looks for. The large model then reads it for an answer at once:
    that costs one prefill and a few tokens, where a step of its own that asks for the reading would cost that prefill twice.
    Where there is one model, it reads in the same place.
    """
    if not context.rescue_reads or not _is_stuck(state, context) or gives_answer(_last_tool(state)):
        return False
    tier = answer_tier(context, state.get("calls", []), large_tokens=state["budget"]["large_tokens"])
    return has_unread(PROMPTS[state["language"]], state, context, tier=tier)


def _is_stuck(state: SeekerState, context: Context) -> bool:
    """Whether a rescue begins, or would begin if there were another model."""
    if context.policy == "one-model":
        return bool(state.get("stall"))
    if context.policy != "agentcollab" or state["tier"] != "large":
        return False
    controller = CollabState.from_json(state["collab"])
    return controller.rescue_budget > 0 and controller.rescue_steps == 0


def _last_tool(state: SeekerState) -> str:
    for message in reversed(state["messages"]):
        if isinstance(message, AIMessage) and message.tool_calls:
            return message.tool_calls[0]["name"]
    return ""


def _last_think(calls: Sequence[CallRecord]) -> CallRecord | None:
    """Return the latest Think call."""
    return next((call for call in reversed(calls) if call["role"] == "think"), None)


async def _call(
    state: SeekerState, context: Context, resources: Resources, model: ChatTier
) -> tuple[Called, Mode]:
    """Ask for a step in the form that the model speaks; a server that refuses native tools is asked for JSON."""
    mode: Mode = "json" if state.get("modes", {}).get(state["tier"]) == "json" else model.tool_mode
    try:
        return await _attempt(state, context, resources, model, mode), mode
    except RefusedRequestError:
        if mode == "json":
            raise
        # A server without a tool parser refuses the request as a whole.
        if model.prefer_json(session=_session(state), refused=True) == "native":
            raise
        return await _attempt(state, context, resources, model, "json"), "json"


async def _attempt(
    state: SeekerState, context: Context, resources: Resources, model: ChatTier, mode: Mode
) -> Called:
    prompts, question = PROMPTS[state["language"]], state["task"]["question"]
    possible = choices(state, recall=recalls(context)) if mode == "json" else None
    return await seeker_caller(state, context, resources).call(
        model.tier,
        write_transcript(seeker_view(state, context), mode=mode, prompts=prompts, question=question),
        role="think",
        max_tokens=context.max_thought_tokens,
        guide=Guide(schema=action_schema(possible), regex=action_regex(possible)) if possible else None,
        native_tools="auto" if mode == "native" else None,
        tool_seconds=0.0,  # the Progress Check follows at once
        timeout=seconds_left(state),
        previous=_last_think(state.get("calls", [])),
        appended=latest_tokens(state["messages"]) if after_rescue(state) else None,
        enough=_reads_instead if mode == "json" and state.get("numbers") else _names_action,
        supersedes=supersedes(state, context, model.tier),
    )


def _session(state: SeekerState) -> str:
    return session_name(state["run_id"], state["task"]["id"])


def _names_action(text: str) -> bool:
    return bool(parse_step(text).actions)


def _reads_instead(text: str) -> bool:
    """Whether a cut step is followed by a reading: what the results tell is then asked in a call of its own."""
    step = parse_step(text)
    return bool(step.actions or step.thought)


def _read(reply: Reply, mode: Mode) -> Step:
    if mode == "native" and reply.tool_calls:
        actions = [read_tool_call(call.name, call.arguments) for call in reply.tool_calls]
        return Step(thought=reply.text, actions=tuple(action for action in actions if action is not None))
    return parse_step(reply.text)


def _with_action(step: Step, state: SeekerState, reply: Reply) -> Step:
    """Return the step with something to do, and only with calls that go together."""
    answers = tuple(action for action in step.actions if gives_answer(action.tool))
    known = bool(state.get("numbers"))
    if answers and known:
        return Step(thought=step.thought, actions=answers[:1])
    others = tuple(action for action in step.actions if not gives_answer(action.tool))[:_MOST_CALLS]
    if others:
        return Step(thought=step.thought, actions=_with_task_query(others, state))
    reads = known and bool(reply.text) and not reply.unreadable
    action = READ_ANSWER if reads else _search_for(state)
    return Step(thought=step.thought[:1000], actions=(action,))


def _search_for(state: SeekerState) -> Action:
    return Action(tool="web_search", arguments={"queries": [state["task"]["question"][:500]]})


def _with_task_query(actions: tuple[Action, ...], state: SeekerState) -> tuple[Action, ...]:
    """Let the first search also ask the task itself: a poor first query then costs nothing but a few results."""
    first = actions[0]
    if state.get("turn", 0) > 0 or first.tool != "web_search":
        return actions
    queries = list(dict.fromkeys([*first.arguments["queries"], state["task"]["question"][:500]]))
    return (Action(tool="web_search", arguments={"queries": queries[:MAX_QUERIES]}), *actions[1:])


def _stop(sentence: str) -> dict[str, Any]:
    """End the seeker: without a pending call the graph goes on to its conclusion."""
    return {"pending": [], "ran_out": [sentence]}
