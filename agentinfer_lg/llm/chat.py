"""The two tiers as chat models: hints attached, constrained decoding where the server has it, failures as sentences.

A `ChatTier` wraps one LangChain chat model. It never changes messages it is given, so that the prompt of a session
always extends the one before and the server's prefix cache works.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from langchain_core.messages import AIMessage, BaseMessage

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.affinity import RANK_HEADER, affinity_headers
from agentinfer_lg.llm.probe import EndpointProfile, probe_endpoint, public_url
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.settings import EndpointSettings, Settings, Tier
from agentinfer_lg.text import well_formed

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

ToolMode = Literal["native", "json"]

_THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_MIN_OUTPUT_TOKENS = 16
_MAX_CHARS_PER_TOKEN = 20


class ContextOverflowError(EndpointError):
    """The prompt does not fit into the context window of the model."""


class RefusedRequestError(EndpointError):
    """The server is there and does not take this request: a field that it does not know, a feature that is off."""


class OutOfTimeError(EndpointError):
    """The seconds that the caller allowed are over; the endpoint may be fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """What the output must look like: by `regex` where the server takes one, else by `schema`, else in words only."""

    schema: Mapping[str, object] | None = None
    """JSON schema of the whole output."""
    regex: str | None = None
    """Regular expression of the whole output; vLLM only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call, as the server counted them (estimated where it does not)."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call as the server parsed it."""

    name: str
    arguments: dict[str, Any]  # Any: JSON values, validated where the tool is run


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answer of a model; empty text and no calls when the output could not be read."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    started: float = 0.0
    """Unix time in seconds at which it was asked for."""
    seconds: float = 0.0
    model: str = ""
    unreadable: str = ""
    """Why the answer of the server could not be read, empty when it could."""


class ChatTier:
    """One tier: a chat model at an endpoint, or a chat model that the caller brings.

    Args:
        tier: Which tier it serves.
        endpoint: Where the model is; ignored when `model` is given, except for its switches.
        model: A LangChain chat model to use as it is.
        profile: What is known of the server of `model`; without one it is taken for a server without extensions.
        name: What messages call it, and the part of `AGENTINFER_<NAME>__...` in its variables; default: the tier.
    """

    def __init__(
        self,
        tier: Tier,
        endpoint: EndpointSettings,
        *,
        model: BaseChatModel | None = None,
        profile: EndpointProfile | None = None,
        name: str = "",
    ) -> None:
        self.tier = tier
        self._name = name or tier
        self._endpoint = endpoint
        self._given = model
        self._client: BaseChatModel | None = model
        self._profile = profile
        self._lock = asyncio.Lock()
        self._guides = True
        self._names_ranks = True
        self._has_called_tools = False
        self._tool_mode: ToolMode = "json" if endpoint.tool_calling == "json" else "native"

    @property
    def tool_mode(self) -> ToolMode:
        """How tools are called now; `auto` starts native and falls back to `json` for good."""
        return self._tool_mode

    def prefer_json(self) -> None:
        """Give up the server's tool calling for this tier, unless the settings insist on it or it has worked before."""
        if self._endpoint.tool_calling == "auto" and not self._has_called_tools:
            self._tool_mode = "json"

    @property
    def max_model_len(self) -> int | None:
        """Context window in tokens, where the server tells it."""
        return self._profile.max_model_len if self._profile else None

    @property
    def same_place(self) -> tuple[str, str]:
        """Identity of the endpoint, to see whether two tiers share one."""
        if self._given is not None:
            return f"given:{id(self._given)}", ""
        return self._endpoint.base_url, self._endpoint.model

    async def call(
        self,
        messages: Sequence[BaseMessage],
        *,
        hints: SessionHints,
        max_tokens: int,
        temperature: float = 0.0,
        guide: Guide | None = None,
        tools: Sequence[Mapping[str, object]] = (),
        tool_choice: Literal["auto", "none"] = "auto",
        timeout: float | None = None,
    ) -> Reply:
        """Call the model once.

        Args:
            messages: The whole prompt.
            hints: Sent along if the server understands them.
            max_tokens: Most tokens to generate; lowered to what the context window leaves.
            guide: Constrains the output where the server can.
            tools: OpenAI tool definitions; empty for none.
            timeout: Seconds; the endpoint's own timeout also applies.

        Raises:
            EndpointError: The server cannot be reached or refuses the request.
            RefusedRequestError: The server does not take a request like this one.
            ContextOverflowError: The prompt does not fit.
            OutOfTimeError: `timeout` is over.
        """
        client = await self._ready()
        max_tokens = self._fit(messages, max_tokens)
        guided = guide is not None and self._guides
        options = self._options(hints, max_tokens, temperature, guide if guided else None, tools, tool_choice)
        started = time.monotonic()
        limit = self._endpoint.timeout if timeout is None else min(timeout, self._endpoint.timeout)
        try:
            async with asyncio.timeout(limit):
                answer = await self._answer(client, messages, options)
        except EndpointError:
            raise
        except TimeoutError:
            if limit < self._endpoint.timeout:
                msg = f"The time allowed was over before the {self._name} model answered."
                raise OutOfTimeError(msg) from None
            msg = f"The {self._name} model at {self._where} did not answer within {limit:.0f} s."
            raise EndpointError(msg) from None
        except Exception as error:
            ranked = RANK_HEADER in options.get("extra_headers", ())
            if guided and _rejects(error, "structured_outputs", "response_format", "guided"):
                self._guides = False
            elif ranked and _rejects(error, "data_parallel_rank"):
                self._names_ranks = False  # the server was started anew with fewer ranks
                self._check_ranks_setting()
            else:
                return self._failed(error, time.monotonic() - started)
            return await self.call(
                messages,
                hints=hints,
                max_tokens=max_tokens,
                temperature=temperature,
                guide=guide,
                tools=tools,
                tool_choice=tool_choice,
                timeout=timeout,
            )
        return self._reply(answer, messages, max_tokens, time.monotonic() - started)

    async def _answer(
        self, client: BaseChatModel, messages: Sequence[BaseMessage], options: Mapping[str, Any]
    ) -> BaseMessage:
        """Return an answer that is whole: vLLM gives out what it has when an engine dies, and says 200."""
        for _ in range(1 + self._endpoint.max_retries):
            answer = await client.ainvoke(list(messages), **options)
            if answer.response_metadata.get("finish_reason") != "abort":
                return answer
        msg = (
            f"The {self._name} model at {self._where} broke off its answer: the server is being stopped, or an engine of it "
            "has died. Start it again."
        )
        raise EndpointError(msg)

    async def _ready(self) -> BaseChatModel:
        """Return the chat model, made on first use (off the event loop: it reads certificates)."""
        async with self._lock:
            if self._client is None:
                self._profile = await probe_endpoint(self._endpoint)
                self._client = await asyncio.to_thread(_make_chat_model, self._endpoint, self._profile.model)
            return self._client

    @property
    def _where(self) -> str:
        return type(self._given).__name__ if self._given is not None else public_url(self._endpoint.base_url)

    @property
    def _is_vllm(self) -> bool:
        return self._profile is not None and self._profile.vllm

    @property
    def _speaks_openai(self) -> bool:
        return self._given is None or hasattr(self._given, "openai_api_base")

    def _sends_hints(self) -> bool:
        return self._speaks_openai and (
            self._endpoint.hints == "on" or (self._endpoint.hints == "auto" and self._is_vllm)
        )

    def _affinity(self, hints: SessionHints) -> dict[str, str]:
        """Return the headers that keep the session where its cache is."""
        ranks = self._profile.data_parallel_size if self._profile and self._names_ranks else 1
        return affinity_headers(hints.session_id, ranks=ranks)

    def _check_ranks_setting(self) -> None:
        """Tell of a number of ranks that was set and is wrong; one that the server told may be outdated."""
        if self._endpoint.data_parallel_size > 1:
            msg = (
                f"The {self._name} model at {self._where} has fewer than {self._endpoint.data_parallel_size} data-parallel "
                f"ranks. Set AGENTINFER_{self._name.upper()}__DATA_PARALLEL_SIZE to their number, or to 0 to ask the server."
            )
            raise EndpointError(msg)

    def _fit(self, messages: Sequence[BaseMessage], max_tokens: int) -> int:
        window = self.max_model_len
        if window is None:
            return max_tokens
        left = window - sum(estimate_tokens(str(m.content)) + 8 for m in messages)
        # The estimate may be off by a quarter either way: only clear overflows are refused here, the server has the last word.
        if left < -window // 4:
            msg = f"The context of {window} tokens of the {self._name} model is full."
            raise ContextOverflowError(msg)
        return min(max_tokens, max(_MIN_OUTPUT_TOKENS, left))

    def _options(
        self,
        hints: SessionHints,
        max_tokens: int,
        temperature: float,
        guide: Guide | None,
        tools: Sequence[Mapping[str, object]],
        tool_choice: str,
    ) -> dict[str, Any]:  # Any: keyword arguments of the chat model
        options: dict[str, Any] = {}
        if tools:
            options["tools"] = [dict(tool) for tool in tools]
            options["tool_choice"] = tool_choice
        if not self._speaks_openai:
            return options
        body: dict[str, object] = {}
        options["temperature"] = temperature
        # Only OpenAI's own service insists on the newer name; most compatible servers know just the old one.
        if (urlsplit(self._endpoint.base_url).hostname or "").endswith("openai.com"):
            options["max_tokens"] = max_tokens
        else:
            body["max_tokens"] = max_tokens
        if guide is not None:
            body.update(self._constraint(guide))
        if self._sends_hints():
            body["vllm_xargs"] = hints.to_xargs()
            if headers := self._affinity(hints):
                options["extra_headers"] = {**_model_headers(self._given), **headers}
        if body:
            # What is bound takes the place of what a given model was made with.
            options["extra_body"] = {**(getattr(self._given, "extra_body", None) or {}), **body}
        return options

    def _constraint(self, guide: Guide) -> dict[str, object]:
        if guide.regex is not None and self._is_vllm:
            return {"structured_outputs": {"regex": guide.regex}}
        if guide.schema is not None:
            # Set here and not as an option: LangChain would switch to a parsing call that raises on truncated output.
            schema = {"name": "step", "schema": dict(guide.schema)}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        return {}

    def _reply(
        self, answer: BaseMessage, messages: Sequence[BaseMessage], max_tokens: int, seconds: float
    ) -> Reply:
        # A server that ignores max_tokens must not flood the transcript.
        text = _THINKING.sub("", well_formed(_text(answer)[: max_tokens * _MAX_CHARS_PER_TOKEN])).strip()
        calls = tuple(
            ToolCall(name=call["name"], arguments=dict(call["args"]))
            for call in getattr(answer, "tool_calls", ())
            if isinstance(call.get("args"), dict)
        )
        self._has_called_tools = self._has_called_tools or bool(calls)
        return Reply(
            text=text,
            tool_calls=calls,
            usage=_usage(answer, messages, text),
            started=time.time() - seconds,
            seconds=seconds,
            model=self._profile.model if self._profile else type(self._given).__name__,
            unreadable="" if text or calls else "the answer is empty",
        )

    def _failed(self, error: Exception, seconds: float) -> Reply:
        """Turn a failure into an unreadable reply, or raise it as a sentence."""
        import openai

        if isinstance(error, openai.APIResponseValidationError | json.JSONDecodeError) or not isinstance(
            error, openai.OpenAIError
        ):
            if self._given is not None and not isinstance(
                error, TypeError | KeyError | ValueError | IndexError
            ):
                msg = f"The {self._name} model ({self._where}) failed: {type(error).__name__}: {self._safe(str(error))}"
                raise EndpointError(msg) from error
            return Reply(
                started=time.time() - seconds,
                seconds=seconds,
                unreadable=f"{type(error).__name__} while reading the answer",
            )
        status = getattr(error, "status_code", None)
        raise _as_endpoint_error(status, self._safe(str(error)), self._name, self._where) from None

    def _safe(self, text: str) -> str:
        """Return the text of an error without the key, which some servers repeat."""
        key = self._endpoint.api_key.get_secret_value()
        return text.replace(key, "***") if key else text


class Models:
    """Both tiers of a run."""

    def __init__(
        self, settings: Settings, *, small: BaseChatModel | None = None, large: BaseChatModel | None = None
    ) -> None:
        small = small or (large if not settings.small.configured and not settings.large.configured else None)
        large = large or (small if not settings.small.configured and not settings.large.configured else None)
        self.small = ChatTier("small", _endpoint(settings, "small", given=small), model=small)
        self.large = ChatTier("large", _endpoint(settings, "large", given=large), model=large)

    def tier(self, name: Tier) -> ChatTier:
        """Return the model of tier `name`."""
        return self.small if name == "small" else self.large


def _endpoint(settings: Settings, tier: Tier, *, given: BaseChatModel | None) -> EndpointSettings:
    return settings.endpoint(tier) if given is None else getattr(settings, tier)


def _make_chat_model(endpoint: EndpointSettings, model: str) -> BaseChatModel:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model=model,
        base_url=endpoint.base_url,
        api_key=endpoint.api_key if endpoint.api_key.get_secret_value() else _NO_KEY,
        timeout=endpoint.timeout,
        max_retries=endpoint.max_retries,
        stream_usage=True,
        use_responses_api=False,
        # A kept-alive connection belongs to one event loop: in the next one (each `asyncio.run`) it would be dead. Setting
        # one up anew costs nothing beside a model call.
        default_headers={"Connection": "close"},
    )


def _model_headers(model: BaseChatModel | None) -> dict[str, str]:
    """Headers that a given model sends with every request, whose place would be taken by ours."""
    return dict((getattr(model, "model_kwargs", None) or {}).get("extra_headers") or {})


def _no_key() -> str:
    return "none"


_NO_KEY = _no_key
"""Sent as the key of servers that want none; a callable, so that OPENAI_API_KEY of the environment is never used."""


def _text(answer: BaseMessage) -> str:
    content = answer.content
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)


def _usage(answer: BaseMessage, messages: Sequence[BaseMessage], text: str) -> Usage:
    metadata = answer.usage_metadata if isinstance(answer, AIMessage) else None
    if metadata is None:
        prompt = sum(estimate_tokens(str(message.content)) for message in messages)
        return Usage(prompt_tokens=prompt, output_tokens=estimate_tokens(text))
    details = metadata.get("input_token_details") or {}
    return Usage(
        prompt_tokens=metadata["input_tokens"],
        cached_tokens=details.get("cache_read") or 0,
        output_tokens=metadata["output_tokens"],
    )


def _rejects(error: Exception, *fields: str) -> bool:
    """Whether the server refused the request because of one of `fields`."""
    return getattr(error, "status_code", None) in (400, 422, 501) and any(
        name in str(error) for name in fields
    )


def _as_endpoint_error(status: int | None, text: str, name: str, where: str) -> EndpointError:
    if status == 400 and re.search(
        r"context length|context_length|maximum.{0,40}tokens|too long", text, re.I
    ):
        return ContextOverflowError(f"The context of the {name} model at {where} is full.")
    # llama.cpp without a chat template for tools says 500.
    if status in (400, 422, 501) or (status == 500 and "tool" in text.lower()):
        return RefusedRequestError(f"The {name} model at {where} refused the request: {text[:300]}")
    reasons = {
        401: f"refused the key. Set AGENTINFER_{name.upper()}__API_KEY to a valid one.",
        403: f"refused the key. Set AGENTINFER_{name.upper()}__API_KEY to one that may use this model.",
        404: f"does not serve this model. Set AGENTINFER_{name.upper()}__MODEL to one that it lists.",
        429: "is over its rate limit or quota. Wait, or ask for less at once (--max-seekers, --parallel).",
        None: "cannot be reached. Start it, or correct the URL; `agentinfer doctor` checks it.",
    }
    reason = reasons.get(status, f"failed with status {status}: {text[:300]}")
    return EndpointError(f"The {name} model at {where} {reason}")
