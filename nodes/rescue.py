"""Rescue: what the large model is shown when it takes over.

The two models share no KV cache, so a switch has the large one prefill the whole context: on a machine where prefill is dear
that costs more than its steps. It needs the task, what was thought and done, and what the results say on it, not every
result in full. So it sees the agent's steps word for word and, in place of the results so far, the sentences of them that
match the task and the latest searches best; without a model, hence without waiting. What comes after is shown whole, so the
prompts of one rescue extend each other. The answer is read from the originals in any case.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import AIMessage

from agentinfer_lg.compression.distillate import extracted, with_details
from agentinfer_lg.compression.originals import Original, join_originals, split_results
from agentinfer_lg.compression.policy import covered
from agentinfer_lg.compression.view import Round, Swap, split_rounds
from agentinfer_lg.context import Context
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.state import SeekerState

__all__ = ("rescue_in_force", "rescue_numbers", "rescue_swap")

_TITLE_TOKENS = 20
_SEARCHES = 4


def rescue_swap(state: SeekerState, context: Context, *, turn: int) -> Swap | None:
    """Return what takes the place of the results while the large model is at work; None where all of them are shown.

    Args:
        state: At the end of the round after which it takes over.
        context: Knobs of the run.
        turn: Its first turn.
    """
    rounds = split_rounds(state["messages"])
    while rounds and not _originals(rounds[-1:]):  # a refusal must not disappear behind the notes
        rounds.pop()
    if context.compression == "off" or not context.rescue_tokens or not rounds:
        return None
    originals = _originals(rounds)
    queries = [state["task"]["question"], *_latest_searches([round_.step for round_ in rounds])]
    notes = extracted(originals, queries, tokens=context.rescue_tokens)
    notes = with_details(notes, originals, tokens=_TITLE_TOKENS * len(originals))
    return Swap(
        ticket=f"rescue-{turn}",
        upto=rounds[-1].last_id,
        folded="",
        text=notes.text(PROMPTS[state["language"]], recall=False),
        turn=turn,
        tokens_before=0,
        tokens_after=0,
    )


def rescue_in_force(state: SeekerState, context: Context) -> Swap | None:
    """Return the swap that the model of the next Think step sees, if that is the large one on a rescue."""
    if state.get("tier") != "large" or context.compression == "off":
        return None
    swap: Swap | None = state.get("rescue")
    return swap


def rescue_numbers(state: SeekerState, swap: Swap) -> set[int]:
    """Return the numbers of the results that a rescue does not show as they were."""
    messages = state["messages"]
    return {
        original.number for original in _originals(split_rounds(messages)[: covered(messages, swap["upto"])])
    }


def _originals(rounds: Sequence[Round]) -> list[Original]:
    contents = [str(result.content) for round_ in rounds for result in round_.results]
    return join_originals(item for content in contents for item in split_results(content))


def _latest_searches(steps: list[AIMessage]) -> list[str]:
    found = [
        query
        for step in reversed(steps)
        for call in step.tool_calls
        if call["name"] == "web_search"
        for query in call["args"].get("queries", [])
    ]
    return list(dict.fromkeys(found))[:_SEARCHES]
