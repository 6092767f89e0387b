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
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.nodes.seeker.compaction import hidden_numbers
from agentinfer_lg.nodes.seeker.no_progress import observe_round
from agentinfer_lg.nodes.seeker.recall import Recalled, auto_recall
from agentinfer_lg.nodes.seeker.result_filter import choose_results
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import (
    Observation,
    Proposal,
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
    context = runtime.context or Context()
    prompts = PROMPTS[state["language"]]
    order = {call["id"]: position for position, call in enumerate(state["pending"])}
    observations = sorted(state["observations"], key=lambda item: order.get(item["call"]["id"], 0))
    chosen = await choose_results(observations, state, context, resources)
    again = await auto_recall(chosen.observations, state, context)
    board = _Board(state, context, chosen.pruned, again)
    messages = []
    for observation in chosen.observations:
        text = "\n".join(filter(None, [board.show(observation), board.recalled(observation)]))
        if pruned := board.left_out(observation):
            text += "\n" + prompts.left_out.format(titles="; ".join(pruned))
        name = observation["call"]["tool"]
        content = text if name == "finish" else prompts.results.format(results=text or prompts.no_results)
        call_id = observation["call"]["id"]
        leads = observation["call"]["arguments"].get("leads")
        messages.append(
            ToolMessage(
                content,
                tool_call_id=call_id,
                name=name,
                id=f"{call_id}-result",
                artifact={"leads": leads} if leads else None,
            )
        )
    verifier, stall = observe_round(state, context, observations)
    proposal = _proposal(observations)
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
        "stall": stall if context.verifier else "",
        "tool_error": any(not item["ok"] for item in observations if item["call"]["tool"] != "finish"),
        "calls": chosen.calls,
        "filters": chosen.records,
        "rounds": [record],
    }


class _Board:
    """What is shown of a round, within its budget of tokens."""

    def __init__(
        self, state: SeekerState, context: Context, pruned: Sequence[Source], again: Recalled | None
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
        lines = (
            [observation["text"]]
            if observation["text"] and observation["call"]["tool"] != "document_qa"
            else []
        )
        for source in observation["sources"]:
            line = self._line(source, observation_reads=observation["call"]["tool"] == "crawl")
            if line:
                lines.append(line)
        return "\n".join(lines)

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
        titles = []
        for source in pruned:
            bare: Source = {**source, "passages": [], "read": False}
            self._known = merge_sources(self._known, {source["key"]: bare})
            self.added = merge_sources(self.added, {source["key"]: bare})
            titles.append(f"[{self._number(source['key'])}] {clip(source['title'], tokens=20)}")
        return titles

    def _line(self, source: Source, *, observation_reads: bool) -> str:
        known = self._known.get(source["key"])
        fresh = [
            text for text in source["passages"] if known is None or not _contains(known["passages"], text)
        ]
        title = clip(source["title"], tokens=40)
        hidden = known is not None and not fresh and source["key"] in self._hidden
        if hidden and observation_reads:
            fresh = source["passages"]  # it was distilled, and is asked for again
        elif hidden and self._again is not None and self._number(source["key"]) == self._again.number:
            return ""  # its text follows
        if known is not None and not fresh:
            self.added = merge_sources(self.added, {source["key"]: {**source, "passages": []}})
            where = self._prompts.known_in_notes if hidden else self._prompts.see_above
            return f"[{self._number(source['key'])}] {title} {where}"
        if self._left < _MIN_SHOWN_TOKENS:
            return ""
        text = clip(" ".join(fresh), tokens=self._left)
        self._left -= estimate_tokens(title) + estimate_tokens(text)
        whole = text == " ".join(fresh)
        read = source["read"] and (whole or observation_reads)
        shown: Source = {**source, "passages": [text] if text else [], "read": read}
        self.shown[source["key"]] = (
            self.shown.get(source["key"], 0) + estimate_tokens(title) + estimate_tokens(text)
        )
        self._known = merge_sources(self._known, {source["key"]: shown})
        self.added = merge_sources(self.added, {source["key"]: shown})
        return f"[{self._number(source['key'])}] {title}: {as_body(text)}"

    def _number(self, key: str) -> int:
        self.numbers = merge_unique(self.numbers, [key])
        return self.numbers.index(key) + 1


def _contains(passages: list[str], text: str) -> bool:
    return any(text in passage for passage in passages)


def _proposal(observations: list[Observation]) -> Proposal:
    for item in observations:
        if item["call"]["tool"] == "finish":
            arguments = item["call"]["arguments"]
            return Proposal(
                answer=str(arguments.get("answer", "")),
                sources=list(arguments.get("sources", [])),
                accepted=item["ok"],
            )
    return Proposal(answer="", sources=[], accepted=False)
