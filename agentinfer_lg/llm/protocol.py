"""The agent's actions, in the two forms that models speak.

Native: the server parses tool calls (`tool_definitions`). JSON: one constrained JSON object per step,
`{"thought": ..., "action": "search", "query": ...}` or, once there are results, `{"known": ..., "missing": ...,
"action": "answer"}`, so that a model without tool calling, however small, drives the
loop too. Either way a step becomes the same `Step`, and everything in it is checked here before it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentinfer_lg.llm.grammar import prose
from agentinfer_lg.text import well_formed

ToolName = Literal["web_search", "crawl", "document_qa", "recall", "finish"]
"""Tools as a model, the transcript and the records know them."""
ActionName = Literal[ToolName, "read_answer"]
"""What an agent can do: `read_answer` reads the answer out of the results, where `finish` brings one along."""

MAX_QUERIES = 5
"""Most queries or pages of one call."""
_MAX_TEXT = 2000
_MAX_NOTE_CHARS = 200
_NO_ESCAPES = r'"\\\n'
"""Characters that a JSON string cannot have as they are."""
_NOTES = ("thought", "known", "missing")
_KEYS = "|".join(
    (*_NOTES, "action", "query", "queries", "source", "url", "question", "answer", "name", "function")
)
_BEGIN = re.compile(
    rf"""\{{\s{{0,20}}["'“]?(?:{_KEYS})["'”]?\s{{0,20}}:|["'“](?:{"|".join((*_NOTES, "action"))})["'”]\s{{0,20}}:"""
)
"""Where a step begins, perhaps without its brace."""
_MAX_REPAIR = 8000
_MARKS = re.compile(r"""[{}"'“”`(]""")
_WEIGHT_OF_BRACE = 12
_MAX_WEIGHT = 200
_NOTE_WORDS = 32
_QUERY_WORDS = 20
_ABOUT_WORDS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One checked action.

    `arguments` by tool: web_search `queries: list[str]`; crawl `sources: list[int], urls: list[str]`;
    document_qa `source: int, question: str`; recall `ticket: int, query: str`; finish `answer: str, sources: list[int]`;
    read_answer `sources: list[int]`, as the model named them, for the transcript only.
    """

    tool: ActionName
    arguments: dict[str, Any]  # Any: the shapes above


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One Think step: what the model thought and what it wants done."""

    thought: str = ""
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The JSON actions that make sense now; only these are in the grammar.

    A small model cannot be trusted to choose among actions that cannot work, and it repeats what it did before.

    Raises:
        ValueError: There is nothing to choose.
    """

    search: bool
    """Whether searching may bring something: not right after a search that brought nothing new."""
    read: tuple[int, ...] = ()
    """Numbers of results that were not read in full."""
    answer: bool = False
    """Whether to answer; not right after an answer was refused."""
    recall: tuple[int, ...] = ()
    """Numbers of results that were distilled."""
    results: bool = False
    """Whether there are results to speak of."""

    def __post_init__(self) -> None:
        if not (self.search or self.read or self.recall or self.answer):
            msg = "a step needs at least one possible action"
            raise ValueError(msg)

    @property
    def notes(self) -> tuple[str, ...]:
        """Names of the texts before the action: what the results tell and lack, once there are results."""
        return ("known", "missing") if self.results else ("thought",)


READ_ANSWER = Action(tool="read_answer", arguments={"sources": []})
"""Read the answer out of the results."""


def gives_answer(tool: str) -> bool:
    """Whether an action by this name ends the search if its answer is accepted."""
    return tool in ("finish", "read_answer")


def as_tool_call(action: Action) -> tuple[ToolName, dict[str, Any]]:
    """Return name and arguments under which transcript, records and events show an action.

    No model is offered `read_answer`. It stands there as a `finish` without an answer, which is how a model asks for it.
    """
    if action.tool == "read_answer":
        return "finish", {"answer": "", **action.arguments}
    return action.tool, action.arguments


def _tool(
    name: ToolName, description: str, properties: Mapping[str, object], required: Sequence[str]
) -> dict[str, object]:
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


_TOOLS: tuple[dict[str, object], ...] = (
    _tool(
        "web_search",
        "Search documents. Several queries are searched at once; results are numbered.",
        {"queries": {"type": "array", "items": {"type": "string"}, "maxItems": MAX_QUERIES}},
        ["queries"],
    ),
    _tool(
        "crawl",
        "Read results by their number, or pages by URL.",
        {
            "sources": {"type": "array", "items": {"type": "integer"}, "maxItems": MAX_QUERIES},
            "urls": {"type": "array", "items": {"type": "string"}, "maxItems": MAX_QUERIES},
        },
        [],
    ),
    _tool(
        "document_qa",
        "Ask a question about one long document, by its number.",
        {"source": {"type": "integer"}, "question": {"type": "string"}},
        ["source", "question"],
    ),
    _tool(
        "finish",
        "Give the answer and the numbers of the sources that prove it.",
        {"answer": {"type": "string"}, "sources": {"type": "array", "items": {"type": "integer"}}},
        ["answer", "sources"],
    ),
)
_RECALL = _tool(
    "recall",
    "Get back the exact text of a result that is only in the notes, by its number; a query chooses the part.",
    {"ticket": {"type": "integer"}, "query": {"type": "string"}},
    ["ticket"],
)


def tool_definitions(*, recall: bool) -> tuple[dict[str, object], ...]:
    """Return the OpenAI tool definitions.

    Args:
        recall: With the tool for distilled results.
    """
    return (*_TOOLS[:-1], _RECALL, _TOOLS[-1]) if recall else _TOOLS


def action_schema(choices: Choices) -> dict[str, object]:
    """Return the JSON schema of one step, for servers that constrain by schema."""
    options = []
    if choices.search:
        options.append(
            _option("search", choices, {"query": {"type": "string", "minLength": 3, "maxLength": 120}})
        )
    if choices.read:
        options.append(_option("read", choices, {"source": {"enum": list(choices.read)}}))
    if choices.recall:
        about = {"type": "string", "minLength": 3, "maxLength": 80}
        options.append(_option("recall", choices, {"source": {"enum": list(choices.recall)}, "about": about}))
    if choices.answer:
        options.append(_option("answer", choices, {}))
    return options[0] if len(options) == 1 else {"anyOf": options}


def action_regex(choices: Choices) -> str:
    """Return the same as a regular expression of the whole output.

    Where a server takes it, it is the better constraint: JSON schemas leave white space free, and small models fill it.
    """
    endings = []
    if choices.search:
        endings.append(rf'search", "query": "{prose(_NO_ESCAPES, words=_QUERY_WORDS)}"')
    if choices.read:
        endings.append(rf'read", "source": ({"|".join(map(str, choices.read))})')
    if choices.recall:
        numbers = "|".join(map(str, choices.recall))
        about = prose(_NO_ESCAPES, words=_ABOUT_WORDS)
        endings.append(rf'recall", "source": ({numbers}), "about": "{about}"')
    if choices.answer:
        endings.append('answer"')
    note = prose(_NO_ESCAPES, words=_NOTE_WORDS)
    notes = "".join(rf'"{name}": "{note}", ' for name in choices.notes)
    return rf'\{{{notes}"action": "({"|".join(endings)})\}}'


def _option(action: str, choices: Choices, properties: Mapping[str, object]) -> dict[str, object]:
    note = {"type": "string", "minLength": 1, "maxLength": _MAX_NOTE_CHARS}
    fields = {**dict.fromkeys(choices.notes, note), "action": {"const": action}, **properties}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def parse_step(text: str) -> Step:
    """Read a JSON step from `text`; never raises.

    Tolerates prose and code fences around the object, a truncated end, JSON that is nearly right, and a tool call in a
    form that the server did not recognise (`{"name": ..., "arguments": {...}}`). An object that cannot be read gives a
    step without actions whose thought is the text itself.
    """
    for objects in (_objects, _repaired):
        for value in objects(text):
            action = _json_action(value) or _written_call(value)
            notes = [_clean(value[name]) for name in _NOTES if name in value]
            if action is not None or notes:
                thought = " ".join(note for note in notes if note)
                return Step(thought=thought, actions=(action,) if action else ())
    return Step(thought=_clean(text))


def read_tool_call(name: str, arguments: Mapping[str, object]) -> Action | None:
    """Check a native tool call; None if the tool does not exist or the arguments make no sense.

    A `finish` without an answer asks to read it out of the results.
    """
    match name:
        case "web_search":
            queries = _strings(arguments.get("queries", arguments.get("query")))
            return Action(tool="web_search", arguments={"queries": queries}) if queries else None
        case "crawl":
            sources, urls = _numbers(arguments.get("sources")), _strings(arguments.get("urls"))
            return (
                Action(tool="crawl", arguments={"sources": sources, "urls": urls})
                if sources or urls
                else None
            )
        case "document_qa":
            numbers, question = _numbers(arguments.get("source")), _clean(arguments.get("question"))
            if not numbers or not question:
                return None
            return Action(tool="document_qa", arguments={"source": numbers[0], "question": question})
        case "recall":
            numbers = _numbers(arguments.get("ticket", arguments.get("source")))
            query = _clean(arguments.get("query", arguments.get("about")), limit=500)
            return (
                Action(tool="recall", arguments={"ticket": numbers[0], "query": query}) if numbers else None
            )
        case "finish":
            answer = _clean(arguments.get("answer"), limit=20_000)
            sources = _numbers(arguments.get("sources"))
            if not answer:
                return Action(tool="read_answer", arguments={"sources": sources})
            return Action(tool="finish", arguments={"answer": answer, "sources": sources})
        case _:
            return None


def _json_action(value: Mapping[str, object]) -> Action | None:
    match value.get("action"):
        case "search":
            return read_tool_call("web_search", {"queries": value.get("query", value.get("queries"))})
        case "read":
            return read_tool_call("crawl", {"sources": value.get("source"), "urls": value.get("url")})
        case "ask":
            return read_tool_call("document_qa", value)
        case "recall":
            return read_tool_call("recall", value)
        case "answer":
            return read_tool_call("finish", {"answer": value.get("answer", "")})
        case _:
            return None


def _written_call(value: Mapping[str, object]) -> Action | None:
    """Read a tool call that the model wrote as text, as models do that were not trained on the server's format."""
    inner = value.get("function")
    call = inner if isinstance(inner, dict) else value
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters"))
    return read_tool_call(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in `text` that are whole, outermost first, at most three."""
    decoder = json.JSONDecoder(strict=False)
    found: list[dict[str, Any]] = []
    position = text.find("{")
    attempts = 0
    while position >= 0 and len(found) < 3 and attempts < 20:
        attempts += 1
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position = text.find("{", position + 1)
            continue
        if isinstance(value, dict):
            found.append(value)
        position = text.find("{", end)
    return found


def _repaired(text: str) -> list[dict[str, Any]]:
    """Return the objects in `text` that are nearly JSON: cut off, with other quotes, without quotes, with Python's words."""
    from json_repair import repair_json  # here, because few replies need it

    begin = _BEGIN.search(text)
    start = begin.start() if begin else text.find("{")
    if start < 0:
        return []
    broken = _bounded(text[start : start + _MAX_REPAIR])
    try:
        value: object = repair_json(broken if broken.startswith("{") else "{" + broken, return_objects=True)
    except (
        Exception
    ):  # a library that guesses at any text can fail in any way, and a step is never worth a crash
        return []
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, dict)][:3]


def _bounded(text: str) -> str:
    """Cut `text` where a repair would take long: its time grows with the square of quotes and brackets."""
    weight = 0
    for mark in _MARKS.finditer(text):
        weight += _WEIGHT_OF_BRACE if mark[0] == "{" else 1
        if weight > _MAX_WEIGHT:
            return text[: mark.start()]
    return text


def _clean(value: object, *, limit: int = _MAX_TEXT) -> str:
    if not isinstance(value, str):
        return ""
    return well_formed(" ".join(value.split())[:limit])


def _strings(value: object) -> list[str]:
    items = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    cleaned = [_clean(item, limit=500) for item in items]
    return list(dict.fromkeys(item for item in cleaned if item))[:MAX_QUERIES]


def _numbers(value: object) -> list[int]:
    items = value if isinstance(value, list) else [value]
    numbers = []
    for item in items:
        if isinstance(item, bool):
            continue
        if isinstance(item, str) and (match := re.fullmatch(r"\D{0,3}(\d{1,4})\D{0,2}", item.strip())):
            numbers.append(int(match[1]))
        elif isinstance(item, int) and 0 < item < 10_000:
            numbers.append(item)
    return list(dict.fromkeys(numbers))[:20]
