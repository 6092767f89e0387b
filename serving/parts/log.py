"""What this package has to say, in the log of the engine."""

from __future__ import annotations

import logging


def join_engine_log() -> None:
    """Let the messages of this package take the way of vLLM's own; for code that runs inside the engine.

    vLLM gives handlers to its own logger only, so others' messages would reach nobody, or without time and process.
    """
    ours, theirs = logging.getLogger("agentinfer_lg"), logging.getLogger("vllm")
    for handler in theirs.handlers:
        if handler not in ours.handlers:
            ours.addHandler(handler)
    if theirs.handlers:
        ours.setLevel(theirs.getEffectiveLevel())
        ours.propagate = theirs.propagate
