"""Recorded airline conversations of tau-bench: values of old tool results that a later tool call passes on.

A probe asks for an argument of that call. Values that a user or the agent had written down before are left out, since
those messages are never distilled; so are values of which the results hold several that fit the description.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from agentinfer_lg.compression.view import message_tokens
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.compression.granularity.session import DetailSession, Probe, contains, last_covered
from agentinfer_lg.prompts import PROMPTS

Part = Literal["tune", "report"]

_FILE = Path("tau-bench") / "gpt-4o-airline.json"
_TASK = "Help the customer of the airline: look up what is needed, and make the changes that are asked for."
_MAX_TOKENS = 6000
_LEAST_LENGTH = 6
_Json = Any  # JSON values as they were recorded


@dataclass(frozen=True, slots=True)
class _Fact:
    """A value of a tool result and the question that it answers."""

    kind: str
    question: str
    value: str
    number: int


def airline_sessions(
    data: Path | None = None, *, part: Part = "report", keep_rounds: int = 2, max_tokens: int = _MAX_TOKENS
) -> list[DetailSession]:
    """Return one session per recorded conversation that has a probe, of each task the first trial that has one.

    Args:
        data: Folder of recorded data; default: the environment variable AGENTINFER_DATA.
        part: Which half of the tasks; prompts and limits are chosen on `tune`.
        keep_rounds: Last rounds before the call whose results stay whole; nothing is asked about them.
        max_tokens: Longer conversations (estimated, up to the call) are left out.

    Raises:
        UserInputError: The recordings are not there, or cannot be read.
    """
    found: dict[str, DetailSession] = {}
    for entry in _recorded(data):
        task = str(entry.get("task_id"))
        is_tune = hashlib.sha256(task.encode()).digest()[0] % 2 == 0
        if task in found or is_tune != (part == "tune"):
            continue
        session = _session(task, entry["traj"], keep_rounds=keep_rounds, max_tokens=max_tokens)
        if session is not None:
            found[task] = session
    return list(found.values())


def _recorded(data: Path | None) -> list[Mapping[str, _Json]]:
    folder = data or os.environ.get("AGENTINFER_DATA")
    if not folder:
        msg = "Say where the recorded data is: --data FOLDER, or the environment variable AGENTINFER_DATA."
        raise UserInputError(msg)
    file = Path(folder) / _FILE
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [entry for entry in entries if isinstance(entry["traj"], list)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{file} cannot be read as conversations of tau-bench ({type(error).__name__}: {error})."
        raise UserInputError(msg) from error


def _session(
    task: str, recorded: Sequence[Mapping[str, _Json]], *, keep_rounds: int, max_tokens: int
) -> DetailSession | None:
    """Cut the conversation before the last call that passes on a value which only an old result holds."""
    turns = [turn for turn in recorded if turn.get("role") != "system"]
    for end in range(len(turns) - 1, 0, -1):
        arguments = set(_values(_arguments(turns[end])))
        if not arguments:
            continue
        messages = _messages(turns[:end])
        upto = last_covered(messages, keep_rounds=keep_rounds)
        if not upto or message_tokens(messages) > max_tokens:
            continue
        probes = _probes(messages, upto, arguments)
        if probes:
            return DetailSession(
                id=f"airline-{task}",
                set="airline",
                language="en",
                task=_TASK,
                messages=(HumanMessage(PROMPTS["en"].task.format(question=_TASK), id="task"), *messages),
                upto=upto,
                probes=tuple(probes),
            )
    return None


def _messages(turns: Sequence[Mapping[str, _Json]]) -> list[AnyMessage]:
    """The conversation as a transcript; each tool result has a number."""
    messages: list[AnyMessage] = []
    number, title = 0, ""
    for position, turn in enumerate(turns):
        text = str(turn.get("content") or "")
        if turn["role"] == "user":
            messages.append(HumanMessage(f"Customer: {text}", id=f"m{position}"))
        elif turn["role"] == "tool":
            number += 1
            content = f"[{number}] {title}: {text}"
            messages.append(ToolMessage(content, tool_call_id=f"call-{number}", id=f"m{position}"))
        else:
            call = next(iter(turn.get("tool_calls") or ()), None)
            title = _title(call) if call else ""
            thought = f"{text} {title}".strip()
            messages.append(AIMessage(thought, id=f"m{position}"))
    return messages


def _title(call: Mapping[str, _Json]) -> str:
    arguments = _loaded(call["function"]["arguments"])
    short = [str(v) for v in arguments.values() if isinstance(v, str)] if isinstance(arguments, dict) else []
    return " ".join([str(call["function"]["name"]), *short])[:120].replace(": ", " ")


def _arguments(turn: Mapping[str, _Json]) -> list[_Json]:
    return [_loaded(call["function"]["arguments"]) for call in turn.get("tool_calls") or ()]


def _loaded(text: _Json) -> _Json:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return None


def _values(value: _Json) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _values(each)
    elif isinstance(value, str) and len(value) >= _LEAST_LENGTH and any(char.isdigit() for char in value):
        yield value


def _probes(messages: Sequence[AnyMessage], upto: str, arguments: set[str]) -> list[Probe]:
    steps = "\n".join(str(message.content) for message in messages if not isinstance(message, ToolMessage))
    old, recent = _results(messages, upto)
    facts = list(dict.fromkeys(fact for number, text in old for fact in _facts(number, _loaded(text))))
    answers: dict[str, set[str]] = {}
    for fact in facts:
        answers.setdefault(fact.question, set()).add(fact.value)
    probes: dict[str, Probe] = {}
    for fact in facts:
        certain = len(answers[fact.question]) == 1
        kept = contains(steps, fact.value) or contains(recent, fact.value)
        if certain and fact.value in arguments and not kept and fact.value not in probes:
            rivals = {e.value for e in facts if e.kind == fact.kind and e.value != fact.value}
            probes[fact.value] = Probe(
                kind=fact.kind,
                question=fact.question,
                answer=fact.value,
                number=fact.number,
                also=_spelled(fact.value),
                rivals=tuple(sorted(r for r in rivals if not contains(fact.question, r))),
            )
    return list(probes.values())


def _results(messages: Sequence[AnyMessage], upto: str) -> tuple[list[tuple[int, str]], str]:
    """Split the results into old ones, with their numbers, and the text of those that stay whole."""
    old: list[tuple[int, str]] = []
    recent: list[str] = []
    target_is_old = True
    for message in messages:
        if isinstance(message, ToolMessage):
            head, _, text = str(message.content).partition(": ")
            if target_is_old:
                old.append((int(head[1 : head.index("]")]), text))
            else:
                recent.append(text)
        target_is_old = target_is_old and message.id != upto
    return old, "\n".join(recent)


def _facts(number: int, result: _Json) -> Iterator[_Fact]:
    """Yield what a result of `get_user_details` or `get_reservation_details` says, as questions and values."""
    if not isinstance(result, dict):
        return
    reservation = result.get("reservation_id")
    for flight in result.get("flights") or ():
        route = f"from {flight.get('origin')} to {flight.get('destination')} in reservation {reservation}"
        on = f"on {flight.get('date')} {route}"
        yield _Fact(
            "flight_number",
            f"What is the flight number of the flight {on}?",
            str(flight.get("flight_number")),
            number,
        )
        yield _Fact("date", f"What is the date of the flight {route}?", str(flight.get("date")), number)
    for payment in result.get("payment_history") or ():
        paid = f"that paid for reservation {reservation}"
        yield _Fact(
            "payment_id",
            f"What is the id of the payment method {paid}?",
            str(payment.get("payment_id")),
            number,
        )
    methods = result.get("payment_methods")
    for method in methods.values() if isinstance(methods, dict) else ():
        yield _Fact("payment_id", _method_question(method), str(method.get("id")), number)
    people = [*(result.get("saved_passengers") or ()), *(result.get("passengers") or ())]
    if isinstance(result.get("name"), dict):
        people.append({**result["name"], "dob": result.get("dob")})
    for person in people:
        name = f"{person.get('first_name')} {person.get('last_name')}"
        yield _Fact(
            "date of birth", f"What is the date of birth (dob) of {name}?", str(person.get("dob")), number
        )


def _spelled(value: str) -> tuple[str, ...]:
    """The ways in which people write a date; nothing for other values."""
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return ()
    month = f"{day:%B}"
    return (f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}")


def _method_question(method: Mapping[str, _Json]) -> str:
    """Ask for a payment method by what a customer knows of it."""
    source = str(method.get("source")).replace("_", " ")
    by = (
        f"{method.get('brand')} {source} that ends in {method.get('last_four')}"
        if "last_four" in method
        else f"{source} with the amount {method.get('amount')}"
    )
    return f"What is the id of the customer's {by}?"
