"""What a stand-in server receives and what it sends back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from support.fake_openai import render_prompt

__all__ = ("Change", "Chat", "Check", "Frames", "Http", "Json", "Listing", "count_tokens", "error")

Json = dict[str, Any]  # Any: JSON


def count_tokens(text: str) -> int:
    """Count as servers of this kind do on average: four characters each."""
    return len(text) // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One chat request."""

    number: int
    """How many came before."""
    path: str
    """With its query string."""
    body: Json
    headers: Mapping[str, str]
    """With names in lower case."""

    @property
    def messages(self) -> list[Json]:
        """The messages."""
        return list(self.body.get("messages") or ())

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return count_tokens(render_prompt(self.body))

    @property
    def limit(self) -> int | None:
        """Most tokens to write, where the request says."""
        value = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        return None if value is None else int(value)

    def has(self, name: str) -> bool:
        """Whether a field is set."""
        return self.body.get(name) is not None

    @property
    def guided(self) -> str:
        """Type of the response format, empty where none is asked for."""
        kind = (self.body.get("response_format") or {}).get("type", "")
        return "" if kind == "text" else str(kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """One HTTP answer."""

    status: int = 200
    body: object = ""
    """Bytes and text are sent as they are, anything else as JSON."""
    content_type: str = "application/json"
    headers: Mapping[str, str] = ()  # type: ignore[assignment]
    seconds: float = 0.0
    """Time before the first byte."""
    sent: Literal["whole", "in pieces", "cut", "reset", "and closed"] = "whole"

    @property
    def content(self) -> bytes:
        """The body as bytes."""
        if isinstance(self.body, bytes):
            return self.body
        return (
            self.body if isinstance(self.body, str) else json.dumps(self.body, ensure_ascii=False)
        ).encode()


Check = Callable[[Chat], "Http | None"]
"""Refuses a request, or lets it pass."""
Change = Callable[[Chat, Json], "Json | Http"]
"""Changes a good completion."""
Frames = Callable[[Chat, list[str]], list[str]]
"""Changes the events of a stream."""
Listing = Callable[[int], Http]
"""Answers the n-th request for the list of models."""


def error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: object = None,
    headers: Mapping[str, str] | None = None,
) -> Http:
    """Return a refusal in the form of OpenAI's own service."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Http(status=status, body=body, headers=headers or {})
