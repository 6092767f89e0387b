"""Failures of a server as sentences that say what to do."""

from __future__ import annotations

import re
from typing import Final

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.failure import Failure, ServerFailureError
from agentinfer_lg.llm.reply import ContextOverflowError, RefusedRequestError

LEAST_OUTPUT: Final = 16
"""Tokens below which an output is of no use."""


def as_endpoint_error(error: ServerFailureError, *, name: str, where: str, said: str) -> EndpointError:
    """Return a failure as a sentence that says what to do.

    Args:
        error: The failure.
        name: What messages call the model, and the part of its variables' names.
        where: The endpoint, fit to be shown.
        said: The server's own words, without keys.
    """
    failure = error.failure
    if failure.kind == "overflow":
        return ContextOverflowError(f"The context of the {name} model at {where} is full: {said}")
    # A server without a parser for tools, or for a form of messages, breaks in any way.
    broken = failure.kind == "server" and "tools" in error.body and failure.status in (500, 501)
    if failure.kind == "refused" or broken:
        return RefusedRequestError(f"The {name} model at {where} refused the request: {said}")
    variable = f"AGENTINFER_{name.upper()}__"
    reasons = {
        "key": f"refused the key. Set {variable}API_KEY to "
        + ("a valid one." if failure.status != 403 else "one that may use this model."),
        "model": f"does not serve this model. Set {variable}MODEL to one that it lists.",
        "rate": "is over its rate limit or quota. Wait, or ask for less at once (--max-seekers, --parallel).",
        "quota": "has no quota or credit left for this key.",
        "filter": "refused the content by its policy.",
        "server": f"failed with status {failure.status}.",
    }
    quoted = f" The server says: {said}" if said else ""
    return EndpointError(f"The {name} model at {where} {reasons[failure.kind]}{quoted}")


def output_that_fits(failure: Failure, asked: int) -> int | None:
    """Return the output tokens that a window leaves, where the server names both prompt and window.

    Args:
        failure: What it said.
        asked: Output tokens that were asked for.
    """
    if failure.kind != "overflow" or failure.window is None:
        return None
    told = re.search(
        r"(\d[\d,]*) (?:input tokens|in the messages|tokens? in (?:the|your) (?:prompt|input|messages))|"
        r"(?:contains|has|prompt is|input is)(?: at least)? (\d[\d,]*) (?:input |prompt )?tokens",
        failure.words,
        re.IGNORECASE,
    )
    if told is None:
        return None
    left = failure.window - int((told[1] or told[2]).replace(",", ""))
    return left if LEAST_OUTPUT <= left < asked else None
