"""Start, watch and stop a local vLLM server.

`Server` runs the command of `agentinfer_lg.serving.engine.command` in a process group of its own, waits until it
answers, explains why it died if it did, and leaves no process behind, even if this process is killed. Neither vLLM nor
torch is imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

from agentinfer_lg.errors import EngineError
from agentinfer_lg.serving.engine.command import ServeOptions, build_command, read_extra_args
from agentinfer_lg.serving.engine.diagnosis import explain_exit, startup_stage
from agentinfer_lg.serving.engine.guard import Guard
from agentinfer_lg.serving.engine.machine import Device, detect_device

_STOP_SECONDS = 10.0
"""Patience before the processes of the engine are killed."""


class Server:
    """A vLLM server as a context manager: started on entry, gone on exit.

    Example:
        with Server(ServeOptions(model="folder", port=0)) as server:
            server.wait_ready(timeout=600)
            print(server.base_url)
    """

    def __init__(
        self,
        options: ServeOptions,
        *,
        log: Path | None = None,
        echo: IO[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a server; nothing is started yet.

        Args:
            options: What to serve.
            log: File for the output of the server; by default a temporary one, kept if the server fails.
            echo: Where to show the output of the server, for instance `sys.stderr`; then there is no file
                unless `log` names one.
            environment: More variables for the server, for instance which devices it sees; they win.
        """
        options = read_extra_args(options)
        self.options = options if options.port else replace(options, port=_free_port(options.host))
        self.device: Device = detect_device() if options.device == "auto" else options.device
        self._log = log
        self._echo = echo
        self._environment = dict(environment or {})
        self._folder: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self._guard: Guard | None = None
        self._pump: threading.Thread | None = None
        self._tail: deque[str] = deque(maxlen=2000)
        self._failed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Base URL for OpenAI clients, ending in `/v1`."""
        return f"{self._root}/v1"

    @property
    def model(self) -> str:
        """Name under which the model is served."""
        return self.options.served_model_name or self.options.model

    @property
    def log_path(self) -> Path | None:
        """File with the output of the server; None before the start, and while the output is shown instead."""
        return self._log

    @property
    def pid(self) -> int | None:
        """Process id of the server, which is also its process group; None while it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process else None

    @property
    def _root(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.options.host, self.options.host)
        return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{self.options.port}"

    def start(self) -> None:
        """Start the server and return at once.

        Raises:
            EngineError: It cannot start: vLLM is not installed, the model is missing, the port is taken.
        """
        if self._process is not None:
            return
        _require_vllm()
        _require_model(self.options.model)
        _require_free_port(self.options.host, self.options.port)
        self._folder = Path(tempfile.mkdtemp(prefix="agentinfer-engine-"))
        metrics = self._folder / "metrics"  # must be empty at the start, or old series are added to new ones
        metrics.mkdir()
        if self._log is None and self._echo is None:
            self._log = self._folder / "server.log"
        command, variables = build_command(self.options, device=self.device)
        self._process = subprocess.Popen(
            command,
            env={"PROMETHEUS_MULTIPROC_DIR": str(metrics), **os.environ, **variables, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches only us; one signal reaches every process of it
        )
        self._guard = Guard(self._process.pid, patience=_STOP_SECONDS)
        self._pump = threading.Thread(target=self._copy_output, name="engine-log", daemon=True)
        self._pump.start()

    def wait_ready(
        self, timeout: float = 900.0, on_progress: Callable[[float, str], None] | None = None
    ) -> float:
        """Wait until the server answers, and return the seconds that took.

        Args:
            timeout: Most seconds to wait.
            on_progress: Called about twice a second with the seconds so far and what the server is doing.

        Raises:
            EngineError: The server died or did not answer in time; the message says why and what to do.
        """
        started = time.monotonic()
        while True:
            seconds = time.monotonic() - started
            if self._process is None or self._process.poll() is not None:
                raise self._failure()
            if _answers(f"{self._root}/health"):
                return seconds
            if seconds > timeout:
                self._failed = True
                where = f"; its log is {self._log}" if self._log else ""
                msg = f"the engine did not answer within {timeout:.0f} s{where}"
                raise EngineError(msg)
            if on_progress is not None:
                on_progress(seconds, startup_stage(self._lines()))
            time.sleep(0.4)

    def wait(self) -> int:
        """Wait until the server ends by itself, and return its exit code."""
        return 0 if self._process is None else self._process.wait()

    def last_words(self) -> str:
        """Return why the server ended, as far as its log tells; for one that died after it was ready."""
        return str(self._failure())

    def stop(self) -> None:
        """End the server and every process it started; harmless when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        failed = self._failed or process.poll() not in (None, 0)
        _end_group(process)
        if self._guard is not None:
            self._guard.release()
        if self._pump is not None:
            self._pump.join(timeout=5)
        if process.stdout is not None:
            process.stdout.close()
        if self._folder is not None:
            shutil.rmtree(self._folder / "metrics", ignore_errors=True)
            if not (failed and self._log is not None and self._log.is_relative_to(self._folder)):
                shutil.rmtree(self._folder, ignore_errors=True)

    def _copy_output(self) -> None:
        process = self._process
        if process is None or process.stdout is None:
            return
        with contextlib.ExitStack() as stack:
            log = None if self._log is None else stack.enter_context(self._log.open("a", encoding="utf-8"))
            stack.enter_context(contextlib.suppress(ValueError, OSError))  # a closed stream, a full disk
            for line in process.stdout:
                self._tail.append(line.strip())
                for stream in (log, self._echo):
                    if stream is not None:
                        stream.write(line)
                        stream.flush()

    def _lines(self) -> list[str]:
        return [line for line in tuple(self._tail) if line]

    def _failure(self) -> EngineError:
        self._failed = True
        if self._pump is not None:
            self._pump.join(timeout=5)
        code = self._process.returncode if self._process is not None else None
        why = explain_exit(self._lines(), code=code, model=self.options.model, port=self.options.port)
        return EngineError(why if self._log is None else f"{why} Full log: {self._log}")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `SystemExit` inside the block, so that `with Server(...)` cleans up."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    kinds = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {kind: signal.signal(kind, leave) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _require_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        msg = (
            "vLLM is not installed: run `python -m agentinfer_lg.serving.engine.install` (no GPU), "
            "or `pip install 'agentinfer-lg[serving]'` (GPU)"
        )
        raise EngineError(msg)


def _require_model(model: str) -> None:
    folder = Path(model).expanduser()
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1 or folder.exists()
    if not looks_local:
        return
    if not folder.is_dir():
        msg = f"there is no model folder {model}: check the path, or name a model on the hub as OWNER/NAME"
        raise EngineError(msg)
    if not (folder / "config.json").exists():
        msg = f"the folder {model} has no config.json: a model folder in Hugging Face format is needed"
        raise EngineError(msg)


def _require_free_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the server does: TIME_WAIT is no obstacle
        try:
            probe.bind((host.strip("[]"), port))
        except socket.gaierror:
            msg = f"the host {host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all"
            raise EngineError(msg) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            msg = f"the port {port} on {host} cannot be used ({reason}): choose another, or 0 for a free one"
            raise EngineError(msg) from None


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host.strip("[]"), 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy must not stand before our own server
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _end_group(process: subprocess.Popen[str]) -> None:
    """End the whole process group: TERM, then KILL for what is still there."""
    for number, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            process.poll()  # reap it
            if not _group_alive(process.pid):
                process.wait()  # it may have ended after the poll
                return
            time.sleep(0.1)


def _group_alive(group: int) -> bool:
    """Whether a process of `group` still runs; zombies whose parent is gone do not count."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, member = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(member) == group and state not in "ZX":
                return True
    return False
