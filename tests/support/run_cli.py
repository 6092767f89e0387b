"""Run the real command line as a process of its own, against a fake endpoint and a folder of documents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.fake_openai import FakeOpenAI
from support.forked_cli import start_forked

__all__ = (
    "COMPLETE",
    "ENDPOINT_FAILED",
    "INTERRUPTED",
    "PARTIAL",
    "USAGE",
    "CommandLine",
    "Outcome",
    "command_line",
    "flags",
)

ROOT = Path(__file__).parents[2]
COMPLETE, USAGE, ENDPOINT_FAILED, PARTIAL, INTERRUPTED = 0, 2, 3, 4, 130
"""Exit codes of `agentinfer research`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished command."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The object printed by `--json`."""
        value: dict[str, Any] = json.loads(self.stdout)
        return value

    @property
    def everything(self) -> str:
        """Both streams, on one line, as narrow terminals break sentences."""
        return " ".join((self.stdout + "\n" + self.stderr).split())

    def has_traceback(self) -> bool:
        """Whether a person would see a traceback."""
        return "Traceback (most recent call last)" in self.stdout + self.stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """`agentinfer` with a clean environment: nothing of the machine that runs the test reaches it."""

    folder: Path
    """Working folder, without a `.env`; documents are in `docs`, saved runs in `home`."""
    small: str = ""
    large: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def docs(self) -> Path:
        """Folder of the documents."""
        return self.folder / "docs"

    @property
    def home(self) -> Path:
        """Where runs are saved."""
        return self.folder / "home"

    def environ(self) -> dict[str, str]:
        """Environment of the process."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if not re.match(r"AGENTINFER_|TAVILY_|LANG(SMITH|CHAIN)_|OPENAI_", k)
        }
        self.docs.mkdir(exist_ok=True)
        own = {
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "AGENTINFER_SMALL__BASE_URL": self.small,
            "AGENTINFER_SMALL__MODEL": "fake-small",
            "AGENTINFER_LARGE__BASE_URL": self.large,
            "AGENTINFER_LARGE__MODEL": "fake-large",
            "AGENTINFER_DOCS": str(self.docs),
            "AGENTINFER_HOME": str(self.home),
        }
        return kept | own | dict(self.environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `agentinfer` and return the process, alone in its process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "agentinfer_lg.cli", *arguments],
            cwd=self.folder,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, timeout: float = 120.0, file_kilobytes: int | None = None) -> Outcome:
        """Run `agentinfer` to its end.

        Args:
            arguments: Its arguments.
            timeout: Most seconds that it may take.
            file_kilobytes: The size at which no file can grow any more, which is how a full disk is had anywhere.
        """
        with tempfile.TemporaryDirectory() as outside:  # no file of the run, and none that it could fill
            stdout, stderr = Path(outside) / "stdout", Path(outside) / "stderr"
            process = start_forked(
                arguments,
                folder=self.folder,
                environment=self.environ(),
                stdout=stdout,
                stderr=stderr,
                file_kilobytes=file_kilobytes,
            )
            process.join(timeout)
            code = process.exitcode
            if code is None:
                process.kill()
                process.join()
            said = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (stdout, stderr)]
        if code is None:
            msg = (
                f"agentinfer {' '.join(arguments)[:200]} still ran after {timeout:g} s:\n{said[0]}\n{said[1]}"
            )
            raise AssertionError(msg)
        return Outcome(code, *said)

    def research(self, question: str, *flags: str, timeout: float = 120.0) -> Outcome:
        """Run `agentinfer research --json`."""
        return self.run("research", "--json", *flags, "--", question, timeout=timeout)


def command_line(
    folder: Path, server: FakeOpenAI, *, environment: Mapping[str, str] | None = None
) -> CommandLine:
    """Both tiers at one fake endpoint."""
    return CommandLine(folder=folder, small=server.url, large=server.url, environment=environment or {})


def flags(**knobs: object) -> Sequence[str]:
    """Write `max_turns=3` as `--set max_turns=3`."""
    return [part for name, value in knobs.items() for part in ("--set", f"{name}={value}")]
