"""Runs by name: what was asked with which knobs, kept so that a run can be resumed as it was.

One small JSON file per run, `threads/<name>.json` under `Settings.home`, and a lock that is held while the
run goes on: it vanishes with the process, however that ends. Keys and passwords are never written.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from agentinfer_lg.errors import CheckpointError, UserInputError

RunState = Literal["running", "finished", "partial", "waiting", "stopped", "failed"]
"""`waiting`: for a plan to be approved; `partial`: a report was written but something ran out."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run."""

    thread: str
    question: str
    context: dict[str, Any] = field(default_factory=dict)  # Any: fields of `Context` as JSON
    """Knobs of the run."""
    options: dict[str, str] = field(default_factory=dict)
    """Settings given as flags: `docs`, `small_url`, `small_model`, `large_url`, `large_model`."""
    created: str = ""
    """ISO 8601, UTC."""
    seconds: float = 0.0
    """Wall time of all segments that ended cleanly."""
    sitting: str = ""
    """When the present segment began, ISO 8601, UTC; left behind by one that was killed."""
    state: RunState = "running"


def new_thread_name() -> str:
    """A short, readable, unique name: the date and six random digits."""
    return f"{datetime.now(tz=UTC):%Y%m%d}-{secrets.token_hex(3)}"


def check_thread_name(name: str) -> str:
    """Return `name` if it can name a run; it is also a file name, so nothing else may be.

    Raises:
        UserInputError: It is empty, too long, or has other characters than letters, digits, `.`, `_` and `-`.
    """
    if not _NAME.fullmatch(name):
        msg = (
            f"{name[:80]!r} cannot name a run. Use 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit."
        )
        raise UserInputError(msg)
    return name


class Threads:
    """The runs kept under one folder.

    Args:
        home: `Settings.home`; nothing is created before something is saved.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home.expanduser() / "threads"

    def load(self, name: str) -> RunRecord:
        """Read one run; `running` becomes `stopped` when no process holds it.

        Raises:
            CheckpointError: There is no such run, or its file cannot be read.
        """
        path = self._folder / f"{check_thread_name(name)}.json"
        try:
            record = _decode(path.read_text(encoding="utf-8"), name)
        except FileNotFoundError:
            msg = f"There is no run named {name!r}. `agentinfer threads` lists those that can be resumed."
            raise CheckpointError(msg) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            msg = f"The record of the run {name!r} cannot be read ({error}). Start the question anew."
            raise CheckpointError(msg) from error
        if record.state == "running" and not self._held(name):
            return replace(record, state="stopped")
        return record

    def exists(self, name: str) -> bool:
        """Whether a run of that name was saved."""
        return (self._folder / f"{check_thread_name(name)}.json").exists()

    def save(self, record: RunRecord) -> None:
        """Write one run, whole or not at all.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        path = self._folder / f"{check_thread_name(record.thread)}.json"
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(record), file, ensure_ascii=False, indent=1)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _cannot_record(self._folder, error) from error

    def forget(self, name: str) -> None:
        """Remove the record of a run, if there is one; its checkpoints stay."""
        with suppress(OSError):
            (self._folder / f"{check_thread_name(name)}.json").unlink(missing_ok=True)

    def all(self) -> list[RunRecord]:
        """All readable runs, the latest first."""
        records = []
        for path in self._folder.glob("*.json"):
            try:
                records.append(self.load(path.stem))
            except (CheckpointError, UserInputError):  # not one of ours, or broken: the others still count
                continue
        return sorted(records, key=lambda record: record.created, reverse=True)

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Keep other processes from continuing the same run meanwhile.

        Raises:
            CheckpointError: Another process is at it, or the folder cannot be written.
        """
        path = self._folder / f"{check_thread_name(name)}.lock"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # no lock, but also nothing that it could guard
                yield
                return
            raise _cannot_record(self._folder, error) from error
        try:
            if not _lock(descriptor):
                msg = (
                    f"The run {name!r} is going on in another process. Wait for it, or use another --thread."
                )
                raise CheckpointError(msg)
            yield
        finally:
            os.close(descriptor)

    def _held(self, name: str) -> bool:
        try:
            descriptor = os.open(self._folder / f"{name}.lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False


def _lock(descriptor: int) -> bool:
    """Take the lock of a run; a listing in another process has it for a moment, so try for a second."""
    deadline = time.monotonic() + 1.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _cannot_record(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"Runs cannot be recorded in {folder} ({error.strerror or error}). Set AGENTINFER_HOME to a folder "
        "that you can write, or pass --no-checkpoint."
    )


def _decode(text: str, name: str) -> RunRecord:
    data = json.loads(text)
    known = {key: data[key] for key in RunRecord.__dataclass_fields__ if key in data}
    wrong = not all(isinstance(known.get(key, ""), str) for key in ("created", "sitting"))
    wrong = (
        wrong or not isinstance(known.get("question"), str) or known.get("state") not in get_args(RunState)
    )
    if wrong or not all(isinstance(known.get(key, {}), dict) for key in ("context", "options")):
        msg = "it does not describe a run"
        raise ValueError(msg)
    return RunRecord(**{**known, "thread": name})
