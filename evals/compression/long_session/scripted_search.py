"""An endpoint before an engine that chooses an agent's searches, and leaves everything else to agent and engine.

A small model ends early or goes in circles, so a session is never as long as a measurement needs it. Here the agent's
requests pass through a proxy. In those of Think steps it narrows the grammar to one action, the next search of a script:
what the model thinks is still its own, and the engine writes the search too. All other requests pass as they are. The
proxy notes what every request was for, when it was sent and answered, and what the engine counted.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from agentinfer_lg.errors import EngineError
from agentinfer_lg.evals.common.proxy import Incoming, Proxy

_ACTION = '"action": "('
_QUERY_CHARS = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One model call, as it passed through."""

    role: str
    turn: int
    supersedes: bool
    sent: float
    """Monotonic time in seconds."""
    done: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    messages: tuple[dict[str, Any], ...]  # Any: JSON
    """The prompt."""

    @property
    def seconds(self) -> float:
        """From its arrival to its answer."""
        return self.done - self.sent

    @property
    def hit_share(self) -> float:
        """Share of the prompt that was in the prefix cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class ScriptedSearchProxy(Proxy):
    """The proxy, on a port of this machine, as a context manager.

    Args:
        base_url: Of the engine, ending in `/v1`.
        searches: Query of each turn; after the last one they begin anew. Made by `searchable`.
    """

    def __init__(self, *, base_url: str, searches: Sequence[str]) -> None:
        super().__init__()
        self._searches = list(searches)
        self._root = base_url.removesuffix("/v1")
        self._lock = threading.Lock()
        self._exchanges: list[Exchange] = []
        self.problem = ""
        """Why a Think step could not be scripted, as a sentence; empty if all could."""

    @property
    def base_url(self) -> str:
        """Base URL for the agent."""
        return f"{self.address}/v1"

    @property
    def exchanges(self) -> list[Exchange]:
        """What has been answered so far, in the order in which it was sent."""
        with self._lock:
            return sorted(self._exchanges, key=lambda exchange: exchange.sent)

    def answer(self, incoming: Incoming) -> httpx.Response:
        """Steer Think steps, pass on everything, and write down what model calls were."""
        request: dict[str, Any] = json.loads(incoming.body) if incoming.is_chat else {}  # Any: JSON
        hints = request.get("vllm_xargs") or {}
        body = None
        if hints.get("agent_role") == "think":
            try:
                body = json.dumps(self._scripted(request, int(hints["agent_turn"]))).encode()
            except EngineError as error:
                self.problem = str(error)
        sent = time.monotonic()
        response = self.send(incoming, f"{self._root}{incoming.path}", body=body)
        if request and response.status_code == 200:
            self._note(request, hints, response.json().get("usage") or {}, sent)
        return response

    def _scripted(self, request: dict[str, Any], turn: int) -> dict[str, Any]:
        query = self._searches[turn % len(self._searches)]
        regex = (request.get("structured_outputs") or {}).get("regex", "")
        return {**request, "structured_outputs": {"regex": narrowed(regex, query)}}

    def _note(
        self, request: dict[str, Any], hints: dict[str, Any], usage: dict[str, Any], sent: float
    ) -> None:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        exchange = Exchange(
            role=str(hints.get("agent_role", "")),
            turn=int(hints.get("agent_turn", 0)),
            supersedes=bool(hints.get("agent_supersedes")),
            sent=sent,
            done=time.monotonic(),
            prompt_tokens=usage.get("prompt_tokens", 0),
            cached_tokens=cached,
            output_tokens=usage.get("completion_tokens", 0),
            messages=tuple(request["messages"]),
        )
        with self._lock:
            self._exchanges.append(exchange)


def narrowed(regex: str, query: str) -> str:
    """Return the grammar of a step (`protocol.action_regex`) with one action only, the search for `query`.

    Raises:
        EngineError: It is no such grammar.
    """
    notes, found, _ = regex.partition(_ACTION)
    if not found:
        msg = "a Think step came without the grammar of JSON actions: only that form of tool calls can be scripted"
        raise EngineError(msg)
    return rf'{notes}"action": "search", "query": "{query}"\}}'


def searchable(text: str) -> str:
    """Return `text` as a query that means the same in JSON and in a regular expression, and is not too long."""
    words = re.sub(r"[^\w,' ]+", " ", text).split()
    kept: list[str] = []
    for word in words:
        if sum(map(len, kept)) + len(kept) + len(word) > _QUERY_CHARS:
            break
        kept.append(word)
    return " ".join(kept).strip(" ,'")
