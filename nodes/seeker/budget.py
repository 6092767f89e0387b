"""Budgets: what was spent, what ran out (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from agentinfer_lg.context import Context
from agentinfer_lg.prompts import Prompts
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import Budget, CallRecord, SeekerState, ToolRecord

_ASIDE = frozenset({"qa", "distill", "prewarm"})


def tokens_spent(calls: Sequence[CallRecord], tier: Tier) -> int:
    """Return prompt and output tokens of `tier`, those of answers that were cut and asked for again included."""
    own = [call for call in calls if call["tier"] == tier]
    return sum(call["prompt_tokens"] + call["output_tokens"] + call.get("retry_tokens", 0) for call in own)


def seconds_spent(calls: Sequence[CallRecord], tools: Sequence[ToolRecord]) -> float:
    """Return seconds of work of one agent: its calls one after the other, the tools of a round in parallel.

    Calls inside of a tool are part of the tool's time, and calls in the background are nobody's.
    """
    rounds: dict[int, float] = {}
    for tool in tools:
        rounds[tool["turn"]] = max(rounds.get(tool["turn"], 0.0), tool["seconds"])
    return sum(call["seconds"] for call in calls if call["role"] not in _ASIDE) + sum(rounds.values())


def seconds_of_run(
    calls: Sequence[CallRecord], tools: Sequence[ToolRecord], *, planner: str, writer: str
) -> float:
    """Return seconds of work of a run so far: of its planner, of its slowest seeker, and of its writer.

    Args:
        calls: All model calls.
        tools: All tool calls.
        planner: Name of the agent that plans.
        writer: Name of the agent that writes.
    """

    def alone(agent: str) -> float:
        return sum(call["seconds"] for call in calls if call["agent"] == agent)

    seekers = (
        seconds_spent(
            [call for call in calls if call["agent"] == agent],
            [tool for tool in tools if tool["agent"] == agent],
        )
        for agent in {call["agent"] for call in calls} - {planner, writer}
    )
    return alone(planner) + max(seekers, default=0.0) + alone(writer)


def seconds_left(state: SeekerState) -> float:
    """Return the seconds that a seeker may still spend, never negative."""
    return max(
        0.0, state["budget"]["seconds"] - seconds_spent(state.get("calls", []), state.get("tools", []))
    )


def share(context: Context, calls: Sequence[CallRecord], *, planner_steps: int, seekers: int) -> Budget:
    """Split what the planner left among `seekers` that run in parallel; time is not split, it passes for all."""
    return Budget(
        turns=context.max_turns,
        small_tokens=max(0, context.max_small_tokens - tokens_spent(calls, "small")) // seekers,
        large_tokens=max(0, context.max_large_tokens - tokens_spent(calls, "large")) // seekers,
        large_steps=max(0, context.max_large_steps - planner_steps) // seekers,
        seconds=max(0.0, context.max_seconds - sum(call["seconds"] for call in calls)),
    )


def exhausted(
    budget: Budget,
    *,
    turn: int,
    calls: Sequence[CallRecord],
    tools: Sequence[ToolRecord],
    agent: str,
    prompts: Prompts,
) -> str:
    """Return the sentence that says which budget ended the seeker, empty while it may go on.

    An empty large tier does not end it: the small tier goes on alone.
    """
    if turn >= budget["turns"]:
        return prompts.out_of_turns.format(agent=agent, limit=budget["turns"])
    if seconds_spent(calls, tools) >= budget["seconds"]:
        return prompts.out_of_seconds.format(agent=agent, limit=budget["seconds"])
    if tokens_spent(calls, "small") >= budget["small_tokens"]:
        return prompts.out_of_small_tokens.format(agent=agent, limit=budget["small_tokens"])
    return ""
