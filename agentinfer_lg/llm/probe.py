"""Find out what a server is: does it answer, does it take the key, which model does it serve, how long is the context.

It is the cheap check at the start of a run. What the model can do is learned from real calls: see `capabilities`.
No message ever contains a key, whether it came from a setting or inside the URL.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.connection import Connection, Received
from agentinfer_lg.llm.failure import Failure, read_failure
from agentinfer_lg.settings import EndpointSettings

_JSON = dict[str, Any]  # Any: JSON of a foreign server; every access below checks the type

_LISTED_NAMES: Final = 5
"""Most model names put into one message."""
_LOADING_PAUSE: Final = 2.0

_ENGINE_LABEL = re.compile(r'^vllm:prompt_tokens_total\{(?:[^}]*,)?engine="(\d+)"', re.MULTILINE)
"""At `/metrics`, in a series that every version has, and has from the start: gauges show after the first request only."""
_NO_CHAT = re.compile(
    r"embed|rerank|(?<![a-z])(?:bge|gte|e5|minilm|colbert|clip|whisper|tts|dall-e|moderation|stt|asr|ocr|guard)(?![a-z])|"
    r"stable-diffusion|text-similarity|sentence-",
    re.IGNORECASE,
)
"""Names of models that do not chat."""
_NO_CHAT_KINDS: Final = frozenset(
    {"embedding", "embeddings", "rerank", "reranker", "score", "image", "audio", "moderation"}
)
_WINDOW_KEYS: Final = (
    "max_model_len", "loaded_context_length", "context_length", "context_window", "max_context_length", "n_ctx",
    "max_input_tokens", "max_sequence_length", "context_size",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProfile:
    """What an endpoint says about itself."""

    base_url: str
    model: str
    """Name to send with requests; never empty."""
    vllm: bool
    """Whether the server is vLLM, which understands session hints and structured outputs."""
    owner: str = ""
    """Who the server says owns the model, which tells what server it is: `vllm`, `llamacpp`, `library` (Ollama), ..."""
    max_model_len: int | None
    """Context length in tokens, where the server tells it."""
    latency: float
    """Seconds the server took to answer."""
    models: tuple[str, ...] = ()
    """All models the server lists; empty when it lists none."""
    data_parallel_size: int = 1
    """Data-parallel ranks that take requests; 1 where the server does not tell."""
    note: str = ""
    """What is unusual about it, in a sentence; empty where nothing is."""


async def probe_endpoint(
    endpoint: EndpointSettings,
    *,
    timeout: float = 30.0,
    connection: Connection | None = None,
    on_wait: Callable[[str], None] = lambda sentence: None,
) -> EndpointProfile:
    """Ask an endpoint which models it serves.

    A model that vLLM does not list is refused. Other servers may serve names that they do not list (aliases,
    tags, gateways), so there one short completion decides. A server that cannot list its models serves the one that is named.

    Args:
        endpoint: Endpoint to ask.
        timeout: Seconds allowed for each request; a completion may take as long as the server's start.
        connection: To the endpoint; None opens one.
        on_wait: Told, in a sentence, what is waited for.

    Raises:
        ConfigurationError: No base URL is set, or it is no URL.
        EndpointError: The server cannot be reached, refuses the key, or does not serve the model.
    """
    own = connection or Connection(endpoint)
    try:
        return await _Probe(endpoint, own, timeout, on_wait).profile()
    finally:
        if connection is None:
            await own.aclose()


class _Probe:
    """The questions of one probe."""

    def __init__(
        self,
        endpoint: EndpointSettings,
        connection: Connection,
        timeout: float,
        on_wait: Callable[[str], None],
    ) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._timeout = timeout
        self._on_wait = on_wait

    @property
    def _where(self) -> str:
        return self._connection.where

    async def profile(self) -> EndpointProfile:
        """Return what the endpoint says about itself."""
        started = time.perf_counter()
        listing = await self.listing()
        latency = time.perf_counter() - started
        entries = self.entries(listing)
        if entries is None and await self._with_version():
            entries = self.entries(await self.listing())
        if entries is None:
            return await self.unlisted(listing, latency)
        return await self.listed(entries, latency)

    async def listing(self) -> Received:
        """Return the answer to the question for models; a server that loads its model is waited for."""
        waited = 0.0
        while True:
            received = await self._connection.get(self._connection.url("/models"), timeout=self._timeout)
            if received.status != 503 or waited >= self._endpoint.start_timeout or self._endpoint.model:
                return received
            waited += _LOADING_PAUSE
            self._on_wait(f"the model server at {self._where} is loading its model ({waited:.0f} s)")
            await asyncio.sleep(_LOADING_PAUSE)

    async def _with_version(self) -> bool:
        """Move to `/v1` if that is where the server answers."""
        if not await self._answers_under_v1():
            return False
        self._endpoint = self._endpoint.model_copy(update={"base_url": self._connection.url("/v1")})
        self._connection = self._connection.at(self._endpoint)
        return True

    def entries(self, received: Received) -> list[_JSON] | None:
        """Return the listed models; None where the server has no list."""
        if not received.ok:
            return None
        value = received.value
        if isinstance(value, dict):
            value = next((value[key] for key in ("data", "models") if isinstance(value.get(key), list)), None)
        if not isinstance(value, list):
            return None
        return [
            {"id": entry} if isinstance(entry, str) else entry
            for entry in value
            if isinstance(entry, dict | str)
        ]

    async def unlisted(self, received: Received, latency: float) -> EndpointProfile:
        """Return the profile of a server without a list of models: the named model is asked."""
        if not self._endpoint.model:
            raise EndpointError(await self._why_no_list(received))
        failure = await self._try_model(self._endpoint.model)
        if failure is not None:
            raise EndpointError(await self._why_refused(failure, received))
        return EndpointProfile(
            base_url=self._endpoint.base_url,
            model=self._endpoint.model,
            vllm=False,
            max_model_len=await self._window({}),
            latency=latency,
            note=f"it does not list its models (HTTP {received.status} for /models), but serves the one that is named",
        )

    async def listed(self, entries: Sequence[_JSON], latency: float) -> EndpointProfile:
        """Return the profile of a server that lists models."""
        names = tuple(name for entry in entries if (name := _name(entry)))
        vllm = await self._is_vllm(entries)
        model = await self._resolve(entries, names, vllm=vllm)
        entry: _JSON = next((entry for entry in entries if _name(entry) == model), {})
        ranks = self._endpoint.data_parallel_size or (await self._count_ranks() if vllm else 1)
        return EndpointProfile(
            base_url=self._endpoint.base_url,
            model=model,
            vllm=vllm,
            owner="vllm" if vllm else str(entry.get("owned_by", ""))[:40],
            max_model_len=_listed_window(entry) if vllm else await self._window(entry),
            latency=latency,
            models=names,
            data_parallel_size=ranks,
        )

    async def _why_no_list(self, received: Received) -> str:
        where = self._where
        if received.status in (401, 403):
            return self._key_refused(received.status)
        name = "Set AGENTINFER_SMALL__MODEL (or --small-model), and the same for the other tiers, to the name of a model."
        failure = read_failure(received, hide=self._connection.secrets.hide)
        said = f" The server says: {failure.sentence}" if failure is not None and failure.sentence else ""
        if received.status >= 500:
            return (
                f"The model server at {where} fails to list its models (HTTP {received.status}). {name}{said}"
            )
        return (
            f"The server at {where} does not list its models as an OpenAI-compatible one (HTTP {received.status} for "
            f"/models). Check the base URL; most end in /v1. If it never lists models: {name}{said}"
        )

    async def _why_refused(self, failure: Failure, listing: Received) -> str:
        where, model = self._where, self._endpoint.model
        if failure.kind == "key":
            return self._key_refused(failure.status)
        said = f" The server says: {failure.sentence}" if failure.sentence else ""
        if failure.kind == "model":
            return (
                f"The server at {where} does not serve the model {model!r}, or is no OpenAI-compatible one (HTTP "
                f"{failure.status}). It does not list its models (HTTP {listing.status}). Check the base URL; most end in /v1."
                f"{said}"
            )
        return f"The model server at {where} fails (HTTP {failure.status}).{said}"

    async def _answers_under_v1(self) -> bool:
        if urlsplit(self._endpoint.base_url).path.rstrip("/").endswith("/v1"):
            return False
        try:
            received = await self._connection.get(self._connection.url("/v1/models"), timeout=self._timeout)
        except EndpointError:
            return False
        return bool(self.entries(received))

    def _key_refused(self, status: int) -> str:
        given = "refuses the API key" if self._endpoint.api_key.get_secret_value() else "wants an API key"
        return (
            f"The model server at {self._where} {given} (HTTP {status}). "
            "Set AGENTINFER_SMALL__API_KEY, AGENTINFER_LARGE__API_KEY or AGENTINFER_JUDGE__API_KEY to a valid one."
        )

    async def _is_vllm(self, entries: Sequence[_JSON]) -> bool:
        owners = {str(entry["owned_by"]) for entry in entries if entry.get("owned_by")}
        if owners:
            return "vllm" in owners
        value = await self._get_json(self._connection.root_url("/version"))
        return isinstance(value.get("version"), str)

    async def _count_ranks(self) -> int:
        """Return how many engines vLLM has behind its address: each has its own series at `/metrics`."""
        try:
            received = await self._connection.get(
                self._connection.root_url("/metrics"), timeout=self._timeout
            )
        except EndpointError:
            return 1
        return max(1, len(set(_ENGINE_LABEL.findall(received.text)))) if received.ok else 1

    async def _resolve(self, entries: Sequence[_JSON], names: tuple[str, ...], *, vllm: bool) -> str:
        """Return the model to use, making sure that the server serves it."""
        wanted = self._endpoint.model
        if not wanted:
            return self._first_chat_model(entries, names)
        if (found := _find_name(wanted, names)) is not None:
            return found
        if not vllm:
            failure = await self._try_model(wanted)
            if failure is None or failure.kind not in ("key", "model"):
                return wanted
            if failure.kind == "key":
                raise EndpointError(self._key_refused(failure.status))
        if (owned := _with_owner(wanted, names)) is not None:
            return owned
        some = ", ".join(names[:_LISTED_NAMES]) + (", ..." if len(names) > _LISTED_NAMES else "")
        hint = f"It lists: {some}." if names else "It lists no models."
        msg = f"The model server at {self._where} does not serve the model {wanted!r}. {hint}"
        raise EndpointError(msg)

    def _first_chat_model(self, entries: Sequence[_JSON], names: tuple[str, ...]) -> str:
        chat = [name for entry in entries if (name := _name(entry)) and _chats(entry)]
        if chat:
            return chat[0]
        if names:
            msg = f"The model server at {self._where} lists no model that chats ({', '.join(names[:_LISTED_NAMES])})."
        else:
            msg = f"The model server at {self._where} lists no models."
        raise EndpointError(
            f"{msg} Set its variable, such as AGENTINFER_SMALL__MODEL (or --small-model), to the name of one."
        )

    async def _try_model(self, model: str) -> Failure | None:
        """Return what a short completion fails with; None where it works, or fails for its form only."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **self._endpoint.extra_body}
        if "o1" not in model and not model.startswith(("o3", "o4", "gpt-5")):
            body.setdefault("max_tokens", 1)
        self._on_wait(f"waiting for the first answer of {model}")
        received = await self._connection.post(
            self._connection.url("/chat/completions"),
            json.dumps(body).encode(),
            timeout=max(self._timeout, self._endpoint.start_timeout),
        )
        failure = read_failure(received, hide=self._connection.secrets.hide)
        if failure is None or failure.kind in ("refused", "overflow", "rate", "filter"):
            return None
        if failure.kind == "server" and failure.status in (500, 503):
            return None  # the first call of the agent waits, or says more
        return failure

    async def _window(self, entry: _JSON) -> int | None:
        """Return the context length that a server other than vLLM tells, in whichever way it has."""
        if (listed := _listed_window(entry)) is not None:
            return listed
        owner = str(entry.get("owned_by", ""))
        if owner == "llamacpp":
            props = await self._get_json(self._connection.root_url("/props"))
            settings = props.get("default_generation_settings")
            return _positive(settings.get("n_ctx")) if isinstance(settings, dict) else None
        if owner in ("library", "ollama"):
            running = (await self._get_json(self._connection.root_url("/api/ps"))).get("models")
            name = entry.get("id")
            found = [
                item
                for item in running or ()
                if isinstance(item, dict) and name in (item.get("name"), item.get("model"))
            ]
            return _positive(found[0].get("context_length")) if found else None
        return None

    async def _get_json(self, url: str) -> _JSON:
        try:
            received = await self._connection.get(url, timeout=self._timeout)
        except EndpointError:
            return {}
        value = received.value if received.ok else None
        return value if isinstance(value, dict) else {}


def _name(entry: _JSON) -> str:
    name = entry.get("id") or entry.get("name") or entry.get("model")
    return name if isinstance(name, str) else ""


def _chats(entry: _JSON) -> bool:
    kinds = {str(entry.get(key, "")).lower() for key in ("type", "task", "object_type", "mode")}
    return not kinds & _NO_CHAT_KINDS and _NO_CHAT.search(_name(entry)) is None


def _find_name(wanted: str, names: tuple[str, ...]) -> str | None:
    """Return the listed name that is meant: itself, its latest tag, or the same in other letters."""
    for candidate in (wanted, f"{wanted}:latest", f"models/{wanted}"):
        if candidate in names:
            return candidate
    bare = wanted.casefold()
    alike = [name for name in names if name.casefold() in (bare, f"{bare}:latest")]
    return alike[0] if len(alike) == 1 else None


def _with_owner(wanted: str, names: tuple[str, ...]) -> str | None:
    """Return the one listed name that is `wanted` with an owner before it."""
    owned = [name for name in names if name.casefold().endswith(f"/{wanted.casefold()}")]
    return owned[0] if len(owned) == 1 else None


def _listed_window(entry: _JSON) -> int | None:
    nested = [entry.get(key) for key in ("meta", "limits", "top_provider", "details", "model_info")]
    for place in (entry, *(item for item in nested if isinstance(item, dict))):
        for key in _WINDOW_KEYS:
            if (length := _positive(place.get(key))) is not None:
                return length
    return None


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
