"""HTTP connections to one endpoint: kept open between calls, and safe across event loops.

A connection belongs to the event loop in which it was opened, so each loop has a pool of its own. A pool is closed with its
loop: `asyncio.run` ends every asynchronous generator of its loop, and one of them holds the pool.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import httpx

from agentinfer_lg.errors import ConfigurationError, EndpointError
from agentinfer_lg.llm.secret_texts import SecretTexts
from agentinfer_lg.settings import EndpointSettings

_KEEP_ALIVE_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 10.0
_MOST_REDIRECTS: Final = 3
_MOST_BYTES: Final = 64_000_000
"""Of one answer: no sensible answer is longer, and memory is not endless."""


class ConnectionLostError(EndpointError):
    """The server cannot be reached, or it broke the connection before it answered."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject} {reason}.")
        self.reason = reason
        """What follows the subject of the sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An answer of a server, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status says that it went well."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text; bytes that are no UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")

    @property
    def value(self) -> Any:  # Any: JSON of a foreign server, checked where it is used
        """The body read as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


def public_url(url: str) -> str:
    """Return `url` without user name, password, query and fragment: fit to be shown."""
    try:
        parts = urlsplit(url)
    except ValueError:  # for example an unclosed bracket; what it hides cannot be told
        return "(malformed URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Connection:
    """Requests to one endpoint.

    Args:
        endpoint: Where it is, with key, headers and certificates.

    Raises:
        ConfigurationError: The base URL is none.
    """

    def __init__(self, endpoint: EndpointSettings) -> None:
        if not endpoint.base_url:
            msg = "The endpoint has no base URL. Set AGENTINFER_SMALL__BASE_URL, or pass --small-url."
            raise ConfigurationError(msg)
        if not _has_host(endpoint.base_url):
            msg = f"{public_url(endpoint.base_url)} is not a usable base URL. It should look like http://127.0.0.1:8000/v1."
            raise ConfigurationError(msg)
        self._endpoint = endpoint
        self.secrets = SecretTexts.of(endpoint)
        """What no message may hold."""
        self._headers = _headers(endpoint)
        self._pools = _Pools()
        weakref.finalize(self, self._pools.release)
        self._verify: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def at(self, endpoint: EndpointSettings) -> Connection:
        """Return the same connections for another path of the same server."""
        moved = Connection.__new__(Connection)
        moved.__dict__.update(self.__dict__)
        moved._endpoint = endpoint
        return moved

    @property
    def where(self) -> str:
        """The base URL, fit to be shown."""
        return public_url(self._endpoint.base_url)

    @property
    def is_openai(self) -> bool:
        """Whether the endpoint is OpenAI's own service."""
        return (urlsplit(self._endpoint.base_url).hostname or "").endswith(
            (".openai.com", ".openai.azure.com")
        )

    def url(self, path: str) -> str:
        """Return the address of `path` below the base URL, with the query of the base URL."""
        parts = urlsplit(self._endpoint.base_url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, parts.query, ""))

    def root_url(self, path: str) -> str:
        """Return the address of `path` beside the version, where servers keep what is not OpenAI's."""
        parts = urlsplit(self._endpoint.base_url)
        root = re.sub(r"/v\d+$", "", parts.path.rstrip("/"))
        return urlunsplit((parts.scheme, parts.netloc, root + path, parts.query, ""))

    async def aclose(self) -> None:
        """Close what this event loop has opened."""
        await self._pools.close(asyncio.get_running_loop())

    async def get(self, url: str, *, timeout: float) -> Received:
        """Fetch `url`.

        Raises:
            ConnectionLostError: The server does not answer.
        """
        return await self._request("GET", url, None, {}, timeout)

    async def post(
        self, url: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Received:
        """Send `body`, which is JSON, to `url`.

        Raises:
            ConnectionLostError: The server does not answer.
        """
        return await self._request("POST", url, body, headers or {}, timeout)

    @asynccontextmanager
    async def stream(
        self, url: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send `body` to `url` and give out the answer while it arrives.

        Raises:
            ConnectionLostError: The server does not answer.
        """
        client = await self._client()
        sent = {**self._headers, **(headers or {}), "Content-Type": "application/json"}
        try:
            async with client.stream(
                "POST", url, content=body, headers=sent, timeout=_timeout(timeout)
            ) as response:
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._lost(error, timeout) from None

    async def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> Received:
        try:
            return await self._follow(method, url, body, headers, timeout)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            pass  # an idle connection that the server had just closed: a fresh one tells more
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._lost(error, timeout) from None
        try:
            return await self._follow(method, url, body, headers, timeout)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._lost(error, timeout) from None

    async def _follow(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> Received:
        """Make a request, and make it again where the same server says that it has moved."""
        client = await self._client()
        sent = {**self._headers, **headers} | (
            {"Content-Type": "application/json"} if body is not None else {}
        )
        for _ in range(_MOST_REDIRECTS):
            async with client.stream(
                method, url, content=body, headers=sent, timeout=_timeout(timeout)
            ) as response:
                target = response.headers.get("location", "") if response.is_redirect else ""
                next_url = str(response.url.join(target)) if target else ""
                if not next_url or not _same_server(url, next_url):
                    content = await _read(response)
                    return Received(status=response.status_code, headers=response.headers, body=content)
            url = next_url
        return Received(status=508, headers={}, body=b"The server redirects in a circle.")

    async def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if known := self._pools.client(loop):
            return known
        # Certificates are files: they are read off the event loop.
        verify = await asyncio.to_thread(self._certificates)
        return self._pools.client(loop) or await self._pools.open(loop, self._new_client(verify))

    def _new_client(self, verify: ssl.SSLContext | bool) -> httpx.AsyncClient:
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=64, keepalive_expiry=_KEEP_ALIVE_SECONDS
        )
        # A proxy cannot reach this machine's own loopback.
        return httpx.AsyncClient(
            verify=verify, limits=limits, trust_env=not is_loopback(self._endpoint.base_url)
        )

    def _certificates(self) -> ssl.SSLContext | bool:
        if self._endpoint.base_url.startswith("http://"):
            return False
        with self._lock:
            if self._verify is None:
                self._verify = _certificates(self._endpoint)
            return self._verify

    def _lost(self, error: Exception, timeout: float) -> ConnectionLostError:
        reason = _reason(error, timeout) + _proxy_note(self._endpoint.base_url)
        return ConnectionLostError(f"The model server at {self.where}", reason)


class _Pools:
    """The pool of each event loop. Their loops keep them alive, since nothing else can close a connection in good order."""

    def __init__(self) -> None:
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._closers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}

    def client(self, loop: asyncio.AbstractEventLoop) -> httpx.AsyncClient | None:
        """Return the client of an event loop, if there is one."""
        return self._clients.get(loop)

    async def open(self, loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> httpx.AsyncClient:
        """Let an event loop have that client, and close it at its end."""
        for left in _LEFT.pop(loop, ()):
            await left.aclose()
        closer = self._closers[loop] = self._close_at_end(loop, client)
        self._clients[loop] = client
        _OPEN.add(closer)
        await anext(closer)
        return client

    async def _close_at_end(
        self, loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient
    ) -> AsyncGenerator[None]:
        """Wait until the event loop ends its asynchronous generators, which is the last that it does."""
        try:
            yield
        finally:
            self._clients.pop(loop, None)
            _OPEN.discard(self._closers.pop(loop))
            _LEFT.pop(loop, None)
            await client.aclose()

    async def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what an event loop has open."""
        if (closer := self._closers.get(loop)) is not None:
            await closer.aclose()

    def release(self) -> None:
        """Leave what is open to be closed: nobody can use it any more."""
        for loop, closer in list(self._closers.items()):
            _LEFT.setdefault(loop, []).append(closer)


_OPEN: Final[set[AsyncGenerator[None]]] = set()
_LEFT: Final[dict[asyncio.AbstractEventLoop, list[AsyncGenerator[None]]]] = {}
"""Closed when their loop opens the next pool, or ends: a task for it could be cancelled with the loop."""


def _headers(endpoint: EndpointSettings) -> dict[str, str]:
    key = endpoint.api_key.get_secret_value()
    headers = {"Accept": "application/json", "User-Agent": "agentinfer-lg"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
        if (urlsplit(endpoint.base_url).hostname or "").endswith(".azure.com"):
            headers["api-key"] = key
    return headers | {name: secret.get_secret_value() for name, secret in endpoint.headers.items()}


def _certificates(endpoint: EndpointSettings) -> ssl.SSLContext:
    """Return what is trusted: the system's authorities (or SSL_CERT_FILE), the public ones, and the endpoint's own.

    Raises:
        ConfigurationError: The endpoint's file cannot be read.
    """
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if endpoint.ca_file is not None:
        try:
            context.load_verify_locations(endpoint.ca_file.expanduser())
        except (OSError, ssl.SSLError) as error:
            msg = f"The certificates in {endpoint.ca_file} cannot be read ({error}). CA_FILE must name a PEM file."
            raise ConfigurationError(msg) from None
    return context


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds))


async def _read(response: httpx.Response) -> bytes:
    """Return the body as far as it can be decoded and held."""
    parts, size = [], 0
    try:
        async for part in response.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                break
    except httpx.DecodingError:
        return b""
    return b"".join(parts)


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname and httpx.URL(url).host)  # each lets pass what the other does not
    except (httpx.InvalidURL, ValueError):
        return False


def _same_server(before: str, after: str) -> bool:
    """Whether a redirect stays at the server, so that the key may go along; an upgrade to https does."""
    old, new = urlsplit(before), urlsplit(after)
    upgraded = old.scheme == "http" and new.scheme == "https" and new.port in (None, 443)
    return old.hostname == new.hostname and (upgraded or (old.scheme, old.port) == (new.scheme, new.port))


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "does not answer: connecting timed out. Check host, port and firewall"
    if isinstance(error, httpx.TimeoutException):
        return f"accepted the connection but did not answer within {timeout:g} s. It may be loading or overloaded"
    if isinstance(error, httpx.ProxyError):
        return "cannot be reached: the proxy refuses"
    if isinstance(error, httpx.ConnectError):
        return _connect_reason(str(error))
    if isinstance(error, httpx.HTTPError):
        return f"cannot be reached: it broke the connection ({type(error).__name__}). See its log"
    return "is not a usable URL. It should look like http://127.0.0.1:8000/v1"


def _connect_reason(text: str) -> str:
    lowered = text.lower()
    signs = ("name or service", "name resolution", "nodename", "getaddrinfo", "no address")
    if any(sign in lowered for sign in signs):
        return "cannot be reached: its host name cannot be resolved. Check the spelling of the URL"
    if "refused" in lowered or "all connection attempts failed" in lowered:
        return "cannot be reached: nothing listens there. Start the server, or correct the URL"
    if "certificate" in lowered or "ssl" in lowered:
        return (
            "failed the TLS handshake. Check the certificate, or whether it should be http://; for a private authority set "
            "the endpoint's CA_FILE or SSL_CERT_FILE"
        )
    return "cannot be reached. Check the URL and the network"


def _proxy_note(url: str) -> str:
    """Return which proxy stands between, where one does: it may be what does not answer."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme) or getproxies().get("all")
    if is_loopback(url) or not proxy or proxy_bypass(parts.hostname or ""):
        return ""
    name = f"{parts.scheme.upper()}_PROXY"
    return f". Requests go through the proxy {public_url(proxy)} (variable {name} or ALL_PROXY); NO_PROXY lists exceptions"
