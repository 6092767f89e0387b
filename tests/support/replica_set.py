"""Two fake model servers that can be killed, behind the nginx of `examples/replicas`."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

__all__ = ("Replica", "ReplicaSet", "replica_set")

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "examples" / "replicas" / "nginx.conf"
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Replica:
    """One server, a process of its own."""

    process: subprocess.Popen[str]
    port: int

    def requests(self) -> list[dict[str, Any]]:
        """Chat requests so far: body and headers."""
        recorded = httpx.get(f"http://127.0.0.1:{self.port}/_requests", timeout=PATIENCE).json()
        return [request for request in recorded if request["path"] == "/v1/chat/completions"]

    def sessions(self) -> set[str]:
        """Sessions that were here."""
        return {request["headers"]["x-session-id"] for request in self.requests()}

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """The servers, and the one address of them all."""

    url: str
    replicas: tuple[Replica, ...]

    def holder(self, session: str) -> Replica:
        """The replica at which the session is."""
        (found,) = [replica for replica in self.replicas if session in replica.sessions()]
        return found


@contextmanager
def replica_set(
    folder: Path, script: str, *, environment: Mapping[str, str] | None = None
) -> Iterator[ReplicaSet]:
    """Start two servers and the router; skips where nginx is not installed.

    Args:
        folder: For what they write.
        script: Source that defines `reply(request, index)`, for each server.
        environment: More variables for the script.
    """
    nginx = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if nginx is None:
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    source = folder / "script.py"
    source.write_text(script)
    with ExitStack() as stack:
        replicas = tuple(stack.enter_context(_replica(source, environment or {})) for _ in range(2))
        port = _free_port()
        configuration = folder / "nginx.conf"
        configuration.write_text(_configured(folder, router=port, servers=[r.port for r in replicas]))
        stack.enter_context(_nginx(nginx, configuration, port))
        yield ReplicaSet(f"http://127.0.0.1:{port}/v1", replicas)


def _configured(folder: Path, *, router: int, servers: list[int]) -> str:
    """The example with other ports and another folder, and with nothing else."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    for shown, used in (("8000", servers[0]), ("8001", servers[1]), ("8080", router)):
        text, count = re.subn(rf"127\.0\.0\.1:{shown}\b", f"127.0.0.1:{used}", text)
        assert count == 1
    return text.replace("/tmp/agentinfer-nginx", str(folder))


@contextmanager
def _replica(script: Path, environment: Mapping[str, str]) -> Iterator[Replica]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "support" / "fake_openai.py"), "--script", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            yield Replica(process, int(httpx.URL(url).port or 0))
        finally:
            process.kill()


@contextmanager
def _nginx(program: str, configuration: Path, port: int) -> Iterator[None]:
    command = [program, "-e", "stderr", "-g", "daemon off;", "-c", str(configuration)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not _listens(port):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
