"""`agentinfer` in a process of its own that need not import what every run imports.

A server process imports the command line once; each run is a fork of it, with an environment, a folder and a process group
of its own. The imports take longer than most runs of the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

_IMPORTED = (
    "agentinfer_lg.checkpoints",
    "agentinfer_lg.cli.research",
    "agentinfer_lg.cli.runner",
    "agentinfer_lg.graphs.deep_research",
    "agentinfer_lg.llm.chat",
    "agentinfer_lg.tools.local",
    "aiosqlite",
    "langchain_openai",
)

_context: ForkServerContext | None = None


def start_forked(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdout: Path,
    stderr: Path,
    file_kilobytes: int | None = None,
) -> BaseProcess:
    """Start `agentinfer` and return its process.

    Args:
        arguments: Of the command line.
        folder: Working folder.
        environment: All variables.
        stdout: File for the output, as is `stderr`.
        stderr: File for the messages.
        file_kilobytes: The size at which no file can grow any more.
    """
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(list(_IMPORTED))
    run = (list(arguments), str(folder), dict(environment), str(stdout), str(stderr), file_kilobytes)
    process = _context.Process(target=_run, args=run)
    process.start()
    return process


def _run(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    stdout: str,
    stderr: str,
    file_kilobytes: int | None,
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    if file_kilobytes is not None:
        limit = file_kilobytes * 1024
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = ["agentinfer", *arguments]
    from agentinfer_lg.cli import main

    main(arguments)
