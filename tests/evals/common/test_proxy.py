"""The proxy itself: what it does when one of the two sides is gone."""

from __future__ import annotations

import socket
import struct
import threading
from http.server import ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx
import pytest

from agentinfer_lg.evals.common.proxy import Incoming, Proxy

SECONDS = 20.0


class Failing(Proxy):
    """Loses the engine, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.go = threading.Event(), threading.Event()

    def answer(self, incoming: Incoming) -> httpx.Response:
        self.arrived.set()
        self.go.wait(SECONDS)
        msg = "gone"
        raise httpx.ReadError(msg)


def test_an_engine_that_is_gone_is_a_bad_gateway() -> None:
    with Failing() as proxy, httpx.Client(trust_env=False) as http:
        proxy.go.set()
        response = http.post(f"{proxy.address}/v1/chat/completions", json={})
    assert response.status_code == 502


def test_nobody_is_told_of_it_who_is_gone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[object] = []
    monkeypatch.setattr(ThreadingHTTPServer, "handle_error", lambda *_: failures.append(_))
    before = set(threading.enumerate())
    with Failing() as proxy:
        parts = urlsplit(proxy.address)
        with socket.create_connection((parts.hostname, parts.port)) as client:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            assert proxy.arrived.wait(SECONDS)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        handlers = set(threading.enumerate()) - before
        proxy.go.set()
    for thread in handlers:
        thread.join(SECONDS)
    assert failures == []
