"""What a model call of an agent is for, and what is added to its request because of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal
from urllib.parse import urlsplit

from langchain.agents.middleware.types import ModelRequest
from langchain_core.language_models import BaseChatModel

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.affinity import affinity_headers
from agentinfer_lg.llm.probe import EndpointProfile

CallRole = Literal["think", "progress", "prewarm"]
"""A step of the agent; the question after its progress; a call whose answer nobody reads."""

_ROLE: ContextVar[CallRole] = ContextVar("agentinfer_call_role", default="think")


def call_role() -> CallRole:
    """Return what the current model call is for: middleware further in sees calls that are no step of the agent."""
    return _ROLE.get()


@contextmanager
def as_role(role: CallRole) -> Iterator[None]:
    """Make the model calls inside calls of that role."""
    token = _ROLE.set(role)
    try:
        yield
    finally:
        _ROLE.reset(token)


def speaks_openai(model: BaseChatModel) -> bool:
    """Whether `model` sends requests of the kind of OpenAI's chat completions."""
    return hasattr(model, "openai_api_base") and hasattr(model, "extra_body")


def base_url(model: BaseChatModel) -> str:
    """Return where an OpenAI-compatible server is that is not OpenAI's own; empty for every other model."""
    url = getattr(model, "openai_api_base", None) if speaks_openai(model) else None
    if not isinstance(url, str) or (urlsplit(url).hostname or "").endswith("openai.com"):
        return ""
    return url


def extended(request: ModelRequest[Any], body: Mapping[str, Any]) -> ModelRequest[Any]:
    """Return the request with fields added to the body that is sent; unchanged for a model that has no such body."""
    if not body or not speaks_openai(request.model):
        return request
    # What is bound here takes the place of what the model was made with, so that is repeated.
    known = dict(getattr(request.model, "extra_body", None) or {})
    known |= request.model_settings.get("extra_body") or {}
    merged = {**known, **body}
    before, after = known.get("vllm_xargs") or {}, body.get("vllm_xargs") or {}
    if before and after:
        superseding = max(before.get("agent_supersedes", 0), after.get("agent_supersedes", 0))
        merged["vllm_xargs"] = {**before, **after, "agent_supersedes": superseding}
    return request.override(model_settings={**request.model_settings, "extra_body": merged})


def hinted(
    request: ModelRequest[Any], hints: SessionHints, profile: EndpointProfile | None
) -> ModelRequest[Any]:
    """Return the request with session hints, and with the headers that keep the session where its cache is.

    Args:
        request: The request.
        hints: The hints.
        profile: What is known of the server.
    """
    request = extended(request, {"vllm_xargs": hints.to_xargs()})
    headers = affinity_headers(hints.session_id, ranks=profile.data_parallel_size if profile else 1)
    if not headers or not speaks_openai(request.model):
        return request
    known = dict((getattr(request.model, "model_kwargs", None) or {}).get("extra_headers") or {})
    known |= request.model_settings.get("extra_headers") or {}
    return request.override(model_settings={**request.model_settings, "extra_headers": {**known, **headers}})


def limited(request: ModelRequest[Any], tokens: int) -> ModelRequest[Any]:
    """Return the request with an output of at most `tokens`, where it is known how to say that."""
    if not speaks_openai(request.model):
        return request
    request = request.override(model_settings={**request.model_settings, "max_tokens": tokens})
    # LangChain sends the newer name of the field, which not every compatible server knows.
    return extended(request, {"max_tokens": tokens}) if base_url(request.model) else request
