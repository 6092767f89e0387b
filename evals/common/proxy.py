"""A proxy before an engine: the agent's requests pass through it, and some of them or of their answers are changed.

What is changed is up to the sub-class. Everything else goes on as it came: method, path, body and headers of requests,
status and body of answers. Nothing is streamed; an answer is passed on when it is whole.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import httpx

_REQUEST_SECONDS = 900.0
_OF_THE_CONNECTION = frozenset(
    ("host", "connection", "content-length", "transfer-encoding", "accept-encoding")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A request of the agent."""

    method: str
    path: str
    """With its query."""
    body: bytes
    headers: Mapping[str, str]
    """Without those that belong to the connection."""

    @property
    def is_chat(self) -> bool:
        """Whether it is a model call."""
        return self.path.endswith("/chat/completions")


class Proxy:
    """A server on a port of this machine, as a context manager; requests are handled in threads of their own."""

    def __init__(self) -> None:
        self._http = httpx.Client(trust_env=False, timeout=_REQUEST_SECONDS)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="proxy", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        self._http.close()

    @property
    def address(self) -> str:
        """URL of its root, without a slash."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, incoming: Incoming) -> httpx.Response:
        """Answer a request, mostly by `send`; called in many threads at the same time.

        Raises:
            httpx.HTTPError: The engine does not answer; the agent gets a 502.
        """
        raise NotImplementedError

    def send(self, incoming: Incoming, url: str, *, body: bytes | None = None) -> httpx.Response:
        """Send a request on.

        Args:
            incoming: As it came.
            url: Where to.
            body: What takes the place of its body.

        Raises:
            httpx.HTTPError: There is no answer.
        """
        content = incoming.body if body is None else body
        return self._http.request(incoming.method, url, content=content, headers=dict(incoming.headers))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._pass(b"")

            def do_POST(self) -> None:
                self._pass(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def _pass(self, body: bytes) -> None:
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in _OF_THE_CONNECTION
                }
                incoming = Incoming(method=self.command, path=self.path, body=body, headers=headers)
                try:
                    self._reply(incoming)
                except OSError:  # the agent has gone: it waits no longer
                    return

            def _reply(self, incoming: Incoming) -> None:
                try:
                    response = proxy.answer(incoming)
                except httpx.HTTPError as error:
                    self.send_error(502, f"{type(error).__name__}: the engine does not answer")
                    return
                self.send_response_only(response.status_code)
                for name, value in response.headers.items():
                    if name == "content-type":
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(response.content)))
                self.end_headers()
                self.wfile.write(response.content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
