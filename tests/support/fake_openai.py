"""A loopback OpenAI-compatible server that a test scripts, records and breaks.

    with FakeOpenAI() as server:                        # answers like a small, sensible agent
        ...                                             # point a client at server.url
        server.roles()                                  # ["plan", "think", "progress", ...]

    FakeOpenAI(lambda request, index: "hello")            # a callable: text, dict or Reply
    FakeOpenAI([{"role": "progress", "reply": "FALSE"}])  # rules, in order; else the brain
    FakeOpenAI(faults=Faults(api_key="sk-right"))         # 401 for everybody else

As a process of its own, for tests that kill it: `python tests/support/fake_openai.py --script rules.json --port 8000`
prints one line of JSON with the URL once it listens; `GET /_requests` returns what was recorded.

Prompts are counted in pseudo-tokens (words, punctuation); `cached_tokens` is the longest common prefix with
an earlier prompt of the same model, so a test sees whether a client keeps its prefix stable.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]  # the parse tree of the regex module itself
from re import _parser as sre_parser  # type: ignore[attr-defined]
from types import TracebackType
from typing import Any, Self

__all__ = (
    "Brain",
    "FakeOpenAI",
    "Faults",
    "PageServer",
    "Recorded",
    "Reply",
    "minimal_instance",
    "minimal_match",
)

HOLD_SECONDS = 120.0
"""The longest that anything waits; a test that needs it has already failed."""

_TOKEN = re.compile(r"\w{1,6}|[^\w\s]|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer, or one way of failing to answer."""

    text: str | None = ""
    tool_calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    """(name, arguments) pairs."""
    status: int = 200
    """Anything else: an error of that status, with `text` as its message."""
    raw: str | None = None
    """Sent as the body as it is."""
    hold: str = ""
    """Wait until `release(hold)` before answering; never released: the connection is closed at the end."""
    reset: bool = False
    """Reset the connection instead of answering."""
    truncate: bool = True
    """Obey max_tokens."""
    finish_reason: str | None = None
    no_choices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong with the server as a whole."""

    api_key: str | None = None
    """The only key that is let in."""
    rejects: frozenset[str] = frozenset()
    """Request fields that are answered with 400, such as `tools` or `vllm_xargs`."""
    rate_limited: int = 0
    """Answer that many chat requests with 429 first."""
    dies_after: int | None = None
    """After that many chat requests every connection is reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request as it arrived; the key itself is not kept."""

    index: int
    method: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    authorized: bool

    @property
    def role(self) -> str:
        """What the client says the call is for."""
        return str((self.body.get("vllm_xargs") or {}).get("agent_role", ""))

    @property
    def session(self) -> str:
        """Identity of the growing context, as the client says."""
        return str((self.body.get("vllm_xargs") or {}).get("session_id", ""))

    @property
    def model(self) -> str:
        """Model asked for."""
        return str(self.body.get("model", ""))

    @property
    def text(self) -> str:
        """The whole prompt as text."""
        return render_prompt(self.body)


Script = Callable[[dict[str, Any], int], "Reply | str | dict[str, Any]"]
Rule = Mapping[str, Any]


def content_text(message: Mapping[str, Any]) -> str:
    """Text of one chat message."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)


def render_prompt(body: Mapping[str, Any]) -> str:
    """Flatten a chat request as a chat template would: tools first, then message after message."""
    parts = [json.dumps(body["tools"])] if body.get("tools") else []
    for message in body.get("messages", ()):
        calls = json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
        parts.append(f"<{message.get('role', '')}>{content_text(message)}{calls}")
    return "\n".join(parts)


def pseudo_tokens(text: str) -> list[str]:
    """Cut text into words and punctuation."""
    return _TOKEN.findall(text)


def _common_prefix(left: Sequence[str], right: Sequence[str]) -> int:
    low, high = 0, min(len(left), len(right))
    while (
        low < high
    ):  # comparing slices is done in C; a loop over 50,000 tokens per earlier prompt would not be
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def minimal_match(pattern: str) -> str:
    """Return a short string that `pattern` matches in full."""
    text = _shortest(sre_parser.parse(pattern))
    if re.fullmatch(pattern, text) is None:
        msg = f"cannot find a match of {pattern!r}"
        raise ValueError(msg)
    return text


def _shortest(tree: Any) -> str:
    return "".join(_shortest_part(op, value) for op, value in tree)


def _shortest_part(op: Any, value: Any) -> str:
    if op is sre.LITERAL:
        return chr(value)
    if op is sre.NOT_LITERAL:
        return "a" if value != ord("a") else "b"
    if op is sre.ANY:
        return "a"
    if op is sre.IN:
        return _one_of(value)
    if op is sre.BRANCH:
        return min((_shortest(branch) for branch in value[1]), key=len)
    if op is sre.SUBPATTERN:
        return _shortest(value[3])
    if op is sre.ATOMIC_GROUP:
        return _shortest(value)
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        return _shortest(value[2]) * int(value[0])
    return ""  # anchors and look-arounds match nothing themselves


def _one_of(items: Any) -> str:
    if items[0][0] is sre.NEGATE:
        excluded = "".join("\\" + chr(v) if op is sre.LITERAL else "" for op, v in items[1:])
        return next(c for c in "a1 -_" if c not in excluded)
    op, value = items[0]
    if op is sre.LITERAL:
        return chr(value)
    if op is sre.RANGE:
        return chr(value[0])
    return {sre.CATEGORY_DIGIT: "0", sre.CATEGORY_SPACE: " ", sre.CATEGORY_NOT_DIGIT: "a"}.get(value, "a")


def minimal_instance(
    schema: Mapping[str, Any],
    *,
    wanted: Mapping[str, Any] | None = None,
    root: Mapping[str, Any] | None = None,
) -> Any:
    """Return a small value that satisfies a JSON schema.

    Args:
        schema: The schema; `$ref` is looked up in `root`.
        wanted: Values to prefer for properties of these names, where the schema has them.
        root: The whole schema, for references.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for key in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[key]
        return minimal_instance(target, wanted=wanted, root=root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return minimal_instance(_choose(schema[key], wanted or {}, root), wanted=wanted, root=root)
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged = {**merged, **part}
        return minimal_instance(merged, wanted=wanted, root=root)
    return _by_type(schema, wanted or {}, root)


def _choose(
    options: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any], root: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Pick the branch that lets the wanted values in."""
    for option in options:
        target = root
        if "$ref" in option:
            for key in str(option["$ref"]).removeprefix("#/").split("/"):
                target = target[key]
        else:
            target = option
        properties = target.get("properties", {})
        if any(
            k in wanted and _allows(properties[k], wanted[k]) and "type" not in k for k in properties
        ) and all(_allows(properties[k], wanted[k]) for k in properties if k in wanted):
            return target
    return options[0]


def _allows(schema: Mapping[str, Any], value: Any) -> bool:
    if "const" in schema:
        return bool(schema["const"] == value)
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind = schema.get("type")
    return kind not in kinds or isinstance(value, kinds[kind])  # type: ignore[arg-type]


def _by_type(schema: Mapping[str, Any], wanted: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties", {})
        required = schema.get("required", list(properties))
        return {
            name: wanted[name]
            if name in wanted and _allows(properties[name], wanted[name])
            else minimal_instance(properties[name], wanted=wanted, root=root)
            for name in properties
            if name in required or name in wanted
        }
    if kind == "array":
        item = schema.get("items", {"type": "string"})
        return [
            minimal_instance(item, wanted=wanted, root=root) for _ in range(max(1, schema.get("minItems", 0)))
        ]
    if kind == "string":
        if "pattern" in schema:
            return minimal_match(schema["pattern"])
        return "x" * max(1, schema.get("minLength", 0))
    if kind in ("integer", "number"):
        return max(0, schema.get("minimum", 0))
    return False if kind == "boolean" else None


def constraint(body: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return (kind, value) of the constraint in a request: json, regex, choice, or None."""
    structured = body.get("structured_outputs") or {}
    for kind in ("json", "regex", "choice"):
        if structured.get(kind) is not None:
            value = structured[kind]
            return kind, json.loads(value) if kind == "json" and isinstance(value, str) else value
    response_format = body.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        return "json", response_format["json_schema"]["schema"]
    if response_format.get("type") == "json_object":
        return "json", {"type": "object", "properties": {}}
    return None


def constrained_text(body: Mapping[str, Any]) -> str | None:
    """Return a minimal answer that obeys the request's constraint, or None where there is none."""
    found = constraint(body)
    if found is None:
        return None
    kind, value = found
    if kind == "json":
        return json.dumps(minimal_instance(value))
    return str(value[0]) if kind == "choice" else minimal_match(value)


class Brain:
    """A deterministic little agent: one sub-task, one search, then an answer copied from what was found."""

    def __call__(self, request: dict[str, Any], index: int) -> Reply:
        """Answer by the role of the request."""
        role = (request.get("vllm_xargs") or {}).get("agent_role") or self._guess(request)
        handler = getattr(self, f"on_{role}", self.on_other)
        return handler(request)  # type: ignore[no-any-return]

    def on_plan(self, request: dict[str, Any]) -> Reply:
        """Plan one sub-task, the question; before that, note what is asked."""
        question = self.question(request)
        found = constraint(request)
        if found and found[0] == "json":
            wanted = {"questions": [question]}
            return Reply(text=json.dumps(minimal_instance(found[1], wanted=wanted), ensure_ascii=False))
        if '"questions"' in self.last(request):
            return Reply(text=json.dumps({"questions": [question]}, ensure_ascii=False))
        return Reply(text=f"It is asked: {question}")

    def on_think(self, request: dict[str, Any]) -> Reply:
        """Search first; answer once something was found."""
        question = self.question(request)
        if self.results(request):
            sentence = self.sentence(self.results(request))
            values = {"answer": sentence, "sources": [1], "thought": "The results say it."}
            return self.act(request, "finish", values)
        values = {"query": question[:120], "queries": [question[:120]], "thought": "I will search."}
        return self.act(request, "web_search", values)

    def on_progress(self, request: dict[str, Any]) -> Reply:
        """See progress in everything."""
        found = constraint(request)
        block = (
            "===PROGRESS===\n<reason>the step brings news</reason> <value>TRUE</value>\n===END_PROGRESS==="
        )
        if found is None or (found[0] == "regex" and re.fullmatch(found[1], block)):
            return Reply(text=block)
        if found[0] == "choice":
            return Reply(text=next((str(c) for c in found[1] if "TRUE" in str(c)), str(found[1][0])))
        return Reply(text=constrained_text(request))

    def on_qa(self, request: dict[str, Any]) -> Reply:
        """Copy a sentence of the passages."""
        return Reply(text=constrained_text(request) or self.sentence(self.last(request)))

    def on_write(self, request: dict[str, Any]) -> Reply:
        """Copy a sentence of the findings and cite source 1."""
        return Reply(text=constrained_text(request) or f"{self.sentence(self.last(request))} [1]")

    def on_other(self, request: dict[str, Any]) -> Reply:
        """Answer anything else shortly."""
        return Reply(text=constrained_text(request) or "ok")

    def act(self, request: dict[str, Any], tool: str, values: dict[str, Any]) -> Reply:
        """Call a tool: natively where the request has tools, else as one JSON object."""
        tools = {item["function"]["name"]: item["function"] for item in request.get("tools") or ()}
        if tools:
            arguments = minimal_instance(tools[tool]["parameters"], wanted=values)
            return Reply(text=str(values["thought"]), tool_calls=((tool, arguments),))
        action = {"web_search": "search", "finish": "answer", "crawl": "read"}[tool]
        wanted = {**values, "action": action}
        found = constraint(request)
        if found and found[0] == "json":
            return Reply(text=json.dumps(minimal_instance(found[1], wanted=wanted), ensure_ascii=False))
        return Reply(text=json.dumps(wanted, ensure_ascii=False))

    @staticmethod
    def last(request: Mapping[str, Any]) -> str:
        """Text of the last message."""
        messages = request.get("messages") or [{}]
        return content_text(messages[-1])

    @staticmethod
    def results(request: Mapping[str, Any]) -> str:
        """Text of the numbered results seen so far, empty when nothing was found yet."""
        seen = [content_text(m) for m in request.get("messages", ())[2:] if m.get("role") in ("tool", "user")]
        return "\n".join(text for text in seen if re.search(r"(?m)^\W*\[\d+\]", text))

    @staticmethod
    def question(request: Mapping[str, Any]) -> str:
        """What follows the first `Question:`, else the last line of the first user message."""
        users = [content_text(m) for m in request.get("messages", ()) if m.get("role") == "user"]
        text = users[0].strip() if users else ""
        found = re.search(r"(?:Question:|问题：)\s*(.+)", text)
        return (found.group(1) if found else text.splitlines()[-1] if text else "?").strip()[:500]

    @staticmethod
    def sentence(text: str) -> str:
        """The first full sentence that a numbered passage of `text` contains, else of the text."""
        body = re.search(r"(?m)^\W*\[\d+\].*", text)
        start = body.start() if body else 0
        found = re.search(r"[^\n.!?。]{12,300}[.!?。]", text[start:])
        return (found.group(0) if found else text[:200]).strip()

    @staticmethod
    def _guess(request: Mapping[str, Any]) -> str:
        """Role of a request without hints."""
        last = Brain.last(request)
        if "===PROGRESS===" in last:
            return "progress"
        schema = json.dumps(constraint(request))
        if request.get("tools") or '"action"' in schema:
            return "think"
        if '"questions"' in last:
            return "plan"
        return "write" if "[1]" in last and "report" in last else "qa"


def rules(items: Sequence[Rule], otherwise: Script) -> Script:
    """Turn an ordered list of rules into a script.

    A rule has `reply` (text, or the fields of `Reply`) and any of `role`, `model`, `contains` (in the last
    message), `prompt` (anywhere in the prompt) and `times` (how often it may answer).
    """
    left = [int(item.get("times", 1 << 30)) for item in items]
    lock = threading.Lock()

    def script(request: dict[str, Any], index: int) -> Reply | str | dict[str, Any]:
        role = (request.get("vllm_xargs") or {}).get("agent_role")
        for number, item in enumerate(items):
            if "role" in item and item["role"] != role:
                continue
            if "model" in item and item["model"] != request.get("model"):
                continue
            if "contains" in item and item["contains"] not in Brain.last(request):
                continue
            if "prompt" in item and item["prompt"] not in render_prompt(request):
                continue
            with lock:
                if left[number] <= 0:
                    continue
                left[number] -= 1
            reply: Reply | str | dict[str, Any] = item["reply"]
            return reply
        return otherwise(request, index)

    return script


def _as_reply(value: Reply | str | dict[str, Any]) -> Reply:
    if isinstance(value, Reply):
        return value
    if isinstance(value, str):
        return Reply(text=value)
    if set(value) <= set(Reply.__slots__):
        calls = tuple((str(name), dict(arguments)) for name, arguments in value.get("tool_calls", ()))
        return Reply(**{**value, "tool_calls": calls})
    return Reply(text=json.dumps(value, ensure_ascii=False))


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined at close, so that no socket outlives its test
    request_queue_size = 128

    def __init__(self, owner: _Loopback, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.owner = owner
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            self.owner.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reset(self) -> None:
        """Close with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status: int, value: Any) -> None:
        self.send(status, json.dumps(value, ensure_ascii=False).encode(), "application/json")


class _Loopback:
    """What both servers share: life cycle, waiting for an event, holding and releasing."""

    handler: type[_Handler]

    def __init__(self, *, port: int = 0) -> None:
        self.errors: list[BaseException | None] = []
        self._port = port
        self._changed = threading.Condition()
        self._released: set[str] = set()
        self._closed = False
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Listen."""
        self._server = _Server(self, self._port, self.handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        return self

    def close(self) -> None:
        """Let everything go that is held, close every connection, stop listening."""
        server, self._server = self._server, None
        if server is None:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        server.shutdown()
        for connection in list(server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
        if self.errors and error is None:
            msg = f"the fake server itself failed: {self.errors[0]!r}"
            raise RuntimeError(msg) from self.errors[0]

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, tb)

    @property
    def port(self) -> int:
        """Port listened on."""
        return self._port

    def release(self, name: str) -> None:
        """Let everything held under `name` go on, now and later."""
        with self._changed:
            self._released.add(name)
            self._changed.notify_all()

    def held(self, name: str) -> bool:
        """Wait until `name` is released; False: the server is being closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or name in self._released, HOLD_SECONDS)
            return name in self._released

    def wait_for(
        self, predicate: Callable[[], bool], *, timeout: float = HOLD_SECONDS, what: str = "a request"
    ) -> None:
        """Block until `predicate` holds; it is tried whenever a request arrives.

        Raises:
            TimeoutError: It never did.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                msg = f"waited {timeout:g} s for {what}"
                raise TimeoutError(msg)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Change what `wait_for` looks at."""
        with self._changed:
            yield
            self._changed.notify_all()


class _ChatHandler(_Handler):
    def do_GET(self) -> None:
        owner = self._owner()
        if self.path == "/_requests":
            self.send_json(
                200, [{"path": r.path, "body": r.body, "headers": r.headers} for r in owner.requests]
            )
            return
        recorded = owner.record("GET", self.path, {}, self.headers)
        if owner.dead:
            self.reset()
        elif self.path == "/health":
            self.send(200, b"", "text/plain")
        elif self.path == "/version":
            self.send_json(200, {"version": owner.version})
        elif self.path == "/metrics" and owner.owned_by == "vllm":
            self.send(200, owner.series().encode(), "text/plain")
        elif self.path != "/v1/models":
            self.send_json(404, {"detail": "Not Found"})
        elif not recorded.authorized:
            self._error(401, "Incorrect API key provided.", "invalid_api_key")
        else:
            self.send_json(200, {"object": "list", "data": [owner.card(name) for name in owner.models]})

    def do_POST(self) -> None:
        owner = self._owner()
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length)
        if len(sent) < length:  # a client that was cancelled while it wrote: this is no request
            self.close_connection = True
            return
        try:
            body = json.loads(sent or b"{}")
        except ValueError:
            self._error(400, "The body is not JSON.", "invalid_json")
            return
        recorded = owner.record("POST", self.path, body, self.headers)
        if owner.dead:
            self.reset()
        elif not recorded.authorized:
            self._error(401, "Incorrect API key provided.", "invalid_api_key")
        elif self.path == "/v1/chat/completions":
            self._chat(owner, recorded)
        elif self.path in ("/tokenize", "/v1/tokenize") and owner.owned_by == "vllm":
            text = body["prompt"] if "prompt" in body else render_prompt(body)
            tokens = list(range(len(pseudo_tokens(text))))
            self.send_json(
                200, {"count": len(tokens), "max_model_len": owner.max_model_len, "tokens": tokens}
            )
        else:
            self._error(404, "Not Found", "not_found")

    def _owner(self) -> FakeOpenAI:
        owner = self.server.owner
        assert isinstance(owner, FakeOpenAI)
        return owner

    def _error(self, status: int, message: str, code: str) -> None:
        kind = {401: "authentication_error", 404: "NotFoundError", 429: "rate_limit_error"}.get(
            status, "BadRequestError"
        )
        self.send_json(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})

    def _chat(self, owner: FakeOpenAI, recorded: Recorded) -> None:
        body = recorded.body
        if owner.rate_limits_left():
            self._error(429, "Rate limit reached. Try again.", "rate_limit_exceeded")
            return
        if recorded.model not in owner.models:
            self._error(404, f"The model `{recorded.model}` does not exist.", "model_not_found")
            return
        if (rank := int(recorded.headers.get("x-data-parallel-rank", 0))) >= owner.ranks:
            message = f"data_parallel_rank {rank} is out of range [0, {owner.ranks})."
            self._error(400, message, "invalid_request")
            return
        refused = sorted(owner.faults.rejects & {key for key, value in body.items() if value is not None})
        if refused:
            self._error(400, f"Unrecognized request argument supplied: {refused[0]}", "invalid_request")
            return
        prompt = pseudo_tokens(recorded.text)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        if len(prompt) + limit > owner.max_model_len:
            message = (
                f"This model's maximum context length is {owner.max_model_len} tokens. However, you "
                f"requested {limit} output tokens and your prompt contains {len(prompt)} input tokens."
            )
            self._error(400, message, "context_length_exceeded")
            return
        cached = owner.remember(recorded.model, prompt)
        reply = owner.reply(recorded)
        if reply.hold and not owner.held(reply.hold):
            self.close_connection = True
            return
        if reply.reset:
            self.reset()
        elif reply.status != 200:
            self._error(reply.status, reply.text or "failed on purpose", "scripted")
        elif reply.raw is not None:
            self.send(200, reply.raw.encode(), "application/json")
        else:
            self._answer(owner, recorded, reply, len(prompt), cached, limit)

    def _answer(
        self, owner: FakeOpenAI, recorded: Recorded, reply: Reply, prompt_tokens: int, cached: int, limit: int
    ) -> None:
        words = pseudo_tokens(reply.text or "")
        cut = reply.truncate and len(words) > limit
        text = "".join(words[:limit]) if cut else reply.text
        calls = [
            {
                "id": f"call_{recorded.index}_{i}",
                "type": "function",
                "function": {"name": n, "arguments": json.dumps(a)},
            }
            for i, (n, a) in enumerate(reply.tool_calls)
        ]
        finish = reply.finish_reason or ("length" if cut else "tool_calls" if calls else "stop")
        output = (
            min(len(words), limit) if cut else len(words) + sum(len(pseudo_tokens(str(c))) for c in calls)
        )
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output,
            "total_tokens": prompt_tokens + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        head = {"id": f"chatcmpl-{recorded.index}", "created": int(time.time()), "model": recorded.model}
        if recorded.body.get("stream"):
            self._stream(head, text, calls, finish, usage, recorded, reply)
            return
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if calls:
            message["tool_calls"] = calls
        choices = (
            []
            if reply.no_choices
            else [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
        )
        self.send_json(200, {**head, "object": "chat.completion", "choices": choices, "usage": usage})

    def _stream(
        self,
        head: dict[str, Any],
        text: str | None,
        calls: list[dict[str, Any]],
        finish: str,
        usage: dict[str, Any],
        recorded: Recorded,
        reply: Reply,
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        step = max(1, len(text or "") // 50, 16)
        deltas += [{"content": (text or "")[i : i + step]} for i in range(0, len(text or ""), step)]
        deltas += [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(calls)]
        chunk_head = {**head, "object": "chat.completion.chunk"}
        for delta in [] if reply.no_choices else deltas:
            self._event({**chunk_head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if not reply.no_choices:
            self._event({**chunk_head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if (recorded.body.get("stream_options") or {}).get("include_usage"):
            self._event({**chunk_head, "choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, value: Any) -> None:
        self._chunk(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


class FakeOpenAI(_Loopback):
    """The scripted endpoint."""

    handler = _ChatHandler

    def __init__(
        self,
        script: Script | Sequence[Rule] | None = None,
        *,
        models: Sequence[str] = ("fake-small", "fake-large"),
        owned_by: str = "vllm",
        max_model_len: int = 131_072,
        ranks: int = 1,
        version: str = "0.32.0",
        faults: Faults | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(port=port)
        brain = Brain()
        self._script: Script = (
            brain if script is None else script if callable(script) else rules(script, brain)
        )
        self.models = tuple(models)
        self.owned_by = owned_by
        self.max_model_len = max_model_len
        self.ranks = ranks
        """Data-parallel ranks, as vLLM shows and checks them."""
        self.version = version
        self.faults = faults or Faults()
        self.requests: list[Recorded] = []
        self._prompts: dict[str, list[list[str]]] = {}
        self._limited = self.faults.rate_limited
        self._killed = False

    @property
    def url(self) -> str:
        """Base URL for a client."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def chats(self) -> list[Recorded]:
        """The chat requests."""
        return [r for r in self.requests if r.path == "/v1/chat/completions"]

    def roles(self) -> list[str]:
        """Roles of the chat requests, in order of arrival."""
        return [r.role for r in self.chats]

    def kill(self) -> None:
        """From now on, reset every connection."""
        self._killed = True

    @property
    def dead(self) -> bool:
        """Whether connections are reset."""
        limit = self.faults.dies_after
        return self._killed or (limit is not None and len(self.chats) > limit)

    def record(self, method: str, path: str, body: dict[str, Any], headers: Any) -> Recorded:
        """Keep a request; wakes `wait_for`."""
        key = self.faults.api_key
        kept = {k.lower(): v for k, v in headers.items() if k.lower() not in ("authorization", "api-key")}
        authorized = key is None or headers.get("Authorization") == f"Bearer {key}"
        with self.changing():
            recorded = Recorded(
                index=len(self.requests),
                method=method,
                path=path,
                body=body,
                headers=kept,
                authorized=authorized,
            )
            self.requests.append(recorded)
        return recorded

    def rate_limits_left(self) -> bool:
        """Take one 429, if any is left."""
        with self._changed:
            self._limited -= 1
            return self._limited >= 0

    def remember(self, model: str, prompt: list[str]) -> int:
        """Keep a prompt and return how much of it an earlier one of the same model had already."""
        with self._changed:
            known = self._prompts.setdefault(model, [])
            cached = max((_common_prefix(prompt, earlier) for earlier in known), default=0)
            known.append(prompt)
        return min(cached, len(prompt) - 1)  # the engine always computes the last token

    def reply(self, recorded: Recorded) -> Reply:
        """Ask the script."""
        return _as_reply(self._script(recorded.body, recorded.index))

    def series(self) -> str:
        """What `/metrics` says of the data-parallel ranks."""
        name = self.models[0]
        lines = [
            f'vllm:prompt_tokens_total{{engine="{rank}",model_name="{name}"}} 0.0'
            for rank in range(self.ranks)
        ]
        return "\n".join(["# TYPE vllm:prompt_tokens_total counter", *lines, ""])

    def card(self, name: str) -> dict[str, Any]:
        """Entry of /v1/models."""
        card: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": self.owned_by}
        if self.owned_by == "vllm":
            card |= {"root": name, "parent": None, "max_model_len": self.max_model_len}
        return card


@dataclass(slots=True)
class _Page:
    body: bytes
    content_type: str
    hold: str
    size: int


class _PageHandler(_Handler):
    def do_GET(self) -> None:
        pages = self.server.owner
        assert isinstance(pages, PageServer)
        page = pages.visit(self.path)
        if page is None:
            self.send(404, b"not found", "text/plain")
        elif page.hold and not pages.held(page.hold):
            self.close_connection = True
        elif page.size:
            self._endless(pages, page)
        else:
            self.send(200, page.body, page.content_type)

    def _endless(self, pages: PageServer, page: _Page) -> None:
        self.send_response(200)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(page.size))
        self.end_headers()
        left, block = page.size, (page.body * (65_536 // max(1, len(page.body)) + 1))[:65_536]
        while left > 0:
            self.wfile.write(block[:left])
            pages.sent += len(block[:left])
            left -= len(block)


@dataclass
class PageServer(_Loopback):
    """Loopback web pages, with a count of visits, pages that wait and pages that are huge."""

    pages: dict[str, _Page] = field(default_factory=dict)
    visits: list[str] = field(default_factory=list)
    sent: int = 0
    """Bytes sent of pages that have a `size`."""

    handler = _PageHandler

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def url(self) -> str:
        """URL of the root, without a slash."""
        return f"http://127.0.0.1:{self.port}"

    def add(
        self,
        path: str,
        text: str,
        *,
        content_type: str = "text/html; charset=utf-8",
        hold: str = "",
        size: int = 0,
    ) -> str:
        """Serve `text` at `path` and return the URL.

        Args:
            path: Path with its leading slash.
            text: The body; with `size`, repeated up to that many bytes.
            content_type: Content type.
            hold: Answer only once `release(hold)` was called.
            size: Bytes of the whole page.
        """
        self.pages[path] = _Page(text.encode(), content_type, hold, size)
        return self.url + path

    def visit(self, path: str) -> _Page | None:
        """Count a visit; wakes `wait_for`."""
        with self.changing():
            self.visits.append(path)
        return self.pages.get(path)


def _load_script(path: Path) -> Script | list[Rule]:
    if path.suffix == ".py":
        scope: dict[str, Any] = {"__name__": "script", "Reply": Reply, "Brain": Brain}
        exec(compile(path.read_text(), str(path), "exec"), scope)  # a test's own file
        script: Script = scope["reply"]
        return script
    rules_read: list[Rule] = json.loads(path.read_text())
    return rules_read


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--script", type=Path, help="JSON list of rules, or a .py file that defines reply(request, index)"
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", help="model served; may be given more than once")
    parser.add_argument("--owned-by", default="vllm")
    parser.add_argument("--api-key")
    parser.add_argument("--dies-after", type=int)
    arguments = parser.parse_args()
    server = FakeOpenAI(
        _load_script(arguments.script) if arguments.script else None,
        models=arguments.model or ("fake-small", "fake-large"),
        owned_by=arguments.owned_by,
        faults=Faults(api_key=arguments.api_key, dies_after=arguments.dies_after),
        port=arguments.port,
    )
    with server, contextlib.suppress(KeyboardInterrupt):
        print(json.dumps({"url": server.url}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
