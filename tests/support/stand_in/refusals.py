"""Checks: what servers refuse, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from support.stand_in.exchange import Chat, Check, Http, Json, error

__all__ = (
    "alternate",
    "contents",
    "pydantic_detail",
    "refuses_field",
    "refuses_if",
    "roles",
    "schema_words",
    "tool_calls",
    "turns_away",
)


def refuses_if(condition: Callable[[Chat], bool], refusal: Http) -> Check:
    """Refuse the requests that meet a condition."""
    return lambda chat: refusal if condition(chat) else None


def refuses_field(name: str, refusal: Http | None = None) -> Check:
    """Refuse requests that set a field of the body."""
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    refusal = refusal or error(400, message, param=name, code="unsupported_parameter")
    return refuses_if(lambda chat: chat.has(name), refusal)


def pydantic_detail(known: Sequence[str], status: int = 422) -> Check:
    """Refuse fields that are not `known`, with the list of faults that pydantic makes."""

    def check(chat: Chat) -> Http | None:
        extra = [name for name, value in chat.body.items() if name not in known and value is not None]
        if not extra:
            return None
        faults = [
            {
                "type": "extra_forbidden",
                "loc": ["body", name],
                "msg": "Extra inputs are not permitted",
                "input": chat.body[name],
            }
            for name in extra
        ]
        return Http(status=status, body={"detail": faults})

    return check


def turns_away(times: int, refusal: Http) -> Check:
    """Refuse the first requests, whatever they are."""
    return lambda chat: refusal if chat.number < times else None


def schema_words(chat: Chat) -> set[str]:
    """Return the key words of the schema of a guided request."""
    if chat.guided != "json_schema":
        return set()
    return set(_keys(chat.body["response_format"]["json_schema"].get("schema") or {}))


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [key for name, inner in value.items() for key in (name, *_keys(inner))]
    return [key for inner in value for key in _keys(inner)] if isinstance(value, list) else []


def roles(chat: Chat) -> list[str]:
    """Return the roles of the messages."""
    return [str(message.get("role")) for message in chat.messages]


def alternate(chat: Chat) -> bool:
    """Whether user and assistant take turns, beginning with the user, after at most one system message."""
    turns = [role for role in roles(chat) if role != "system"]
    return all(role == ("user", "assistant")[index % 2] for index, role in enumerate(turns))


def tool_calls(chat: Chat) -> list[Json]:
    """Return all calls in the assistant's messages."""
    return [call for message in chat.messages for call in message.get("tool_calls") or ()]


def contents(chat: Chat) -> list[object]:
    """Return the contents of all messages as they came."""
    return [message.get("content") for message in chat.messages]
