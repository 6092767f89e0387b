"""Handover: what the large model is shown when it takes over.

The two models share no KV cache, so a switch has the large one prefill the whole context: on a machine where prefill is dear
that costs more than its steps. It needs the task, what was thought and done, and what the results say on it, not every
result in full. So it sees the agent's steps word for word and, in place of the results so far, the sentences of them that
match the task and the latest searches best; without a model, hence without waiting. What comes after is shown whole, so the
prompts of one rescue extend each other. The answer is read from the originals in any case.
"""

from __future__ import annotations

from agentinfer_lg.compression.distillate import extracted, with_details
from agentinfer_lg.compression.policy import covered
from agentinfer_lg.compression.steps import fold, originals_in, searched
from agentinfer_lg.compression.view import Compaction, split_rounds
from agentinfer_lg.context import Context
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.state import SeekerState

_SEARCHES = 4


def write_handover(state: SeekerState, context: Context, *, turn: int) -> Compaction | None:
    """Return what takes the place of the results while the large model is at work; None where all of them are shown.

    Rounds after the last result stay as they are: an error, or that an answer was refused, may be why it takes over. Steps
    that are too long are left out as at any compaction. Takes a while for very long results: not for an event loop.

    Args:
        state: At the end of the round after which it takes over.
        context: Knobs of the run.
        turn: Its first turn.
    """
    rounds = split_rounds(state["messages"]) if _rescues(context) else []
    latest = searched([round_.step for round_ in reversed(rounds)])[:_SEARCHES]
    while rounds and not originals_in(rounds[-1:]):
        rounds.pop()
    if not rounds:
        return None
    prompts, originals = PROMPTS[state["language"]], originals_in(rounds)
    notes = extracted(originals, [state["task"]["question"], *latest], tokens=context.rescue_tokens)
    text = with_details(notes, originals, tokens=0).text(prompts, recall=False)
    own: Compaction | None = state.get("compression", {}).get("swap")
    folded, left_out = fold(
        rounds, prompts, folded=own["folded"] if own else "", limit=context.max_reasoning_tokens
    )
    return Compaction(
        ticket=f"rescue-{turn}",
        upto=rounds[-1].last_id,
        folded=folded,
        text="\n".join(filter(None, [text, left_out])),
        turn=turn,
        tokens_before=0,
        tokens_after=0,
    )


def handover_in_force(state: SeekerState, context: Context) -> Compaction | None:
    """Return the handover that the model of the next step sees, if that is the large one on a rescue."""
    if state.get("tier") != "large" or not _rescues(context):
        return None
    handover: Compaction | None = state.get("rescue")
    return handover


def handover_numbers(state: SeekerState, handover: Compaction) -> set[int]:
    """Return the numbers of the results that a handover does not show as they were."""
    messages = state["messages"]
    rounds = split_rounds(messages)[: covered(messages, handover["upto"])]
    return {original.number for original in originals_in(rounds)}


def after_rescue(state: SeekerState) -> bool:
    """Whether the small model is at work again, whose prompt does not extend those of the rescue before."""
    return state.get("tier") == "small" and state.get("rescue") is not None


def _rescues(context: Context) -> bool:
    return context.compression != "off" and context.rescue_tokens > 0
