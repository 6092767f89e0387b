"""A chat model that the caller brings: it keeps what its owner set, and gets only what its kind is known to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.llm.answer import Answer, Counts, read_content
from agentinfer_lg.llm.capabilities import Capabilities
from agentinfer_lg.llm.endpoint_model import EndpointModel, as_message
from agentinfer_lg.llm.failure import Failure, ServerFailureError, describe_failure
from agentinfer_lg.llm.request import (
    THOUGHTS,
    ModelRequest,
    optional_fields,
    rewrite_messages,
    write_messages,
)
from agentinfer_lg.llm.secret_texts import SecretTexts
from agentinfer_lg.settings import EndpointSettings


def speaks_openai(model: BaseChatModel) -> bool:
    """Whether `model` sends requests of the kind of OpenAI's chat completions."""
    return hasattr(model, "openai_api_base")


def keeps_limit(model: BaseChatModel) -> bool:
    """Whether the owner of `model`, or its kind, decides how long its answers may be."""
    if isinstance(model, EndpointModel):
        return False
    return not speaks_openai(model) or getattr(model, "max_tokens", None) is not None


def check_model(model: object, *, tier: str) -> BaseChatModel | None:
    """Return `model` if it is a chat model, or None for none.

    Raises:
        ConfigurationError: It is something else.
    """
    if model is None or isinstance(model, BaseChatModel):
        return model
    kind = type(model).__name__
    fits = "a LangChain chat model, such as ChatOpenAI(...) or init_chat_model('provider:name')"
    if isinstance(model, str):
        hint = f"a name goes through init_chat_model, or into AGENTINFER_{tier.upper()}__MODEL"
    elif hasattr(model, "ainvoke"):
        hint = "a chain or a model with bound tools is none; give the model itself"
    else:
        hint = "see docs/library.md"
    msg = f"The {tier} model must be {fits}, not {kind}: {hint}."
    raise ConfigurationError(msg)


async def ask_given(model: BaseChatModel, request: ModelRequest, known: Capabilities) -> AIMessage:
    """Ask a chat model once.

    Raises:
        ServerFailureError: Its server refuses, or fails.
    """
    options, runnable = _options(model, request, known), cast("Any", model)
    try:
        if request.tools:
            runnable, options = _with_tools(model, request, options)
        answer = await runnable.ainvoke(rewrite_messages(request.messages, known), **options)
    except Exception as error:
        failure = _failure(error, SecretTexts.of(EndpointSettings(), model).hide)
        if failure is None:
            raise
        raise ServerFailureError(failure, body=_sent(request, known, options)) from error
    return _as_message(answer, known, quiet=request.quiet)


def _with_tools(
    model: BaseChatModel, request: ModelRequest, options: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:  # Any: a model with bound tools
    """Return the model with the tools of a request, in the form of its provider, and the options of the call."""
    tools = [dict(tool) for tool in request.tools]
    choice = {"tool_choice": request.tool_choice} if speaks_openai(model) else {}
    try:
        return model.bind_tools(tools), {**options, **choice}
    except NotImplementedError:  # it takes them with the call, or not at all
        return model, {**options, "tools": tools, "tool_choice": request.tool_choice}


def _options(model: BaseChatModel, request: ModelRequest, known: Capabilities) -> dict[str, Any]:
    """Return what is bound to the call: less than for an endpoint, since the owner's choices hold."""
    if not speaks_openai(model):
        return {}
    options: dict[str, Any] = {}
    body: dict[str, Any] = {}
    if request.temperature is not None and known.sends("temperature"):
        options["temperature"] = request.temperature
    if getattr(model, "max_tokens", None) is None:
        # Only OpenAI's own service insists on the newer name, which LangChain sends; other servers may know just the old one.
        if _is_openai(model) or known.limit_name == "max_completion_tokens":
            options["max_tokens"] = request.max_tokens
        else:
            body["max_tokens"] = request.max_tokens
    written = optional_fields(request, known)
    body |= {
        key: written[key] for key in ("response_format", "structured_outputs", "vllm_xargs") if key in written
    }
    if request.quiet and "chat_template_kwargs" in written and not _is_openai(model):
        body["chat_template_kwargs"] = written["chat_template_kwargs"]
    if request.headers:
        own = (getattr(model, "model_kwargs", None) or {}).get("extra_headers") or {}
        options["extra_headers"] = {**own, **request.headers}
    if body:
        # What is bound takes the place of what the model was made with, and its owner's fields win.
        options["extra_body"] = {**body, **(getattr(model, "extra_body", None) or {})}
    return options


def _is_openai(model: BaseChatModel) -> bool:
    url = getattr(model, "openai_api_base", None)
    return not url or (urlsplit(str(url)).hostname or "").endswith("openai.com")


def _sent(request: ModelRequest, known: Capabilities, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was sent, as far as remedies look at it."""
    tools = {"tools": request.tools} if request.tools else {}
    bound = {**options, **options.get("extra_body", {})}
    optional = {key: value for key, value in bound.items() if key not in ("extra_body", "extra_headers")}
    return {"messages": write_messages(request.messages, known), **tools, **optional}


def _failure(error: Exception, hide: Callable[[str], str]) -> Failure | None:
    """Return the failure behind an exception of a provider's library; None where it is not the server's."""
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    if not isinstance(status, int) or not 400 <= status < 600:
        return None
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    body = getattr(error, "body", None)
    words = f"{body if body is not None else ''} {error}"
    message = body.get("message") if isinstance(body, Mapping) else None
    retry = headers.get("retry-after") if hasattr(headers, "get") else None
    wait = float(retry) if isinstance(retry, str) and retry.replace(".", "", 1).isdigit() else None
    return describe_failure(status, hide(str(message or error)), words=words, retry_after=wait)


def _as_message(answer: BaseMessage, known: Capabilities, *, quiet: bool) -> AIMessage:
    """Return what a chat model answered as an endpoint's answer is returned: thoughts apart, counts in one form."""
    text, inner = read_content(answer.content)
    thoughts = str(answer.additional_kwargs.get(THOUGHTS) or inner)
    metadata = answer.response_metadata
    incomplete = metadata.get("incomplete_details")  # of OpenAI's responses
    reason = incomplete.get("reason") if isinstance(incomplete, Mapping) else None
    finish = (
        reason
        or metadata.get("finish_reason")
        or metadata.get("stop_reason")
        or metadata.get("done_reason")
        or ""
    )
    made = as_message(
        Answer(text=text, thoughts=thoughts, finish=str(finish), counts=_counts(answer)), known, quiet=quiet
    )
    return AIMessage(
        made.content,
        tool_calls=list(getattr(answer, "tool_calls", ())),
        additional_kwargs=made.additional_kwargs,
        usage_metadata=getattr(answer, "usage_metadata", None),
        response_metadata={
            **made.response_metadata,
            "broken_calls": len(getattr(answer, "invalid_tool_calls", ())),
        },
    )


def _counts(answer: BaseMessage) -> Counts:
    usage = getattr(answer, "usage_metadata", None) or {}
    details = usage.get("output_token_details") or {}
    return Counts(
        prompt=usage.get("input_tokens"), output=usage.get("output_tokens"), thoughts=details.get("reasoning")
    )
