"""A server of another project, in a process group of its own, with its output in a file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from support.processes import processes_of
from support.waiting import wait_until

__all__ = ("ThirdParty", "free_port", "third_party")

_START_SECONDS: Final = 300.0
_STOP_SECONDS: Final = 20.0
_TAIL_LINES: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdParty:
    """A running server."""

    base_url: str
    """Ends in `/v1`."""
    model: str
    """Name under which it serves the model."""
    log: Path
    """Its output."""


def free_port() -> int:
    """Return a port of the loopback address that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def third_party(
    command: Sequence[str],
    *,
    port: int,
    model: str,
    folder: Path,
    ready: str,
    variables: Mapping[str, str] | None = None,
) -> Iterator[ThirdParty]:
    """Start a server, wait until it answers, and end all its processes in the end.

    Args:
        command: Its command line.
        port: Where it listens on the loopback address.
        model: Name under which it serves the model.
        folder: Its working folder, which gets its log.
        ready: Path that it answers with 200 once it is up.
        variables: More variables of its environment.
    """
    root, log = f"http://127.0.0.1:{port}", folder / "server.log"
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=inherited | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, f"{root}{ready}", log)
        yield ThirdParty(base_url=f"{root}/v1", model=model, log=log)
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with httpx.Client(trust_env=False, timeout=10) as client:
        while not _answers(client, url):
            assert process.poll() is None, f"the server ended while it started:\n{_tail(log)}"
            assert time.monotonic() < deadline, f"the server did not answer in time:\n{_tail(log)}"
            time.sleep(0.2)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_SECONDS)
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what the server started and left behind
    wait_until(lambda: not processes_of(process.pid), seconds=_STOP_SECONDS)
