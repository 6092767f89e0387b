"""A stand-in for an OpenAI-compatible server, made of an agent and of behaviours that come between it and the client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from support.fake_openai import _Handler, _Loopback
from support.stand_in.agent import Agent
from support.stand_in.exchange import Change, Chat, Check, Frames, Http, Json, Listing, error
from typing_extensions import override

__all__ = ("MODEL", "Server", "StandIn", "lists")

MODEL = "local-model"

Streams = Literal["asked", "always", "never"]
"""When an answer is a stream of events; `never`: the field is not looked at."""


def lists(*names: str, **fields: Any) -> Listing:
    """Return a list of models of `names`, each with `fields`."""
    cards = [{"id": name, "object": "model", "owned_by": "someone", **fields} for name in names]
    return lambda _number: Http(body={"object": "list", "data": cards})


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How a server behaves."""

    agent: Agent = field(default_factory=Agent)
    checks: Sequence[Check] = ()
    """Asked in order; the first refusal is the answer."""
    changes: Sequence[Change] = ()
    """Made in order to each completion."""
    frames: Sequence[Frames] = ()
    """Made in order to each stream."""
    models: Listing = field(default_factory=lambda: lists(MODEL))
    streams: Streams = "asked"
    under: str = "/v1"
    """The path that its routes begin with."""
    model_route: bool = True
    """Whether there is a list of models at all."""

    def answer(self, chat: Chat) -> Http:
        """Answer one chat request."""
        for check in self.checks:
            if (refusal := check(chat)) is not None:
                return refusal
        completion: Json | Http = self.agent.complete(chat)
        for change in self.changes:
            completion = change(chat, completion)
            if isinstance(completion, Http):
                return completion
        streamed = self.streams == "always" or (self.streams == "asked" and chat.body.get("stream") is True)
        return self._stream(chat, completion) if streamed else Http(body=completion)

    def _stream(self, chat: Chat, completion: Json) -> Http:
        events = _events(
            completion, with_usage=bool((chat.body.get("stream_options") or {}).get("include_usage"))
        )
        frames = [*(json.dumps(event, ensure_ascii=False) for event in events), "[DONE]"]
        for change in self.frames:
            frames = change(chat, frames)
        return Http(
            body="".join(f"data: {frame}\n\n" for frame in frames),
            content_type="text/event-stream",
            sent="in pieces",
        )


def _events(completion: Json, *, with_usage: bool) -> list[Json]:
    """Cut a completion into the events of a stream."""
    head = {key: completion[key] for key in ("id", "created", "model") if key in completion}
    head["object"] = "chat.completion.chunk"
    events: list[Json] = []
    for choice in completion.get("choices") or ():
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        for name, value in choice["message"].items():
            if name == "tool_calls":
                deltas += [part for i, call in enumerate(value or ()) for part in _call_deltas(i, call)]
            elif isinstance(value, str) and name != "role":
                step = max(16, len(value) // 8)
                deltas += [{name: value[i : i + step]} for i in range(0, len(value), step)]
            elif name != "role" and value is not None:
                deltas.append({name: value})
        events += [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
        ]
        last = {"index": 0, "delta": {}, "finish_reason": choice.get("finish_reason")}
        events.append({**head, "choices": [last]})
    if with_usage and completion.get("usage"):
        events.append({**head, "choices": [], "usage": completion["usage"]})
    return events


def _call_deltas(index: int, call: Json) -> list[Json]:
    function = call.get("function") or {}
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        return [{"tool_calls": [{"index": index, **call}]}]
    first = {"index": index, **call, "function": {**function, "arguments": arguments[:10]}}
    return [
        {"tool_calls": [first]},
        {"tool_calls": [{"index": index, "function": {"arguments": arguments[10:]}}]},
    ]


class _StandInHandler(_Handler):
    def version_string(self) -> str:
        return "stand-in"

    @override
    def do_GET(self) -> None:
        owner = self._owner()
        path = self.path.partition("?")[0]
        if path == f"{owner.how.under}/models" and owner.how.model_route:
            self._send(owner.how.models(owner.count_listing()))
        else:
            self._send(Http(status=404, body={"detail": "Not Found"}))

    @override
    def do_POST(self) -> None:
        owner = self._owner()
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length)
        if len(sent) < length:
            self.close_connection = True
            return
        path = self.path.partition("?")[0]
        if path != f"{owner.how.under}/chat/completions":
            self._send(error(404, f"Invalid URL (POST {path})"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        chat = owner.take(self.path, json.loads(sent), headers)
        self._send(owner.how.answer(chat))

    def _owner(self) -> StandIn:
        owner = self.server.owner
        assert isinstance(owner, StandIn)
        return owner

    def _send(self, answer: Http) -> None:
        if answer.seconds:
            time.sleep(answer.seconds)
        if answer.sent == "reset":
            self.reset()
            return
        content = answer.content
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        for name, value in dict(answer.headers).items():
            self.send_header(name, value)
        if answer.sent == "in pieces":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if answer.sent == "in pieces":
            self._in_pieces(content)
        else:
            self.wfile.write(content[: len(content) // 2] if answer.sent == "cut" else content)
        if answer.sent in ("cut", "and closed"):
            self.close_connection = True

    def _in_pieces(self, content: bytes) -> None:
        step = max(7, len(content) // 20)
        for start in range(0, len(content), step):
            piece = content[start : start + step]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


class StandIn(_Loopback):
    """A server that listens."""

    handler = _StandInHandler

    def __init__(self, how: Server) -> None:
        super().__init__()
        self.how = how
        self.chats: list[Chat] = []
        self.listings = 0
        self._counting = threading.Lock()

    @property
    def root(self) -> str:
        """Address without a path."""
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, body: Json, headers: dict[str, str]) -> Chat:
        """Keep a request."""
        with self._counting:
            chat = Chat(number=len(self.chats), path=path, body=body, headers=headers)
            self.chats.append(chat)
        return chat

    def count_listing(self) -> int:
        """Count a request for the list of models."""
        with self._counting:
            self.listings += 1
            return self.listings - 1
