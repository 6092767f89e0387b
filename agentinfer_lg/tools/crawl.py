"""Fetching single web pages, within limits: time, bytes, redirects, kinds of content, and addresses."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import weakref
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from urllib.parse import unquote

import httpx

from agentinfer_lg.errors import ToolError
from agentinfer_lg.tools.addresses import PinnedTransport, check_url
from agentinfer_lg.tools.formats import clean_text, decode_text, html_text, markdown_title, one_line, pdf_text
from agentinfer_lg.tools.search import Document

_MAX_REDIRECTS = 5
_HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; agentinfer-lg; research agent, reads single pages)",
    "Accept": "text/html,application/xhtml+xml,text/markdown,text/plain,application/pdf,application/json;q=0.9,*/*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
}
_UNNAMED_TYPES = ("", "application/octet-stream", "binary/octet-stream")
_ADVICE = {
    401: "it asks for a login.",
    403: "it refuses to be read by programs, or asks for a login.",
    404: "there is no such page.",
    410: "the page is gone.",
    429: "it is asked too often; try later or another source.",
    451: "it is blocked for legal reasons.",
}


@dataclass(frozen=True, slots=True)
class _Page:
    """What a server sent."""

    url: httpx.URL
    content_type: str
    charset: str
    data: bytes
    truncated: bool


class Crawler:
    """Fetches pages as text.

    A page is read until `max_bytes` of decoded content; compressed content is counted as it unfolds. At most five
    redirects are followed and the address of each is checked (`agentinfer_lg.tools.addresses`). Proxies are not used:
    behind one, the address a name leads to could not be checked.

    Args:
        allow_private: Fetch from loopback and private networks too.
        concurrency: Most pages fetched at the same time.
    """

    def __init__(self, *, allow_private: bool = False, concurrency: int = 8) -> None:
        self._allow_private = allow_private
        self._concurrency = max(1, concurrency)
        # Semaphores belong to an event loop, and a crawler may be used from several in turn.
        self._slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def fetch(self, url: str, *, timeout: float, max_bytes: int) -> Document:
        """Fetch one page.

        Args:
            url: Anything; an unfit one is refused.
            timeout: Seconds for all of it: redirects, reading, extraction of the text.
            max_bytes: Most bytes of decoded content; the rest is not read and the document marked as truncated.

        Returns:
            The text of the page. Its `uri` is `url` as given, wherever redirects led.

        Raises:
            ToolError: The page cannot be had; the message says why.
        """
        if self._closed:
            msg = "The crawler is closed."
            raise ToolError(msg)
        check_url(url)
        slots = self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._concurrency))
        async with slots:
            deadline = time.monotonic() + timeout
            try:
                async with asyncio.timeout(timeout):
                    page = await self._get(url, timeout=timeout, max_bytes=max_bytes)
                    return await asyncio.to_thread(_document, url, page, deadline)
            except (TimeoutError, httpx.TimeoutException):
                msg = f"{_shown(url)} took longer than {timeout:g} s."
                raise ToolError(msg) from None
            except httpx.HTTPError as error:
                msg = f"{_shown(url)} cannot be fetched: {_cause(error)}"
                raise ToolError(msg) from None

    async def aclose(self) -> None:
        """Refuse further fetches; each fetch closes its own connections."""
        self._closed = True

    async def _get(self, url: str, *, timeout: float, max_bytes: int) -> _Page:
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads the certificates from disk
        transport = PinnedTransport(
            httpx.AsyncHTTPTransport(verify=self._tls), allow_private=self._allow_private
        )
        async with httpx.AsyncClient(
            transport=transport, headers=_HEADERS, timeout=timeout, trust_env=False, verify=self._tls
        ) as client:
            target = url.strip()
            for _ in range(_MAX_REDIRECTS + 1):
                async with client.stream("GET", target) as response:
                    if not response.has_redirect_location:
                        return await _read(response, url, max_bytes)
                    target = str(response.url.join(response.headers["Location"]))
            msg = f"{_shown(url)} redirects more than {_MAX_REDIRECTS} times."
            raise ToolError(msg)


async def _read(response: httpx.Response, url: str, max_bytes: int) -> _Page:
    status = response.status_code
    if not response.is_success:
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown status"
        advice = _ADVICE.get(
            status, "the server has a problem; try later or another source." if status >= 500 else ""
        )
        msg = f"{_shown(url)} answered {status} {phrase}{': ' + advice if advice else '.'}"
        raise ToolError(msg)
    declared, _, parameters = response.headers.get("Content-Type", "").partition(";")
    content_type = declared.strip().lower()
    if not (content_type in _UNNAMED_TYPES or _kind(content_type)):
        msg = f"{_shown(url)} is {one_line(content_type, limit=80)}, not a page of text, a PDF or JSON."
        raise ToolError(msg)
    data = bytearray()
    truncated = False
    async for chunk in _decoded(response, max_bytes):
        data += chunk
        if len(data) > max_bytes:
            truncated = True
            break
    charset = parameters.lower().partition("charset=")[2].split(";")[0].strip(" \"'")
    return _Page(response.url, content_type, charset, bytes(data[:max_bytes]), truncated)


async def _decoded(response: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield decoded content, never unfolding more than about `max_bytes` at once, as httpx would."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        msg = f"The page is compressed in a way that was not asked for ({one_line(encoding, limit=40)})."
        raise ToolError(msg)
    decoder = zlib.decompressobj(47)  # gzip or zlib, as the data says
    raw_bytes = 0
    async for chunk in response.aiter_raw():
        try:
            part = decoder.decompress(chunk, max_bytes + 1)
        except zlib.error:
            if raw_bytes or encoding != "deflate":
                msg = "The compressed page is broken."
                raise ToolError(msg) from None
            decoder = zlib.decompressobj(-zlib.MAX_WBITS)  # some servers send deflate without its header
            part = _decompress(decoder, chunk, max_bytes + 1)
        raw_bytes += len(chunk)
        if raw_bytes > max_bytes and not part:
            msg = "The compressed page is broken."
            raise ToolError(msg)
        yield part
        if decoder.eof:
            return


def _decompress(decoder: zlib._Decompress, chunk: bytes, limit: int) -> bytes:
    try:
        return decoder.decompress(chunk, limit)
    except zlib.error:
        msg = "The compressed page is broken."
        raise ToolError(msg) from None


def _kind(content_type: str) -> str:
    """The way to read a content type; "" for one that is not read."""
    if content_type in ("text/html", "application/xhtml+xml"):
        return "html"
    if content_type in ("application/pdf", "application/x-pdf"):
        return "pdf"
    if content_type in ("application/json", "application/ld+json", "text/json") or content_type.endswith(
        "+json"
    ):
        return "json"
    if content_type in ("text/xml", "application/xml") or content_type.endswith("+xml"):
        return "" if content_type.startswith("image/") else "html"
    return "text" if content_type.startswith("text/") else ""


def _document(uri: str, page: _Page, deadline: float) -> Document:
    """Turn a page into text; runs in a worker thread."""
    shown = _shown(uri)
    try:
        title, text, truncated = _extract(page, deadline)
    except ToolError as error:
        limit = " Only its beginning was read, because of the size limit." if page.truncated else ""
        msg = f"{shown} cannot be read: {error}{limit}"
        raise ToolError(msg) from None
    if not text:
        msg = f"{shown} has no text in it (a page drawn by scripts?)."
        raise ToolError(msg)
    return Document(uri=uri, title=title or _name(page.url), text=text, truncated=truncated or page.truncated)


def _extract(page: _Page, deadline: float) -> tuple[str, str, bool]:
    head = page.data[:1024].lstrip()
    kind = _kind(page.content_type)
    if head.startswith(b"%PDF-") or kind == "pdf":
        return pdf_text(page.data, seconds=max(1.0, deadline - time.monotonic()))
    if not kind:
        if not head[:200].lower().startswith((b"<!doctype html", b"<html")):
            if page.content_type:
                msg = "it is a binary file."
                raise ToolError(msg)
            kind = "text"
        else:
            kind = "html"
    text = decode_text(page.data, charset=page.charset)
    if kind == "html":
        return *html_text(text), False
    if kind == "json":
        return "", _readable_json(text), False
    text = clean_text(text)
    return markdown_title(text), text, False


def _readable_json(text: str) -> str:
    try:
        return clean_text(json.dumps(json.loads(text), ensure_ascii=False, indent=1))
    except (ValueError, RecursionError):  # cut short, or not quite JSON
        return clean_text(text)


def _name(url: httpx.URL) -> str:
    return one_line(unquote(PurePosixPath(url.path).name)) or url.host


def _cause(error: httpx.HTTPError) -> str:
    text = str(error)
    if isinstance(error, httpx.ConnectError):
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return "its certificate is not valid."
        return "nothing answers at that address (the connection was refused or failed)."
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return "the address is not valid."
    return "the server broke off the answer or sent one that is not HTTP."


def _shown(url: str) -> str:
    return one_line(url, limit=200)
