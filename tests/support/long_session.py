"""A long session against the scripted endpoint: one new document per round, until the script says to stop.

Every document tells a name, a year and a code, so that a test sees what notes keep and what must be recalled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from support.fake_openai import Brain, FakeOpenAI, Recorded, Reply, constraint, render_prompt

__all__ = (
    "NOTES",
    "QUESTION",
    "LongSession",
    "check_extends",
    "code",
    "fact",
    "honest",
    "offered",
    "step",
    "superseding",
    "thinks",
    "write_lamps",
)

QUESTION = "In which year was the easternmost lamp lit?"
NOTES = "Notes on results"
_WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
]


def fact(number: int) -> str:
    """The sentence of document `number` that a good distiller keeps."""
    which = ", the easternmost," if number == 2 else ""
    return f"{_name(number)}{which} was lit in {1500 + number} by the keeper Ada{number} Winter."


def code(number: int) -> str:
    """What only the original of document `number` tells, after its facts."""
    return f"QX-{number:04d}-Z"


def _name(number: int) -> str:
    return "Zanzibar" if number == 2 else f"Lamp{number:04d}"


def write_lamps(folder: Path, count: int, *, filler: int = 8, twins: bool = False) -> Path:
    """Write `count` documents, each found by its name alone.

    Args:
        folder: Made if it does not exist.
        count: Documents 0 to `count` - 1.
        filler: Sentences of no importance in each; about a dozen tokens per sentence.
        twins: With a second document of the same name each, which says nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        words = _WORDS[number % len(_WORDS)]
        rest = " ".join(
            f"Row {row} of the {words} oil store book is about trimming." for row in range(filler)
        )
        text = f"# {_name(number)}\n\n{fact(number)} {rest} Its inventory mark is {code(number)} now.\n"
        (folder / f"lamp{number:04d}.md").write_text(text)
        if twins:
            text = f"# {_name(number)} again\n\nNothing is said of {_name(number)} here.\n"
            (folder / f"lamp{number:04d}-again.md").write_text(text)
    # The first search also asks the question itself: this is all that it finds.
    decoy = f"# Questions\n\n{QUESTION} In which year was the easternmost lamp lit, the easternmost lamp?\n"
    (folder / "questions.md").write_text(decoy)
    return folder


Distiller = Callable[[dict[str, Any]], Reply]


def honest(request: dict[str, Any]) -> Reply:
    """Keep the first sentence of each result."""
    lines = re.findall(r"^\[(\d+)\] [^:\n]+: ([^.\n]+\.)", render_prompt(request), re.MULTILINE)
    return Reply(text="".join(f"[{number}] {sentence}\n" for number, sentence in lines), truncate=False)


@dataclass
class LongSession:
    """A brain that searches for document `turn` in each turn and answers when it is time.

    Attributes:
        turns: Turn that answers; with `after_notes` the earliest one.
        after_notes: Answer only so many turns after notes were first seen, whenever that is.
        steps: Other tools than a search in some turns: (tool, arguments).
        distill: Writes the notes.
        on_think: Called with turn and request before a Think step is answered; may block, or return another reply.
        answer: What is answered.
    """

    turns: int = 12
    after_notes: int | None = None
    steps: Mapping[int, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    distill: Distiller = honest
    on_think: Callable[[int, dict[str, Any]], Reply | None] | None = None
    others: Mapping[str, Callable[[dict[str, Any]], Reply]] = field(default_factory=dict)
    answer: str = ""
    brain: Brain = field(default_factory=Brain)
    first_notes: int | None = None

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        hints = request["vllm_xargs"]
        role, turn = hints["agent_role"], hints["agent_turn"]
        if role in self.others:
            return self.others[role](request)
        match role:
            case "plan":
                return Reply(text=json.dumps({"questions": [QUESTION]}))
            case "distill":
                return self.distill(request)
            case "think":
                reply = self.on_think(turn, request) if self.on_think else None
                return reply or self._think(turn, request)
            case _:
                return self.brain(request, index)

    def _think(self, turn: int, request: dict[str, Any]) -> Reply:
        if self.first_notes is None and NOTES in render_prompt(request):
            self.first_notes = turn
        if turn in self.steps:
            return step(request, turn, *self.steps[turn])
        seen = self.first_notes is not None and turn >= self.first_notes + (self.after_notes or 0)
        if turn >= self.turns and (self.after_notes is None or seen):
            return step(request, turn, "finish", {"answer": self.answer or fact(2), "sources": [1]})
        return step(request, turn, "web_search", {"queries": [_name(turn)]})


def step(request: dict[str, Any], turn: int, tool: str, arguments: dict[str, Any]) -> Reply:
    """Return a Think step in the form that the request asks for; thoughts of different turns share no words."""
    thought = " ".join(f"{word}{turn}" for word in _WORDS[:8])
    if request.get("tools"):
        return Reply(text=thought, tool_calls=((tool, arguments),))
    names = {"web_search": "search", "crawl": "read", "finish": "answer"}
    value: dict[str, Any] = {"thought": thought, "action": names.get(tool, tool)}
    if tool == "web_search":
        value["query"] = "; ".join(arguments["queries"])
    elif tool == "crawl":
        value["source"] = arguments["sources"][0]
    elif tool == "recall":
        value |= {"source": arguments["ticket"], "about": arguments.get("query", "")}
    return Reply(text=json.dumps(value))


def thinks(server: FakeOpenAI, *, model: str = "") -> list[Recorded]:
    """The Think requests in order of arrival, of one model or of both."""
    return [chat for chat in server.chats if chat.role == "think" and model in ("", chat.model)]


def superseding(server: FakeOpenAI) -> list[Recorded]:
    """The requests that say that they take the place of what the session had."""
    return [chat for chat in server.chats if (chat.body.get("vllm_xargs") or {}).get("agent_supersedes")]


def check_extends(chats: list[Recorded]) -> int:
    """Check that each prompt extends the one before it unless it supersedes it; return the number of pairs that do."""
    pairs = 0
    for before, after in pairwise(chats):
        assert after.body.get("tools") == before.body.get("tools"), "tools are part of the prompt"
        if after.body["vllm_xargs"]["agent_supersedes"]:
            continue
        earlier = before.body["messages"]
        assert after.body["messages"][: len(earlier)] == earlier
        pairs += 1
    return pairs


def offered(chat: Recorded) -> set[str]:
    """Actions that the constraint of a request lets through."""
    text = json.dumps(constraint(chat.body)).replace("\\", "")
    return set(re.findall(r'\b(?:search|read|answer|recall)(?=")', text))
