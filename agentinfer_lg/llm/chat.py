"""A tier of a run: a model, asked in the way that its server takes.

A `ChatTier` wraps one LangChain chat model. It never changes messages it is given, so that the prompt of a session
always extends the one before and the server's prefix cache works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakKeyDictionary

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.hints import AgentRole, SessionHints
from agentinfer_lg.llm.affinity import RANK_HEADER, affinity_headers
from agentinfer_lg.llm.capabilities import Capabilities, Known
from agentinfer_lg.llm.connection import Connection, ConnectionLostError, public_url
from agentinfer_lg.llm.cut_answer import may_be_thinking, room_after_cut
from agentinfer_lg.llm.endpoint_errors import LEAST_OUTPUT, as_endpoint_error, output_that_fits
from agentinfer_lg.llm.endpoint_model import UNREADABLE, EndpointModel
from agentinfer_lg.llm.failure import Failure, ServerFailureError
from agentinfer_lg.llm.given_model import ask_given, check_model, keeps_limit, speaks_openai
from agentinfer_lg.llm.known_endpoints import contact, forget, known_of
from agentinfer_lg.llm.negotiation import negotiate
from agentinfer_lg.llm.output_room import OutputRoom
from agentinfer_lg.llm.probe import EndpointProfile
from agentinfer_lg.llm.provider_model import make_provider_model
from agentinfer_lg.llm.quiet import asks_for_quiet
from agentinfer_lg.llm.remedies import after_quiet_form
from agentinfer_lg.llm.reply import (
    ContextOverflowError,
    OutOfTimeError,
    RefusedRequestError,
    Reply,
    Usage,
    read_reply,
    why_empty,
)
from agentinfer_lg.llm.request import Guide, ModelRequest, message_text
from agentinfer_lg.llm.secret_texts import SecretTexts
from agentinfer_lg.llm.silent_cut import PromptSizes
from agentinfer_lg.llm.tokens import estimate_tokens, token_counter
from agentinfer_lg.settings import EndpointSettings, Tier

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = (
    "ChatTier",
    "ContextOverflowError",
    "Guide",
    "OutOfTimeError",
    "RefusedRequestError",
    "Reply",
    "Usage",
)

ToolMode = Literal["native", "json"]

_BE_BRIEF: Final = "Your answer was cut off because it was too long. Answer again, in far fewer words."
_LAST_TRY: Final = 3
_MOST_SESSIONS: Final = 1000
_ASK_AGAIN: Final = 3600.0
"""Seconds after which a server is contacted as if for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """What a caller asks for, whatever becomes of it."""

    messages: Sequence[BaseMessage]
    hints: SessionHints
    max_tokens: int
    temperature: float | None
    guide: Guide | None
    tools: Sequence[Mapping[str, object]]
    tool_choice: Literal["auto", "none"]
    whole: bool
    enough: Callable[[str], bool] | None


class ChatTier:
    """One tier: a chat model at an endpoint, or a chat model that the caller brings.

    Args:
        tier: Which tier it serves.
        endpoint: Where the model is; ignored when `model` is given, except for its switches.
        model: A LangChain chat model to use as it is.
        profile: What is known of the server of `model`; without one it is taken for a server without extensions.
        name: What messages call it, and the part of `AGENTINFER_<NAME>__...` in its variables; default: the tier.
        on_wait: Told, in a sentence, when the server makes a call wait.

    Raises:
        ConfigurationError: `model` is no chat model.
    """

    def __init__(
        self,
        tier: Tier,
        endpoint: EndpointSettings,
        *,
        model: BaseChatModel | None = None,
        profile: EndpointProfile | None = None,
        name: str = "",
        on_wait: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.tier = tier
        self._name = name or tier
        self._endpoint = endpoint
        self._given = check_model(model, tier=tier)
        self._client: BaseChatModel | None = model
        self._profile = profile
        self._on_wait = on_wait
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._names_ranks = True
        self._known = Known() if model is not None else known_of(endpoint)
        self._sizes = PromptSizes()
        self._silent_turns: dict[str, int] = {}
        self._asked_again = False
        self._made = 0.0
        self._count_tokens: Callable[[str], int] = estimate_tokens
        self._tool_mode: ToolMode = "json" if endpoint.tool_calling == "json" else "native"
        if profile is not None and profile.vllm:
            self._take_regex()

    @property
    def known(self) -> Known:
        """What was learned of the model and its server."""
        return self._known

    @property
    def profile(self) -> EndpointProfile | None:
        """What the server says about itself; None before the first call, and for a chat model of the caller's."""
        return self._profile

    @property
    def tool_mode(self) -> ToolMode:
        """How tools are called now; `auto` starts native and falls back to `json`."""
        return self._tool_mode

    def prefer_json(self, *, session: str = "", refused: bool = False) -> ToolMode:
        """Give up the server's tool calling, unless the settings insist on it; returns how this session goes on.

        A model that has called tools before is forgiven one step without a call; after another one in a row, or a refusal, the
        session goes on in JSON, and others as they were. A model that never called one is asked for JSON by all.

        Args:
            session: Whose step it was.
            refused: The server refused the request; it is of no use to try again.
        """
        if self._endpoint.tool_calling != "auto":
            return self._tool_mode
        if not self._known.capabilities.called_tools:
            self._tool_mode = "json"
        silent = self._silent_turns.pop(session, 0) + 1
        self._silent_turns[session] = silent
        if len(self._silent_turns) > _MOST_SESSIONS:
            del self._silent_turns[next(iter(self._silent_turns))]
        return "json" if refused or silent > 1 else self._tool_mode

    @property
    def max_model_len(self) -> int | None:
        """Context window in tokens, where the server tells it or an answer showed it."""
        told = self._profile.max_model_len if self._profile else None
        learned = self._known.capabilities.window
        return min(filter(None, (told, learned)), default=None)

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
        temperature: float | None = 0.0,
        guide: Guide | None = None,
        tools: Sequence[Mapping[str, object]] = (),
        tool_choice: Literal["auto", "none"] = "auto",
        timeout: float | None = None,
        whole: bool = True,
        enough: Callable[[str], bool] | None = None,
    ) -> Reply:
        """Call the model until its answer is whole.

        Args:
            messages: The whole prompt.
            hints: Sent along if the server understands them.
            max_tokens: Most visible tokens to generate; lowered to what the context window leaves. Thoughts come on top.
            temperature: None: as the model's owner or its server has it.
            guide: Constrains the output where the server can.
            tools: OpenAI tool definitions; empty for none.
            tool_choice: Whether the tools may be called, or only stay in the prompt.
            timeout: Seconds; the endpoint's own timeout also applies, to each request.
            whole: Ask again when the visible text was cut; without any it is asked for again in any case.
            enough: Whether the text of a cut answer does all the same.

        Raises:
            EndpointError: The server cannot be reached or refuses the request.
            RefusedRequestError: The server does not take a request like this one.
            ContextOverflowError: The prompt does not fit.
            OutOfTimeError: `timeout` is over.
        """
        ask = _Ask(
            messages=messages,
            hints=hints,
            max_tokens=max_tokens,
            temperature=temperature,
            guide=guide,
            tools=tools,
            tool_choice=tool_choice,
            whole=whole,
            enough=enough,
        )
        try:
            async with asyncio.timeout(timeout):
                client = await self._ready()
                return await self._whole_answer(client, ask)
        except TimeoutError:
            msg = f"The time allowed was over before the {self._name} model answered."
            raise OutOfTimeError(msg) from None

    async def _whole_answer(self, client: BaseChatModel, ask: _Ask) -> Reply:
        """Ask, and ask again with more room while the answer is cut."""
        warms = ask.hints.role == "prewarm"  # nobody reads what it answers
        thoughts = 0 if warms else self._known.capabilities.thinking_room
        room = OutputRoom(visible=ask.max_tokens, thoughts=thoughts)
        retries, tokens = 0, 0
        while True:
            reply = await self._once(client, ask, room)
            following = self._next_room(reply, ask, room) if reply.cut and not warms else None
            if following is None or retries >= _LAST_TRY:
                if reply.cut and may_be_thinking(reply, self._known.capabilities):
                    reply = replace(reply, text="", unreadable=why_empty({}, thoughts=True, cut=True))
                return replace(reply, retries=retries, retry_tokens=tokens)
            retries, tokens = retries + 1, tokens + reply.usage.prompt_tokens + reply.usage.output_tokens
            room = following

    def _next_room(self, reply: Reply, ask: _Ask, room: OutputRoom) -> OutputRoom | None:
        return room_after_cut(
            reply,
            room,
            known=self._known.capabilities,
            whole=ask.whole,
            enough=ask.enough,
            left=self._room_left(ask.messages),
        )

    async def _once(
        self, client: BaseChatModel, ask: _Ask, room: OutputRoom, *, streams: bool = False
    ) -> Reply:
        """Make one request, in the way that the server takes it."""
        limit = self._fit(ask.messages, room.tokens)
        request = replace(self._request(ask, room, limit), streams=streams)
        asked, started = self._known.capabilities, time.monotonic()
        try:
            answer = await self._negotiated(client, request)
        except ServerFailureError as error:
            smaller = output_that_fits(error.failure, limit)
            if error.failure.kind == "overflow":
                self._learn_window(error.failure)
            if smaller is not None:
                request = replace(request, max_tokens=smaller)
                try:
                    answer = await self._negotiated(client, request)
                except ServerFailureError as second:
                    raise self._as_error(second) from second.__cause__
            else:
                raise self._as_error(error) from error.__cause__
        reply = read_reply(answer, request, seconds=time.monotonic() - started, model=self.model_name)
        self._look_at(reply, request, answer, asked=asked, session=ask.hints.session_id)
        if not reply.unreadable:
            self._asked_again = False
        elif not reply.cut and not self._asked_again:
            return await self._once_again(client, ask, room) or reply
        return reply

    async def _once_again(self, client: BaseChatModel, ask: _Ask, room: OutputRoom) -> Reply | None:
        """Ask for an answer as a stream after one that cannot be read: some servers have none otherwise.

        An answer that was all thought is asked for again as it was. Either is tried once, and again after an answer that could
        be read.
        """
        self._asked_again = True
        before = self._known.capabilities
        streams = isinstance(client, EndpointModel) and not before.streams_only and not before.thinks
        try:
            reply = await self._once(client, ask, room, streams=streams)
        except EndpointError:
            return None
        if reply.unreadable:
            return None
        if streams:
            self._known.learn(lambda now: replace(now, streams_only=True))
        return reply

    async def _negotiated(self, client: BaseChatModel, request: ModelRequest) -> AIMessage:
        async def send(known: Capabilities) -> AIMessage:
            try:
                async with asyncio.timeout(self._endpoint.timeout):
                    return await self._send(client, request, known)
            except TimeoutError:
                raise _TooSlowError from None

        try:
            return await negotiate(
                send,
                self._known,
                retries=self._endpoint.max_retries,
                start_seconds=self._endpoint.start_timeout,
                on_wait=self._on_wait,
            )
        except _TooSlowError:
            limit = self._endpoint.timeout
            msg = f"The {self._name} model at {self._where} did not answer within {limit:.0f} s."
            raise EndpointError(msg) from None
        except ConnectionLostError as error:
            self._start_anew()
            raise ConnectionLostError(f"The {self._name} model at {self._where}", error.reason) from None
        except ServerFailureError as error:
            if RANK_HEADER in request.headers and "data_parallel_rank" in error.failure.words:
                return await self._without_rank(client, request)
            raise

    async def _without_rank(self, client: BaseChatModel, request: ModelRequest) -> AIMessage:
        """Ask again without naming a rank: the server was started anew with fewer."""
        self._names_ranks = False
        self._check_ranks_setting()
        headers = {name: value for name, value in request.headers.items() if name != RANK_HEADER}
        return await self._negotiated(client, replace(request, headers=headers))

    async def _send(self, client: BaseChatModel, request: ModelRequest, known: Capabilities) -> AIMessage:
        if self._given is None and isinstance(client, EndpointModel):
            return await client.ainvoke(
                list(request.messages), request=request, known=known, timeout=self._endpoint.timeout
            )
        try:
            return await ask_given(client, request, known)
        except EndpointError:
            raise
        except (TypeError, KeyError, ValueError, IndexError) as error:
            reason = f"{type(error).__name__} while reading the answer"
            return AIMessage("", response_metadata={UNREADABLE: reason})
        except Exception as error:
            msg = f"The {self._name} model ({self._where}) failed: {type(error).__name__}: {self._safe(str(error))}"
            raise EndpointError(msg) from error

    async def connect(self) -> EndpointProfile | None:
        """Contact the server, if that has not been done, and return what it says about itself.

        Raises:
            EndpointError: It cannot be reached, refuses the key, or does not serve the model.
            ConfigurationError: The endpoint cannot be used as it is set.
        """
        await self._ready()
        return self._profile

    async def server_counts_tokens(self) -> bool:
        """Whether the server has vLLM's route for counting tokens."""
        client = await self._ready()
        return isinstance(client, EndpointModel) and await client.counts_tokens()

    async def _ready(self) -> BaseChatModel:
        """Return the chat model, made on first use (off the event loop: a provider's package takes long to import)."""
        if self._given is None and self._client is not None and time.monotonic() - self._made > _ASK_AGAIN:
            self._start_anew()
        if self._client is None:
            # A lock belongs to one event loop; calls in two of them may both make the model, and either will do.
            async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
                if self._client is None:
                    self._client, self._made = await self._make(), time.monotonic()
        return self._client

    def _start_anew(self) -> None:
        """Let the next call contact the server as if for the first time: it may be another one, or have another model."""
        if self._given is None:
            forget(self._endpoint)
            self._known, self._client = known_of(self._endpoint), None

    async def _make(self) -> BaseChatModel:
        endpoint = self._endpoint
        if endpoint.provider:
            await self._choose_counter(endpoint.model.partition(":")[2], hosted=endpoint.provider == "openai")
            return await asyncio.to_thread(make_provider_model, endpoint, name=self._name)
        self._profile = await contact(endpoint, on_wait=self._on_wait)
        connection = Connection(endpoint.model_copy(update={"base_url": self._profile.base_url}))
        if self._profile.vllm:
            self._take_regex()
        await self._choose_counter(self._profile.model, hosted=connection.is_openai)
        return EndpointModel.at(connection, model=self._profile.model, known=self._known)

    async def _choose_counter(self, model: str, *, hosted: bool) -> None:
        """Count the tokens of hosted OpenAI models exactly, where their encoding is on disk."""
        self._count_tokens = await asyncio.to_thread(token_counter, model, openai=hosted)

    def _prompt_tokens(self, messages: Sequence[BaseMessage]) -> int:
        return sum(self._count_tokens(message_text(message)) + 8 for message in messages)

    def _take_regex(self) -> None:
        """Prescribe outputs by regular expressions, as vLLM can, unless it was seen to refuse them."""
        if "regex" not in self._known.lessons:
            self._known.learn(lambda now: replace(now, guide="regex") if now.guide == "json_schema" else now)

    @property
    def _where(self) -> str:
        if self._given is not None:
            return type(self._given).__name__
        return public_url(self._endpoint.base_url) if self._endpoint.base_url else self._endpoint.model

    @property
    def model_name(self) -> str:
        """Name of the model, as far as it is known."""
        if self._profile is not None:
            return self._profile.model
        return type(self._given).__name__ if self._given is not None else self._endpoint.model

    @property
    def _is_vllm(self) -> bool:
        return self._profile is not None and self._profile.vllm

    def _sends_hints(self) -> bool:
        speaks = (self._given is None and not self._endpoint.provider) or (
            self._given is not None and speaks_openai(self._given)
        )
        return speaks and (self._endpoint.hints == "on" or (self._endpoint.hints == "auto" and self._is_vllm))

    def _request(self, ask: _Ask, room: OutputRoom, limit: int) -> ModelRequest:
        messages = list(ask.messages)
        if room.brief:
            messages.append(HumanMessage(_BE_BRIEF))
        hinted = self._sends_hints()
        given = self._given is not None or bool(self._endpoint.provider)
        return ModelRequest(
            messages=messages,
            max_tokens=limit,
            temperature=ask.temperature if ask.temperature is not None or given else 0.0,
            guide=ask.guide,
            tools=ask.tools,
            tool_choice=ask.tool_choice,
            quiet=asks_for_quiet(
                ask.hints.role,
                self._known.capabilities,
                thinking=self._endpoint.thinking,
                model=self.model_name,
                brief=room.brief,
            ),
            xargs=ask.hints.to_xargs() if hinted else {},
            headers=self._affinity(ask.hints) if hinted else {},
            extra=self._extra(ask.hints.role),
        )

    def _extra(self, role: AgentRole | None) -> dict[str, Any]:
        """Return the fields that the owner of the endpoint adds to the calls of a role."""
        own = self._endpoint.role_body.get(role, {}) if role is not None else {}
        return {**self._endpoint.extra_body, **own}

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

    def _room_left(self, messages: Sequence[BaseMessage]) -> int | None:
        """Return the tokens that window and server leave for an output; None: not known."""
        if self._client is not None and keeps_limit(self._client):
            return 0  # more than its owner allows cannot be asked for
        window, most = self.max_model_len, self._known.capabilities.most_output
        left = None if window is None else max(LEAST_OUTPUT, window - self._prompt_tokens(messages))
        return min(filter(None, (left, most)), default=None)

    def _fit(self, messages: Sequence[BaseMessage], max_tokens: int) -> int:
        window = self.max_model_len
        if window is None:
            return max_tokens
        left = window - self._prompt_tokens(messages)
        # The estimate may be off by a quarter either way: only clear overflows are refused here, the server has the last word.
        if left < -window // 4:
            msg = f"The context of {window} tokens of the {self._name} model is full."
            raise ContextOverflowError(msg)
        return min(max_tokens, max(LEAST_OUTPUT, left))

    def _learn_window(self, failure: Failure) -> None:
        window = failure.window
        if window is not None and (self.max_model_len is None or window < self.max_model_len):
            self._known.learn(lambda now: replace(now, window=window))

    def _look_at(
        self, reply: Reply, request: ModelRequest, answer: AIMessage, *, asked: Capabilities, session: str
    ) -> None:
        """Learn from an answer: whether the model thinks, calls tools, and saw the whole prompt.

        Raises:
            ContextOverflowError: The server left out a part of the prompt without a word.
        """
        if answer.response_metadata.get("finish_reason") == "abort":
            msg = (
                f"The {self._name} model at {self._where} broke off its answer: the server is being stopped, or an engine of "
                "it has died. Start it again."
            )
            raise EndpointError(msg)
        if reply.tool_calls:
            self._silent_turns.pop(session, None)
            self._known.learn(lambda now: replace(now, called_tools=True))
        tokens = reply.usage.thought_tokens
        if reply.text and not (reply.cut or reply.thoughts or tokens or request.quiet):
            self._known.learn(lambda now: replace(now, plain_answers=now.plain_answers + 1))
        if tokens:
            if request.quiet and (not reply.text or tokens > self._known.capabilities.thought_tokens // 2):
                # It thinks all the same, or its parser takes the answer for a thought.
                self._known.learn(lambda now: after_quiet_form(now, asked.quiet))
            self._known.saw_thoughts(tokens, answer.response_metadata.get("thought_place") or "hidden")
        if answer.usage_metadata is None:
            return
        # Some servers leave what they had cached out of the count of the prompt.
        counted = reply.usage.prompt_tokens + reply.usage.cached_tokens
        window = self._sizes.cut_at(self._prompt_tokens(request.messages), counted, session=session)
        if window is not None:
            self._known.learn(lambda now: replace(now, window=window))
            msg = (
                f"The {self._name} model at {self._where} saw only the last {window:,} tokens of the prompt: its server cut the "
                "rest without a word. Start it with a larger context (Ollama: num_ctx or OLLAMA_CONTEXT_LENGTH)."
            )
            raise ContextOverflowError(msg)

    def _as_error(self, error: ServerFailureError) -> EndpointError:
        if error.failure.kind == "model":
            self._start_anew()
        said = self._safe(error.failure.sentence)
        return as_endpoint_error(error, name=self._name, where=self._where, said=said)

    def _safe(self, text: str) -> str:
        """Return the text of an error without keys, which some servers repeat."""
        return SecretTexts.of(self._endpoint, self._client).hide(text)


class _TooSlowError(Exception):
    """A request took longer than the endpoint may take."""
