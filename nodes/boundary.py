"""Boundary: the end of a round. Who thinks next, and may anybody?

Between rounds nothing is in flight, so this is where the tier is switched, budgets are counted, and (with context
compression) notes take the place of results. Each step returns what it changes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore

from agentinfer_lg.collab.controller import CollabState, Transition, advance
from agentinfer_lg.context import Context
from agentinfer_lg.events import emit
from agentinfer_lg.llm.protocol import gives_answer
from agentinfer_lg.nodes.seeker.budget import exhausted, tokens_spent
from agentinfer_lg.nodes.seeker.collab import controller_settings
from agentinfer_lg.nodes.seeker.compaction import compress
from agentinfer_lg.nodes.seeker.handover import handover_in_force, write_handover
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import CheckRecord, EscalationRecord, SeekerState


async def boundary(state: SeekerState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Advance the controller by this round, count budgets, and prepare what the next model sees."""
    context = runtime.context
    transition = advance_controller(state, context)
    tier, ran_out = hold_large_budgets(state, context, transition)
    update: dict[str, Any] = {
        "turn": state.get("turn", 0) + 1,
        "tier": tier,
        "collab": transition.state.to_json() | {"tier": tier},
        "checks": [record_check(state, tier)],
    }
    update |= await hand_over(state, context, resources, transition, tier)
    update |= end_round(state, ran_out)
    after: SeekerState = {**state, **update}  # type: ignore[typeddict-item]  # update has keys of the state only
    if goes_on(after):
        update |= await compact(state, after, context, resources, runtime.store)
    return update


def goes_on(state: SeekerState) -> bool:
    """Whether another round follows."""
    return not state["proposal"]["accepted"] and not state.get("stopped", False)


def objection(state: SeekerState) -> str:
    """Return why the round was no progress, whatever the model says of it; empty if nothing stands against it.

    The verifier objects, or an answer was refused: the step claimed to be done and was not.
    """
    if state.get("stall"):
        return state["stall"]
    answered = any(gives_answer(call["tool"]) for call in state["pending"])
    return "the proposed answer was not accepted" if answered and not state["proposal"]["accepted"] else ""


def advance_controller(state: SeekerState, context: Context) -> Transition:
    """Return what the controller makes of the round."""
    return advance(
        CollabState.from_json(state["collab"]),
        controller_settings(state, context),
        verdict=state["verdict"]["verdict"],  # type: ignore[arg-type]  # written by the progress node
        objection=objection(state),
        tool_error=state.get("tool_error", False),
        final=state["proposal"]["accepted"],
    )


def hold_large_budgets(
    state: SeekerState, context: Context, transition: Transition
) -> tuple[Tier, list[str]]:
    """Return the tier of the next step, and a sentence for each budget of the large model that stood against it."""
    prompts, agent, budget = PROMPTS[state["language"]], state["task"]["id"], state["budget"]
    tier, ran_out = transition.state.tier, []
    if tier == "large" and tokens_spent(state["calls"], "large") >= budget["large_tokens"]:
        ran_out.append(prompts.out_of_large_tokens.format(agent=agent, limit=budget["large_tokens"]))
        tier = "small"
    if context.policy == "agentcollab" and _lacks_large_steps(state, transition):
        ran_out.append(prompts.out_of_large_steps.format(agent=agent, limit=budget["large_steps"]))
    return tier, ran_out


def _lacks_large_steps(state: SeekerState, transition: Transition) -> bool:
    """Whether a rescue was due or cut short, and only the cap on large steps stood against it."""
    failing = state["verdict"]["verdict"] == "FALSE" or bool(objection(state))
    after = transition.state
    return failing and after.tier == "small" and after.total_large >= state["budget"]["large_steps"]


def record_check(state: SeekerState, next_tier: Tier) -> CheckRecord:
    """Return the record of the round's Progress Check, and tell of it."""
    check = CheckRecord(
        agent=state["task"]["id"],
        turn=state.get("turn", 0),
        tier=state["tier"],
        verdict=state["verdict"]["verdict"],  # type: ignore[typeddict-item]  # written by the progress node
        reason=state["verdict"]["reason"],
        stall=objection(state),
        next_tier=next_tier,
    )
    emit(
        "progress",
        check["agent"],
        turn=check["turn"],
        tier=check["tier"],
        verdict=check["verdict"],
        text=check["reason"],
        stall=check["stall"],
    )
    return check


async def hand_over(
    state: SeekerState, context: Context, resources: Resources, transition: Transition, tier: Tier
) -> dict[str, Any]:
    """Return what a switch of the tier changes: a rescue is recorded, and begins with a handover.

    Args:
        state: At the end of the round.
        context: Knobs of the run.
        resources: Models.
        transition: What the controller wants.
        tier: What the budgets let it have.
    """
    agent, turn = state["task"]["id"], state.get("turn", 0)
    if transition.event == "escalate" and tier == "large":
        record = EscalationRecord(agent=agent, turn=turn, cause=transition.cause)
        # One model for both tiers has all of it in its cache.
        handover = (
            None
            if resources.models.one_model
            else await asyncio.to_thread(write_handover, state, context, turn=turn + 1)
        )
        emit("escalation", agent, turn=turn, cause=transition.cause)
        return {"escalations": [record], "rescue": handover}
    if transition.event in ("deescalate", "guardrail"):
        emit("deescalation", agent, turn=turn, cause=transition.cause)
    return {}


def end_round(state: SeekerState, ran_out: list[str]) -> dict[str, Any]:
    """Return what the budgets change: the sentences on those that ran out, and whether one of them ends the seeker.

    Args:
        state: At the end of the round.
        ran_out: Sentences on the budgets of the large model.
    """
    agent, turn = state["task"]["id"], state.get("turn", 0)
    over = "" if state["proposal"]["accepted"] else _exhausted(state)
    sentences = [*ran_out, over] if over else ran_out
    for sentence in sentences:
        emit("budget", agent, turn=turn, text=sentence)
    return ({"stopped": True} if over else {}) | ({"ran_out": sentences} if sentences else {})


def _exhausted(state: SeekerState) -> str:
    return exhausted(
        state["budget"],
        turn=state.get("turn", 0) + 1,
        calls=state["calls"],
        tools=state.get("tools", []),
        agent=state["task"]["id"],
        prompts=PROMPTS[state["language"]],
    )


async def compact(
    state: SeekerState, after: SeekerState, context: Context, resources: Resources, store: BaseStore | None
) -> dict[str, Any]:
    """Return what context compression changes; only here is nothing in flight that extends the old context.

    Args:
        state: At the end of the round.
        after: The same with the changes of the other steps.
        context: Knobs of the run.
        resources: Models and background tasks.
        store: Where results of distillations are kept.
    """
    return await compress(
        state,
        context,
        resources,
        store,
        tier=after["tier"],
        turn=after["turn"],
        rescued=handover_in_force(after, context) is not None,
    )
