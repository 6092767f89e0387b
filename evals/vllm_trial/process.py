"""The rehearsal in a process of its own, with the vLLM in question first on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import agentinfer_lg

_MODULE = "agentinfer_lg.evals.vllm_trial.rehearsal"
_PROJECT = Path(agentinfer_lg.__file__).parents[1]
"""The folder that this project is imported from."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step of the rehearsal."""

    step: str
    problem: str
    """What was wrong; empty where all was well."""


def rehearse(
    site: Path | None = None, *, python: Path | None = None, timeout: float = 300.0
) -> Iterator[Outcome]:
    """Run the rehearsal, and yield its steps as they are taken.

    Args:
        site: Folder with a vLLM; None: the installed one.
        python: Python of the environment; None: this one.
        timeout: Seconds after which it is stopped.
    """
    late = threading.Event()
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [str(python or sys.executable), "-m", _MODULE],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=_environment(site),
        ) as process,
    ):

        def stop() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(timeout, stop)
        watch.start()
        try:
            yield from _steps(process.stdout)
            process.wait()
        finally:
            watch.cancel()
            process.kill()
            code = process.wait()
        if late.is_set():
            yield Outcome("rehearsal", f"it did not end within {timeout:g} s")
        elif code not in (0, 1):
            said.seek(0)
            last = (said.read().strip().splitlines() or ["no message"])[-1]
            yield Outcome("rehearsal", f"it ended with code {code}: {last[:300]}")


def _environment(site: Path | None) -> dict[str, str]:
    # A source tree need not be installed; what is installed is found anyway, and must not come before another vLLM.
    project = None if _PROJECT.name in ("site-packages", "dist-packages") else _PROJECT
    path = [str(folder) for folder in (site, project) if folder is not None]
    more = {
        "PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("AGENTINFER")} | more


def _steps(output: IO[str] | None) -> Iterator[Outcome]:
    for line in output or ():
        if line.startswith('{"step"'):
            result = json.loads(line)
            yield Outcome(str(result["step"]), str(result["problem"]))
