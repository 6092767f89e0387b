"""Find out what an OpenAI-compatible endpoint is and what it can do, by asking it.

`probe_endpoint` is the cheap check at the start of a run: does it answer, does it take the key, which model
does it serve.
`probe_capabilities` makes tiny real completions and is what `agentinfer doctor` shows.
No message ever contains a key, whether it came from a setting or inside the URL.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from agentinfer_lg.errors import ConfigurationError, EndpointError
from agentinfer_lg.settings import EndpointSettings

_JSON = dict[str, Any]  # Any: JSON of a foreign server; every access below checks the type

_LISTED_NAMES = 5
"""Most model names put into one message."""

_ENGINE_LABEL = re.compile(r'^vllm:prompt_tokens_total\{(?:[^}]*,)?engine="(\d+)"', re.MULTILINE)
"""At `/metrics`, in a series that every version has, and has from the start: gauges show after the first request only."""

_LONG_PROMPT = "The quick brown fox jumps over the lazy dog near the quiet river bank. " * 24 + "\nSay hello."
"""Nearly 400 tokens: more than two blocks of 128 (vLLM on a CPU), so a repeat can hit the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProfile:
    """What an endpoint says about itself."""

    base_url: str
    model: str
    """Name to send with requests; never empty."""
    vllm: bool
    """Whether the server is vLLM, which understands session hints and structured outputs."""
    max_model_len: int | None
    """Context length in tokens, where the server tells it."""
    latency: float
    """Seconds the server took to answer."""
    models: tuple[str, ...] = ()
    """All models the server lists; empty when it lists none."""
    data_parallel_size: int = 1
    """Data-parallel ranks that take requests; 1 where the server does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Outcome of one check."""

    ok: bool
    detail: str
    """What was seen, in words."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an endpoint can do, each found out by a real request."""

    chat: Capability
    tool_calling: Capability
    json_schema: Capability
    regex: Capability
    cached_tokens: Capability
    tokenize: Capability


def public_url(url: str) -> str:
    """Return `url` without user name, password, query and fragment: fit to be shown."""
    try:
        parts = urlsplit(url)
    except ValueError:  # for example an unclosed bracket; what it hides cannot be told
        return "(malformed URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


async def probe_endpoint(endpoint: EndpointSettings, *, timeout: float = 10.0) -> EndpointProfile:
    """Ask an endpoint which models it serves.

    A model that vLLM does not list is refused. Other servers may serve names that they do not list (aliases,
    tags, gateways), so there one completion of one token decides.

    Args:
        endpoint: Endpoint to ask.
        timeout: Seconds allowed for each request.

    Raises:
        ConfigurationError: No base URL is set, or it is no URL.
        EndpointError: The server cannot be reached, refuses the key, or does not serve the model.
    """
    if not endpoint.configured:
        msg = "The endpoint has no base URL. Set AGENTINFER_SMALL__BASE_URL, or pass --small-url."
        raise ConfigurationError(msg)
    if not _has_host(endpoint.base_url):
        shown = public_url(endpoint.base_url)
        msg = f"{shown} is not a usable base URL. It should look like http://127.0.0.1:8000/v1."
        raise ConfigurationError(msg)
    async with _client(endpoint, timeout) as client:
        started = time.perf_counter()
        response = await _send(client, endpoint, "GET", "/models")
        latency = time.perf_counter() - started
        listed = await _read_models(client, endpoint, response)
        names = tuple(str(entry["id"]) for entry in listed if entry.get("id"))
        vllm = await _is_vllm(client, endpoint, listed)
        model = await _resolve_model(client, endpoint, names, vllm=vllm)
        ranks = endpoint.data_parallel_size or (await _count_ranks(client, endpoint) if vllm else 1)
    return EndpointProfile(
        base_url=endpoint.base_url,
        model=model,
        vllm=vllm,
        max_model_len=_context_length(listed, model),
        latency=latency,
        models=names,
        data_parallel_size=ranks,
    )


async def probe_capabilities(
    endpoint: EndpointSettings, profile: EndpointProfile, *, timeout: float = 60.0
) -> Capabilities:
    """Try chat, tool calling, constrained output, cache reporting and `/tokenize` with tiny real requests.

    A check that fails is reported in its `Capability`, not raised.

    Args:
        endpoint: Endpoint to ask.
        profile: What `probe_endpoint` returned for it.
        timeout: Seconds allowed for each request.
    """
    async with _client(endpoint, timeout) as client:
        chat, first_cached = await _try_chat(client, endpoint, profile)
        if not chat.ok:
            skipped = Capability(ok=False, detail="not tried, since the completion failed")
            return Capabilities(
                chat=chat,
                tool_calling=skipped,
                json_schema=skipped,
                regex=skipped,
                cached_tokens=skipped,
                tokenize=skipped,
            )
        return Capabilities(
            chat=chat,
            tool_calling=await _try_tools(client, endpoint, profile),
            json_schema=await _try_json_schema(client, endpoint, profile),
            regex=await _try_regex(client, endpoint, profile),
            cached_tokens=await _try_cached_tokens(client, endpoint, profile, first=first_cached),
            tokenize=await _try_tokenize(client, endpoint, profile),
        )


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname and httpx.URL(url).host)  # each lets pass what the other does not
    except (httpx.InvalidURL, ValueError):
        return False


def _client(endpoint: EndpointSettings, timeout: float) -> httpx.AsyncClient:
    key = endpoint.api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(headers=headers, timeout=timeout)


async def _send(
    client: httpx.AsyncClient, endpoint: EndpointSettings, method: str, path: str, body: _JSON | None = None
) -> httpx.Response:
    """Make one request; `path` is relative to the base URL, or absolute when it starts with http."""
    url = path if path.startswith("http") else endpoint.base_url + path
    shown = public_url(endpoint.base_url)
    try:
        return await client.request(method, url, json=body)
    except httpx.ConnectTimeout:
        reason = "does not answer: connecting timed out. Check host, port and firewall"
    except httpx.TimeoutException:
        waited = f"{client.timeout.read:g} s"
        reason = (
            f"accepted the connection but did not answer within {waited}. It may be loading or overloaded"
        )
    except httpx.ConnectError as error:
        reason = _connect_reason(str(error))
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError):
        reason = "is not a usable URL. It should look like http://127.0.0.1:8000/v1"
    except httpx.HTTPError as error:
        reason = (
            f"broke the connection ({type(error).__name__}). Check that this is an OpenAI-compatible server"
        )
    msg = f"The model server at {shown} {reason}."
    raise EndpointError(msg)


def _connect_reason(text: str) -> str:
    lowered = text.lower()
    if any(
        sign in lowered
        for sign in ("name or service", "name resolution", "nodename", "getaddrinfo", "no address")
    ):
        return "has a host name that cannot be resolved. Check the spelling of the URL"
    if "refused" in lowered or "all connection attempts failed" in lowered:
        return "refuses the connection: nothing listens there. Start the server, or correct the URL"
    if "certificate" in lowered or "ssl" in lowered:
        return "failed the TLS handshake. Check the certificate, or whether it should be http://"
    return "cannot be reached. Check the URL and the network"


async def _read_models(
    client: httpx.AsyncClient, endpoint: EndpointSettings, response: httpx.Response
) -> list[_JSON]:
    """Return the entries of `/models`; none when the server has no such route but a model name is set."""
    shown = public_url(endpoint.base_url)
    if response.status_code in (401, 403):
        raise EndpointError(_key_refused(endpoint, response.status_code))
    data = _json(response).get("data") if response.is_success else None
    if isinstance(data, list):
        return [entry for entry in data if isinstance(entry, dict)]
    if not urlsplit(endpoint.base_url).path.rstrip("/").endswith("/v1"):
        retry = await _send(client, endpoint, "GET", "/v1/models")
        if retry.is_success and isinstance(_json(retry).get("data"), list):
            msg = f"The model server at {shown} answers under /v1. Use {shown}/v1 as its base URL."
            raise EndpointError(msg)
    if response.status_code >= 500:
        failed = f"The model server at {shown} fails (HTTP {response.status_code})."
        msg = f"{failed} It may still be loading; see its log."
        raise EndpointError(msg)
    if endpoint.model and response.status_code in (404, 405, 501):
        return []
    msg = (
        f"The server at {shown} does not answer like an OpenAI-compatible one (HTTP {response.status_code} "
        "for /models). Check the base URL; most end in /v1. If it never lists models, set the model name."
    )
    raise EndpointError(msg)


def _key_refused(endpoint: EndpointSettings, status: int) -> str:
    shown = public_url(endpoint.base_url)
    given = "refuses the API key" if endpoint.api_key.get_secret_value() else "wants an API key"
    return (
        f"The model server at {shown} {given} (HTTP {status}). "
        "Set AGENTINFER_SMALL__API_KEY, AGENTINFER_LARGE__API_KEY or AGENTINFER_JUDGE__API_KEY to a valid one."
    )


async def _is_vllm(client: httpx.AsyncClient, endpoint: EndpointSettings, listed: list[_JSON]) -> bool:
    owners = {str(entry["owned_by"]) for entry in listed if entry.get("owned_by")}
    if owners:
        return "vllm" in owners
    try:
        response = await _send(client, endpoint, "GET", _root(endpoint) + "/version")
    except EndpointError:
        return False
    return response.is_success and isinstance(_json(response).get("version"), str)


async def _count_ranks(client: httpx.AsyncClient, endpoint: EndpointSettings) -> int:
    """Return how many engines vLLM has behind its address: each has its own series at `/metrics`."""
    try:
        response = await _send(client, endpoint, "GET", _root(endpoint) + "/metrics")
    except EndpointError:
        return 1
    return max(1, len(set(_ENGINE_LABEL.findall(response.text)))) if response.is_success else 1


async def _resolve_model(
    client: httpx.AsyncClient, endpoint: EndpointSettings, names: tuple[str, ...], *, vllm: bool
) -> str:
    """Return the model to use, making sure that the server serves it."""
    shown = public_url(endpoint.base_url)
    if not endpoint.model:
        if names:
            return names[0]
        listed = f"The model server at {shown} lists no models."
        msg = f"{listed} Set its variable, such as AGENTINFER_SMALL__MODEL (or --small-model), to the name of one."
        raise EndpointError(msg)
    if endpoint.model in names:
        return endpoint.model
    if not vllm:
        body: _JSON = {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
        }
        response = await _send(client, endpoint, "POST", "/chat/completions", body)
        if response.status_code in (401, 403):
            raise EndpointError(_key_refused(endpoint, response.status_code))
        if not _lacks_model(response):
            return endpoint.model
    some = ", ".join(names[:_LISTED_NAMES]) + (", ..." if len(names) > _LISTED_NAMES else "")
    hint = f"It lists: {some}." if names else "It lists no models."
    msg = f"The model server at {shown} does not serve the model {endpoint.model!r}. {hint}"
    raise EndpointError(msg)


def _lacks_model(response: httpx.Response) -> bool:
    if response.status_code == 404:
        return True
    text = response.text.lower()
    words = ("not exist", "not found", "not_found", "unknown model", "invalid model")
    return response.status_code == 400 and "model" in text and any(word in text for word in words)


def _context_length(listed: list[_JSON], model: str) -> int | None:
    for entry in listed:
        if entry.get("id") == model:
            for key in ("max_model_len", "context_length", "context_window"):
                value = entry.get(key)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
    return None


def _root(endpoint: EndpointSettings) -> str:
    """Address of the server without the version path, where vLLM keeps `/version` and `/tokenize`."""
    return re.sub(r"/v\d+$", "", endpoint.base_url)


def _json(response: httpx.Response) -> _JSON:
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def _complete(
    client: httpx.AsyncClient,
    endpoint: EndpointSettings,
    profile: EndpointProfile,
    prompt: str,
    **extra: object,
) -> tuple[_JSON, str, float]:
    """Make one completion; returns the JSON (empty on failure), what went wrong (or empty), and seconds."""
    body: _JSON = {
        "model": profile.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 16,
    }
    started = time.perf_counter()
    try:
        response = await _send(
            client, endpoint, "POST", "/chat/completions", {**body, "temperature": 0, **extra}
        )
    except EndpointError as error:
        return {}, str(error).rstrip("."), time.perf_counter() - started
    seconds = time.perf_counter() - started
    if response.status_code in (401, 403):
        return {}, _key_refused(endpoint, response.status_code).rstrip("."), seconds
    if not response.is_success:
        return {}, f"HTTP {response.status_code}: {_server_message(response, endpoint)}", seconds
    return _json(response), "", seconds


def _server_message(response: httpx.Response, endpoint: EndpointSettings) -> str:
    """What the server said about a failure: one clipped line, without control characters and the key."""
    data = _json(response)
    error = data.get("error")
    text = error.get("message") if isinstance(error, dict) else error or data.get("message") or response.text
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    key = endpoint.api_key.get_secret_value()
    if key:
        line = line.replace(key, "[key]")
    return line[:200] or "no message"


def _message(data: _JSON) -> _JSON:
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else {}


def _cached(data: _JSON) -> int | None:
    usage = data.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    value = details.get("cached_tokens") if isinstance(details, dict) else None
    return value if isinstance(value, int) else None


async def _try_chat(
    client: httpx.AsyncClient, endpoint: EndpointSettings, profile: EndpointProfile
) -> tuple[Capability, int | None]:
    data, failure, seconds = await _complete(client, endpoint, profile, _LONG_PROMPT)
    if failure:
        return Capability(ok=False, detail=failure, seconds=seconds), None
    if not _message(data):
        return Capability(ok=False, detail="the answer holds no message", seconds=seconds), None
    usage = data.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    counted = f"{tokens} prompt tokens" if tokens else "the server reports no token usage"
    return Capability(ok=True, detail=counted, seconds=seconds), _cached(data)


async def _try_tools(
    client: httpx.AsyncClient, endpoint: EndpointSettings, profile: EndpointProfile
) -> Capability:
    queries = {"type": "array", "items": {"type": "string"}}
    parameters = {"type": "object", "properties": {"queries": queries}, "required": ["queries"]}
    function = {"name": "web_search", "description": "Search documents.", "parameters": parameters}
    data, failure, seconds = await _complete(
        client,
        endpoint,
        profile,
        "Call the tool web_search with the query: rivers of France",
        max_tokens=64,
        tools=[{"type": "function", "function": function}],
        tool_choice="auto",
    )
    if failure:
        return Capability(ok=False, detail=failure, seconds=seconds)
    if _message(data).get("tool_calls"):
        return Capability(ok=True, detail="the model called the tool", seconds=seconds)
    return Capability(ok=False, detail="accepted, but the model did not call the tool", seconds=seconds)


async def _try_json_schema(
    client: httpx.AsyncClient, endpoint: EndpointSettings, profile: EndpointProfile
) -> Capability:
    schema = {
        "type": "object",
        "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    data, failure, seconds = await _complete(
        client,
        endpoint,
        profile,
        "Say hello.",
        max_tokens=32,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "probe", "schema": schema, "strict": True},
        },
    )
    if failure:
        return Capability(ok=False, detail=failure, seconds=seconds)
    try:
        value = json.loads(str(_message(data).get("content")))
    except ValueError:
        value = None
    obeyed = isinstance(value, dict) and value.get("color") in ("red", "blue")
    return Capability(ok=obeyed, detail="obeyed" if obeyed else "accepted, but not obeyed", seconds=seconds)


async def _try_regex(
    client: httpx.AsyncClient, endpoint: EndpointSettings, profile: EndpointProfile
) -> Capability:
    data, failure, seconds = await _complete(
        client, endpoint, profile, "Say hello.", structured_outputs={"regex": "(TRUE|FALSE)"}
    )
    if failure:
        return Capability(ok=False, detail=failure, seconds=seconds)
    obeyed = _message(data).get("content") in ("TRUE", "FALSE")
    return Capability(ok=obeyed, detail="obeyed" if obeyed else "accepted, but not obeyed", seconds=seconds)


async def _try_cached_tokens(
    client: httpx.AsyncClient, endpoint: EndpointSettings, profile: EndpointProfile, *, first: int | None
) -> Capability:
    """Repeat the first prompt: vLLM reports cached tokens when told to, others when there are any."""
    data, failure, seconds = await _complete(client, endpoint, profile, _LONG_PROMPT, max_tokens=1)
    if failure:
        return Capability(ok=False, detail=failure, seconds=seconds)
    second = _cached(data)
    if second is None and first is None:
        return Capability(ok=False, detail="the usage does not tell cached tokens", seconds=seconds)
    return Capability(
        ok=True, detail=f"{second or 0} tokens of a repeated prompt were cached", seconds=seconds
    )


async def _try_tokenize(
    client: httpx.AsyncClient, endpoint: EndpointSettings, profile: EndpointProfile
) -> Capability:
    body: _JSON = {"model": profile.model, "prompt": "Say hello."}
    try:
        response = await _send(client, endpoint, "POST", _root(endpoint) + "/tokenize", body)
    except EndpointError as error:
        return Capability(ok=False, detail=str(error).rstrip("."))
    count = _json(response).get("count") if response.is_success else None
    if isinstance(count, int) and count > 0:
        return Capability(ok=True, detail="the server counts tokens")
    return Capability(ok=False, detail="the server has no /tokenize")
