"""Connections: kept, closed with their event loop, and what their failures say."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.llm.connection import Connection, ConnectionLostError, is_loopback
from agentinfer_lg.settings import EndpointSettings


class _Server(ThreadingHTTPServer):
    """Counts its connections and keeps what arrives."""

    daemon_threads = True

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.moved: dict[str, tuple[int, str]] = {}
        self.drop = False
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, sent: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers))
        status, target = self.server.moved.get(self.path, (200, ""))
        body = json.dumps({"sent": sent.decode()}).encode()
        self.send_response(status)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.server.drop:
            self.close_connection = True  # without saying so: the client believes that it is kept

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def _connection(server: _Server, path: str = "/v1", **more: Any) -> Connection:
    return Connection(EndpointSettings(base_url=f"http://127.0.0.1:{server.server_port}{path}", **more))


async def _post(connection: Connection, body: bytes = b"{}") -> Any:
    return await connection.post(connection.url("/chat/completions"), body, timeout=10.0)


async def test_a_connection_is_kept(server: _Server) -> None:
    connection = _connection(server)
    for _ in range(5):
        assert (await _post(connection)).ok
    assert server.connections == 1
    await connection.aclose()


def test_each_event_loop_has_its_own_and_leaves_nothing_open(server: _Server) -> None:
    connection = _connection(server)
    for _ in range(3):
        assert asyncio.run(_post(connection)).ok
    assert server.connections == 3
    gc.collect()  # an unclosed socket would warn, and warnings are errors


async def test_a_connection_that_nobody_holds_is_closed_later(server: _Server) -> None:
    for _ in range(3):
        await _post(_connection(server))
        gc.collect()
    assert server.connections == 3


async def test_a_connection_that_the_server_closed_is_opened_again(server: _Server) -> None:
    server.drop = True
    connection = _connection(server)
    for _ in range(4):
        assert (await _post(connection)).ok


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_move_within_the_server_is_followed_with_the_body(server: _Server, status: int) -> None:
    server.moved["/v1/chat/completions"] = (status, "/v2/chat/completions")
    received = await _post(_connection(server, api_key=SecretStr("k")), b'{"a": 1}')
    assert received.value == {"sent": '{"a": 1}'}
    method, path, headers = server.requests[-1]
    assert (method, path, headers["authorization"]) == ("POST", "/v2/chat/completions", "Bearer k")


async def test_the_key_goes_to_no_other_server(server: _Server) -> None:
    server.moved["/v1/chat/completions"] = (307, "http://localhost:1/v1/chat/completions")
    received = await _post(_connection(server, api_key=SecretStr("k")))
    assert received.status == 307


async def test_a_circle_ends(server: _Server) -> None:
    server.moved["/v1/chat/completions"] = (307, "/v1/chat/completions")
    assert (await _post(_connection(server))).status == 508


async def test_a_query_and_headers_are_sent(server: _Server) -> None:
    connection = _connection(server, "/o?api-version=2", headers={"X-Team": SecretStr("a")})
    await _post(connection)
    _, path, headers = server.requests[-1]
    assert path == "/o/chat/completions?api-version=2"
    assert headers["x-team"] == "a"
    assert connection.root_url("/version").endswith("/o/version?api-version=2")


async def test_no_proxy_stands_before_loopback(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await _post(_connection(server))).ok


async def test_a_proxy_that_may_be_the_cause_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:1")
    connection = Connection(EndpointSettings(base_url="http://models.invalid/v1"))
    with pytest.raises(
        ConnectionLostError, match=r"proxy http://127\.0\.0\.1:1 \(variable HTTP_PROXY"
    ) as caught:
        await _post(connection)
    assert "secret" not in str(caught.value)


async def test_certificates_that_cannot_be_read(tmp_path: Any) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    connection = Connection(
        EndpointSettings(base_url="https://models.invalid/v1", ca_file=tmp_path / "ca.pem")
    )
    with pytest.raises(ConfigurationError, match="CA_FILE must name a PEM file"):
        await _post(connection)


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://localhost:1/v1", True),
        ("http://127.3.2.1/v1", True),
        ("http://[::1]:8/v1", True),
        ("http://a.localhost/v1", True),
        ("http://10.0.0.1/v1", False),
        ("https://example.com/v1", False),
    ],
)
def test_loopback(url: str, own: bool) -> None:
    assert is_loopback(url) is own


@pytest.mark.parametrize("key", ["a\nb", "schlüssel", "“quoted”", "a b"])
def test_a_key_that_no_header_holds_is_told_without_it(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EndpointSettings(base_url="http://a.example", api_key=SecretStr(key))
    assert "cannot hold" in str(caught.value.errors(include_input=False))
    assert EndpointSettings(api_key=SecretStr(" k\n")).api_key.get_secret_value() == "k"
