"""Boundary: the end of a round. Who thinks next, and may anybody?

Between rounds nothing is in flight, so this is where the tier is switched, budgets are counted, and (with context
compression) distillates are swapped in.
"""

from __future__ import annotations

import asyncio
from typing import Any

from langgraph.runtime import Runtime

from agentinfer_lg.collab.controller import CollabState, Transition, advance
from agentinfer_lg.compression.view import Compaction
from agentinfer_lg.context import Context
from agentinfer_lg.events import emit
from agentinfer_lg.nodes.seeker.budget import exhausted, tokens_spent
from agentinfer_lg.nodes.seeker.compaction import compress
from agentinfer_lg.nodes.seeker.controller_settings import controller_settings
from agentinfer_lg.nodes.seeker.handover import handover_in_force, write_handover
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import CheckRecord, EscalationRecord, SeekerState


async def boundary(state: SeekerState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Advance the controller by this round and count budgets."""
    context = runtime.context or Context()
    prompts = PROMPTS[state["language"]]
    agent, turn = state["task"]["id"], state.get("turn", 0)
    settings = controller_settings(state, context)
    verdict, stall = state["verdict"], _stall(state)
    transition = advance(
        CollabState.from_json(state["collab"]),
        settings,
        verdict=verdict["verdict"],  # type: ignore[arg-type]  # written by the progress node
        stall=stall,
        tool_error=state.get("tool_error", False),
        final=state["proposal"]["accepted"],
    )
    ran_out = []
    tier = transition.state.tier
    budget = state["budget"]
    if tier == "large" and tokens_spent(state["calls"], "large") >= budget["large_tokens"]:
        ran_out.append(prompts.out_of_large_tokens.format(agent=agent, limit=budget["large_tokens"]))
        tier = "small"
    if (
        _wanted_more(transition, verdict["verdict"], stall, settings.max_large_steps)
        and settings.policy == "agentcollab"
    ):
        ran_out.append(prompts.out_of_large_steps.format(agent=agent, limit=settings.max_large_steps))
    check = CheckRecord(
        agent=agent,
        turn=turn,
        tier=state["tier"],
        verdict=verdict["verdict"],  # type: ignore[typeddict-item]  # written by the progress node
        reason=verdict["reason"],
        stall=stall,
        next_tier=tier,
    )
    update: dict[str, Any] = {
        "turn": turn + 1,
        "tier": tier,
        "collab": transition.state.to_json() | {"tier": tier},
        "checks": [check],
    }
    emit(
        "progress",
        agent,
        turn=turn,
        tier=state["tier"],
        verdict=check["verdict"],
        text=check["reason"],
        stall=stall,
    )
    if transition.event == "escalate" and tier == "large":
        update["escalations"] = [EscalationRecord(agent=agent, turn=turn, cause=transition.cause)]
        update["rescue"] = await _rescue(state, context, resources, turn=turn + 1)
        emit("escalation", agent, turn=turn, cause=transition.cause)
    elif transition.event in ("deescalate", "guardrail"):
        emit("deescalation", agent, turn=turn, cause=transition.cause)
    if not state["proposal"]["accepted"]:
        over = exhausted(
            budget,
            turn=turn + 1,
            calls=state["calls"],
            tools=state.get("tools", []),
            agent=agent,
            prompts=prompts,
        )
        if over:
            ran_out.append(over)
            update["stopped"] = True
    for sentence in ran_out:
        emit("budget", agent, turn=turn, text=sentence)
    if not state["proposal"]["accepted"] and not update.get("stopped"):
        # Only here is nothing in flight that extends the old context.
        after: SeekerState = {**state, **update}  # type: ignore[typeddict-item]  # update has keys of the state only
        update |= await compress(
            state,
            context,
            resources,
            runtime.store,
            tier=tier,
            turn=turn + 1,
            rescued=handover_in_force(after, context) is not None,
        )
    return update | ({"ran_out": ran_out} if ran_out else {})


def goes_on(state: SeekerState) -> bool:
    """Whether another round follows."""
    return not state["proposal"]["accepted"] and not state.get("stopped", False)


async def _rescue(
    state: SeekerState, context: Context, resources: Resources, *, turn: int
) -> Compaction | None:
    """Return what the large model is shown; one model for both tiers has all of it in its cache."""
    small, large = resources.models.tier("small"), resources.models.tier("large")
    if small.same_place == large.same_place:
        return None
    return await asyncio.to_thread(write_handover, state, context, turn=turn)


def _stall(state: SeekerState) -> str:
    """The verifier's objection; a refused answer is one too: the step claimed to be done and was not."""
    if state.get("stall"):
        return state["stall"]
    tools = [call["tool"] for call in state["pending"]]
    return (
        "the proposed answer was not accepted"
        if "finish" in tools and not state["proposal"]["accepted"]
        else ""
    )


def _wanted_more(transition: Transition, verdict: str, stall: str, cap: int) -> bool:
    """Whether a rescue was due or cut short, and only the cap on large steps stood against it."""
    failing = verdict == "FALSE" or bool(stall)
    return failing and transition.state.tier == "small" and transition.state.total_large >= cap
