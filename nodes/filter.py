"""Filter: the results of a round become numbered tool messages.

Every source gets its number here, after all calls of the round are in, so that numbers are the same however the calls
raced. Passages that the model sees already are not shown again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import ToolMessage
from langgraph.runtime import Runtime

from agentinfer_lg.compression.originals import as_body
from agentinfer_lg.context import Context
from agentinfer_lg.llm.protocol import gives_answer
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.nodes.seeker.collab import verify_round
from agentinfer_lg.nodes.seeker.compaction import hidden_numbers
from agentinfer_lg.nodes.seeker.proposal import proposed
from agentinfer_lg.nodes.seeker.recall import Recalled, auto_recall
from agentinfer_lg.nodes.seeker.result_filter import choose_results
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import (
    Observation,
    RoundRecord,
    SeekerState,
    Source,
    merge_sources,
    merge_unique,
)
from agentinfer_lg.text import clip

_MIN_SHOWN_TOKENS = 40


async def filter_results(
    state: SeekerState, runtime: Runtime[Context], *, resources: Resources
) -> dict[str, Any]:
    """Number the sources, write the tool messages, and let the verifier look at the round."""
    context = runtime.context
    observations = _in_order(state)
    chosen = await choose_results(observations, state, context, resources)
    again = await auto_recall(chosen.observations, state, context)
    board = Board(state, context, pruned=chosen.pruned, again=again)
    messages = [_message(observation, board, state) for observation in chosen.observations]
    verifier, objection = verify_round(state, context, observations)
    proposal = proposed(observations)
    record = RoundRecord(
        agent=state["task"]["id"],
        turn=state.get("turn", 0),
        shown=board.shown,
        new_evidence=verifier.stalled_rounds == 0,
        accepted=proposal["accepted"],
    )
    return {
        "messages": messages,
        "sources": board.added,
        "numbers": board.numbers,
        "proposal": proposal,
        "observations": None,
        "verifier": verifier.to_json(),
        "stall": objection if context.verifier else "",
        "tool_error": any(not item["ok"] for item in observations if not gives_answer(item["call"]["tool"])),
        "calls": chosen.calls,
        "filters": chosen.records,
        "rounds": [record],
    }


def _in_order(state: SeekerState) -> list[Observation]:
    """Return the observations of the round in the order of their calls, however these raced."""
    order = {call["id"]: position for position, call in enumerate(state["pending"])}
    return sorted(state["observations"], key=lambda item: order.get(item["call"]["id"], 0))


def _message(observation: Observation, board: Board, state: SeekerState) -> ToolMessage:
    """Return an observation as the transcript shows it."""
    prompts, call = PROMPTS[state["language"]], observation["call"]
    text = "\n".join(filter(None, [board.show(observation), board.recalled(observation)]))
    if pruned := board.left_out(observation):
        text += "\n" + prompts.left_out.format(titles="; ".join(pruned))
    if not gives_answer(call["tool"]):
        text = prompts.results.format(results=text or prompts.no_results)
    followed = call["arguments"].get("leads")
    return ToolMessage(
        text,
        tool_call_id=call["id"],
        name=call["tool"],
        id=f"{call['id']}-result",
        artifact={"leads": followed} if followed else None,
    )


class Board:
    """What is shown of a round, within its budget of tokens.

    Args:
        state: Before the round is shown.
        context: Knobs of the run.
        pruned: Results that the result filter left out.
        again: A distilled result that the round needs.
    """

    def __init__(
        self,
        state: SeekerState,
        context: Context,
        *,
        pruned: Sequence[Source] = (),
        again: Recalled | None = None,
    ) -> None:
        self._prompts = PROMPTS[state["language"]]
        self._known = dict(state.get("sources", {}))
        self._pruned = list(pruned)
        self._again = again
        self._left = context.max_observation_tokens - (estimate_tokens(again.text) if again else 0)
        self.numbers = list(state.get("numbers", []))
        self.added: dict[str, Source] = {}
        self.shown: dict[str, int] = {}
        hidden = hidden_numbers(state, context)
        self._hidden = {self.numbers[n - 1] for n in hidden if 0 < n <= len(self.numbers)}

    def show(self, observation: Observation) -> str:
        """Return the text of one observation; sources that do not fit any more are left out."""
        tool, text = observation["call"]["tool"], observation["text"]
        head = [text] if text and tool != "document_qa" else []
        lines = [self._line(source, reads=tool == "crawl") for source in observation["sources"]]
        return "\n".join([*head, *filter(None, lines)])

    def recalled(self, observation: Observation) -> str:
        """Return the distilled result that a search of the round needs, after the first search."""
        if observation["call"]["tool"] != "web_search" or self._again is None:
            return ""
        again, self._again = self._again, None
        return again.text

    def left_out(self, observation: Observation) -> list[str]:
        """Return number and title of each result that the filter pruned, after the first search of the round."""
        if observation["call"]["tool"] != "web_search":
            return []
        pruned, self._pruned = self._pruned, []
        for source in pruned:
            self._add({**source, "passages": [], "read": False})
        return [f"[{self._number(source['key'])}] {clip(source['title'], tokens=20)}" for source in pruned]

    def _line(self, source: Source, *, reads: bool) -> str:
        """Return what is shown of a source.

        Args:
            source: With what was found in it now.
            reads: Whether it was read, rather than found.
        """
        known = self._known.get(source["key"])
        fresh = [
            text for text in source["passages"] if known is None or not _contains(known["passages"], text)
        ]
        hidden = known is not None and not fresh and source["key"] in self._hidden
        if hidden and reads:
            fresh = source["passages"]  # it was distilled, and is asked for again
        elif hidden and self._again is not None and self._number(source["key"]) == self._again.number:
            return ""  # its text follows
        if known is not None and not fresh:
            return self._pointer(source, self._prompts.known_in_notes if hidden else self._prompts.see_above)
        return self._text(source, " ".join(fresh), reads=reads)

    def _pointer(self, source: Source, where: str) -> str:
        """Return the line of a source whose text the model sees already."""
        self.added = merge_sources(self.added, {source["key"]: {**source, "passages": []}})
        return f"[{self._number(source['key'])}] {clip(source['title'], tokens=40)} {where}"

    def _text(self, source: Source, fresh: str, *, reads: bool) -> str:
        """Return the line of a source with as much of `fresh` as fits; empty where hardly anything does."""
        if self._left < _MIN_SHOWN_TOKENS:
            return ""
        key, title = source["key"], clip(source["title"], tokens=40)
        text = clip(fresh, tokens=self._left)
        tokens = estimate_tokens(title) + estimate_tokens(text)
        self._left -= tokens
        self.shown[key] = self.shown.get(key, 0) + tokens
        self._add(
            {
                **source,
                "passages": [text] if text else [],
                "read": source["read"] and (text == fresh or reads),
            }
        )
        return f"[{self._number(key)}] {title}: {as_body(text)}"

    def _add(self, source: Source) -> None:
        self._known = merge_sources(self._known, {source["key"]: source})
        self.added = merge_sources(self.added, {source["key"]: source})

    def _number(self, key: str) -> int:
        self.numbers = merge_unique(self.numbers, [key])
        return self.numbers.index(key) + 1


def _contains(passages: Sequence[str], text: str) -> bool:
    return any(text in passage for passage in passages)
