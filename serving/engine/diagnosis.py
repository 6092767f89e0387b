"""What a server is doing while it starts, and why it died: read from its log."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

_STAGES = (
    ("Application startup complete", "ready"),
    ("init engine", "starting the HTTP server"),
    ("Loading weights took", "preparing the KV cache"),
    ("Starting to load model", "loading the weights"),
    ("Initializing a V1 LLM engine", "starting the worker"),
    ("Resolved architecture", "starting the engine"),
    ("non-default args", "reading the model's configuration"),
)
"""Marks in vLLM's log and what they mean, latest first."""
_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"address already in use",
        "The port {port} is taken: choose another with --port, or 0 for any free one.",
    ),
    (
        r"no module named '?vllm",
        "vLLM is not installed: run `python -m agentinfer_lg.serving.engine.install` (no GPU), "
        "or `pip install 'agentinfer-lg[serving]'` (GPU).",
    ),
    (
        r"larger than the (?:available|maximum number)|kv cache is needed|no available memory for the cache",
        "The KV cache is too small for one request of the longest context: "
        "give a smaller --max-model-len or a larger --kv-cache-gib.",
    ),
    (
        r"out of memory|cannot allocate memory|std::bad_alloc|not enough memory|memoryerror",
        "Not enough memory: give a smaller --kv-cache-gib or --max-model-len, or a smaller model.",
    ),
    (
        r"gated repo|401 client error|repository not found|not a valid model identifier|repositorynotfound",
        "The model {model} is not on the hub, or your account may not read it: check the name, log in, "
        "or give a local folder.",
    ),
    (
        r"couldn't connect to|localentrynotfound|offline mode|maxretryerror|name resolution",
        "The model hub cannot be reached: give a local folder as the model.",
    ),
    (
        r"unrecognized arguments|invalid choice|expected one argument",
        "vLLM does not know one of the arguments given after `--`.",
    ),
)
"""Patterns in the log of a server that died (lower case), and what to tell the user."""


def startup_stage(lines: Sequence[str]) -> str:
    """Return what a server with the log `lines` is doing."""
    text = "\n".join(lines)
    return next((stage for mark, stage in _STAGES if mark in text), "starting Python")


def explain_exit(lines: Sequence[str], *, code: int | None, model: str, port: int) -> str:
    """Return in a few sentences why a server ended before it was ready, and what to do about it.

    Args:
        lines: Its log.
        code: Its exit code, negative for a signal.
        model: The model it was to serve.
        port: The port it was to listen on.
    """
    text = "\n".join(lines).lower()
    advice = next((advice for pattern, advice in _CAUSES if re.search(pattern, text)), "")
    if not advice and code == -signal.SIGKILL:
        advice = "It was killed from outside, most often for want of memory: give a smaller --kv-cache-gib."
    said = _last_error(lines)
    return " ".join(
        part
        for part in (
            f"the engine ended with code {code} by itself.",
            advice.format(port=port, model=model) if advice else "",
            f"Its last words: {said}" if said else "",
        )
        if part
    )


def _last_error(lines: Sequence[str]) -> str:
    """The line that says most about the cause: ours, or the last exception, passing over reports of another one."""
    plain = [
        re.sub(r"^\([^)]*\)\s*(?:(?:ERROR|INFO|WARNING)\s+\S+\s+\S+\s+\[[^\]]*\]\s*)?", "", line)
        for line in lines
    ]
    ours = [line.partition(": ")[2] for line in plain if re.match(r"agentinfer_lg\.errors\.\w+: ", line)]
    errors = [line for line in plain if re.match(r"[\w.]*(?:Error|Exception|Exit)\b.*:|.*\berror: ", line)]
    telling = [line for line in errors if "Engine core initialization failed" not in line]
    chosen = ours or telling or errors or plain
    return chosen[-1][:500] if chosen else ""
