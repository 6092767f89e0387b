"""The crawler and the reader against real HTTP servers on the loopback interface."""

import asyncio
import gzip
import io
import json
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pypdf
import pytest

from agentinfer_lg.errors import ToolError
from agentinfer_lg.tools import Crawler, Document, Reader, SearchHit
from agentinfer_lg.tools import addresses as addresses_module

Send = Callable[[bytes], Awaitable[None]]
Page = Callable[[Send], Awaitable[None]]

PAGE = """<!doctype html><html><head><title>Rain &amp; wind</title></head><body>
<nav><ul><li><a href="/">Start</a></li><li><a href="/login">Log in</a></li></ul></nav>
<main><article><h1>Rain in Bergen</h1>
<p>It rains in Bergen on 231 days of the year, which is more than in any other large city of Europe.</p>
<p>The mountains around the city make the moist air of the Atlantic rise, cool down and let go of its water.</p>
</article></main><footer>Copyright, cookies and imprint</footer></body></html>"""


class Server:
    """Serves pages by path, and counts what it has sent."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[str] = []
        self.heads: list[str] = []
        self.sent = 0
        self.port = 0
        self.host = "127.0.0.1"

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"

    def add(
        self,
        path: str,
        body: bytes | str = b"",
        *,
        kind: str = "text/html",
        status: int = 200,
        **headers: str,
    ) -> str:
        data = body.encode() if isinstance(body, str) else body
        fields = {"Content-Type": kind, "Content-Length": str(len(data)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value)

        async def page(send: Send) -> None:
            await send(f"HTTP/1.1 {status} X\r\n{head}Connection: close\r\n\r\n".encode() + data)

        self.pages[path] = page
        return self.url(path)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()
            self.sent += len(data)

        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            self.requests.append(path)
            self.heads.append(head)
            await self.pages[path](send)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def _serving(host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.handle, host, 0, ssl=tls)
    server.host, server.port = host, listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with _serving() as running:
        yield running


@pytest.fixture
async def crawler() -> AsyncIterator[Crawler]:
    crawler = Crawler(allow_private=True)
    yield crawler
    await crawler.aclose()


async def _fetch(crawler: Crawler, url: str, *, timeout: float = 60, max_bytes: int = 5_000_000) -> Document:
    return await crawler.fetch(url, timeout=timeout, max_bytes=max_bytes)


async def test_the_main_text_of_a_page_as_markdown(server: Server, crawler: Crawler) -> None:
    url = server.add("/rain", PAGE, kind="text/html; charset=utf-8")
    document = await _fetch(crawler, url)
    assert (document.uri, document.title, document.truncated) == (url, "Rain & wind", False)
    assert "# Rain in Bergen" in document.text
    assert "231 days" in document.text
    assert "Log in" not in document.text
    assert "cookies" not in document.text
    assert "agentinfer-lg" in server.heads[0]
    assert f"Host: 127.0.0.1:{server.port}" in server.heads[0]


@pytest.mark.parametrize(
    ("body", "kind", "title", "text"),
    [
        ("Just a line.\r\nAnd one more.", "text/plain", "page", "Just a line.\nAnd one more."),
        ("# Fjords\n\nDeep.", "text/markdown", "Fjords", "# Fjords\n\nDeep."),
        ('{"rain": ["北京", 1]}', "application/json", "page", '{\n "rain": [\n  "北京",\n  1\n ]\n}'),
        ('{"rain": ', "application/ld+json", "page", '{"rain":'),
        ("<html><body><p>Tiny.</p><p>Page.</p></body></html>", "text/html", "page", "Tiny.\n\nPage."),
        ("<!DOCTYPE html><p>Nameless.", "", "page", "Nameless."),
        ("Nameless text.", "", "page", "Nameless text."),
        ("<rss><item><title>News</title><p>Rain.</p></item></rss>", "application/rss+xml", "News", "News\n\nRain."),
    ],
)  # fmt: skip
async def test_other_kinds_of_text(
    server: Server, crawler: Crawler, body: str, kind: str, title: str, text: str
) -> None:
    document = await _fetch(crawler, server.add("/page", body, kind=kind))
    assert (document.title, document.text) == (title, text)


async def test_pdf(server: Server, crawler: Crawler) -> None:
    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(300, 300)
    stream = pypdf.generic.DecodedStreamObject()
    stream.set_data(b"BT /F1 12 Tf 20 200 Td (Stockfish is dried cod.) Tj ET")
    font = pypdf.generic.DictionaryObject(
        {
            pypdf.generic.NameObject("/Type"): pypdf.generic.NameObject("/Font"),
            pypdf.generic.NameObject("/Subtype"): pypdf.generic.NameObject("/Type1"),
            pypdf.generic.NameObject("/BaseFont"): pypdf.generic.NameObject("/Helvetica"),
        }
    )
    fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): font})
    page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject(
        {pypdf.generic.NameObject("/Font"): fonts}
    )
    page[pypdf.generic.NameObject("/Contents")] = writer._add_object(stream)
    writer.add_metadata({"/Title": "Stockfish"})
    out = io.BytesIO()
    writer.write(out)
    for kind in ("application/pdf", "application/octet-stream", "text/html"):
        document = await _fetch(crawler, server.add("/cod.pdf", out.getvalue(), kind=kind))
        assert (document.title, document.text) == ("Stockfish", "Stockfish is dried cod.")
    with pytest.raises(ToolError, match="size limit"):
        await _fetch(crawler, server.add("/cod.pdf", out.getvalue(), kind="application/pdf"), max_bytes=100)


@pytest.mark.parametrize("declared", ["header", "meta", "nowhere"])
async def test_gb18030(server: Server, crawler: Crawler, declared: str) -> None:
    meta = '<meta charset="gb2312">' if declared == "meta" else ""
    sentence = "卑尔根每年有二百三十一天下雨，比欧洲任何其他大城市都多。" * 3
    page = f"<html><head>{meta}<title>雨</title></head><body><p>{sentence}</p><p>镕的雨</p></body></html>"
    kind = "text/html" + ("; charset=GBK" if declared == "header" else "")
    document = await _fetch(crawler, server.add("/rain", page.encode("gb18030"), kind=kind))
    assert document.title == "雨"
    assert sentence in document.text
    assert "镕" in document.text  # in GBK, but not in GB 2312


async def test_a_wrongly_declared_character_set(server: Server, crawler: Crawler) -> None:
    url = server.add(
        "/page", "Regen in Köln, überall und täglich".encode("latin-1"), kind="text/plain; charset=utf-8"
    )
    assert (await _fetch(crawler, url)).text == "Regen in Köln, überall und täglich"
    url = server.add("/page", "Regen in Köln", kind="text/plain; charset=no-such-set")
    assert (await _fetch(crawler, url)).text == "Regen in Köln"
    url = server.add("/page", "Regen in Köln", kind="text/plain; charset=rot13")
    assert (await _fetch(crawler, url)).text == "Regen in Köln"


async def test_a_page_of_50_mb_costs_no_more_than_the_limit(server: Server, crawler: Crawler) -> None:
    async def huge(send: Send) -> None:
        await send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(50_000):
            await send(b"rain on the hills; " * 52 + b"and so on. \n")

    server.pages["/huge"] = huge
    document = await _fetch(crawler, server.url("/huge"), max_bytes=200_000)
    assert document.truncated
    assert 190_000 < len(document.text) <= 200_000
    await crawler.aclose()
    assert server.sent < 10_000_000  # what fits into the buffers of the sockets, not 50 MB


async def test_a_slow_page_ends_at_the_timeout(server: Server, crawler: Crawler) -> None:
    async def slow(send: Send) -> None:
        await send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            await send(b"drip ")
            await asyncio.sleep(0.02)

    server.pages["/slow"] = slow
    began = time.monotonic()
    with pytest.raises(ToolError, match=r"took longer than 0\.4 s"):
        await _fetch(crawler, server.url("/slow"), timeout=0.4)
    assert time.monotonic() - began < 10


async def test_a_server_that_accepts_and_says_nothing(server: Server, crawler: Crawler) -> None:
    async def silent(_: Send) -> None:
        await asyncio.sleep(30)

    server.pages["/silent"] = silent
    with pytest.raises(ToolError, match=r"took longer than 0\.3 s"):
        await _fetch(crawler, server.url("/silent"), timeout=0.3)


async def test_redirects_are_followed(server: Server, crawler: Crawler) -> None:
    server.add("/new", PAGE)
    server.add("/a/old", status=302, Location="../new")
    url = server.add("/older", status=301, Location=server.url("/a/old"))
    document = await _fetch(crawler, url)
    assert (document.uri, document.title) == (url, "Rain & wind")
    assert server.requests == ["/older", "/a/old", "/new"]


async def test_a_loop_of_redirects_ends(server: Server, crawler: Crawler) -> None:
    url = server.add("/loop", status=302, Location="/loop")
    with pytest.raises(ToolError, match="redirects more than 5 times"):
        await _fetch(crawler, url)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "http://user:password@127.0.0.1/",
        "http://[::]/",
        "//2130706433/",
    ],
)
async def test_where_a_redirect_leads_is_checked(server: Server, crawler: Crawler, target: str) -> None:
    url = server.add("/away", status=302, Location=target)
    with pytest.raises(ToolError):
        await _fetch(crawler, url)
    assert server.requests == ["/away"]


async def test_a_public_page_cannot_lead_to_the_loopback_interface(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = addresses_module._refusal
    # 127.0.0.2 plays the part of a public address.
    monkeypatch.setattr(
        addresses_module,
        "_refusal",
        lambda address, *, allow_private: (
            "" if str(address) == "127.0.0.2" else refusal(address, allow_private=allow_private)
        ),
    )
    server.add("/secret", "the secret", kind="text/plain")
    async with _serving("127.0.0.2") as public:
        url = public.add("/page", status=307, Location=server.url("/secret"))
        with pytest.raises(ToolError, match="private network"):
            await _fetch(Crawler(), url)
        assert public.requests == ["/page"]
    assert server.requests == []


async def test_private_addresses_are_refused_by_default(server: Server) -> None:
    url = server.add("/page", PAGE)
    for each in (url, url.replace("127.0.0.1", "localhost")):
        with pytest.raises(ToolError, match="private network"):
            await _fetch(Crawler(), each)
    assert server.requests == []


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw deflate"])
async def test_compressed_pages(server: Server, crawler: Crawler, encoding: str) -> None:
    data = PAGE.encode()
    if "gzip" in encoding:
        body = gzip.compress(data)
    else:
        body = zlib.compress(data)[2:-4] if encoding == "raw deflate" else zlib.compress(data)
    document = await _fetch(
        crawler, server.add("/page", body, Content_Encoding=encoding.removeprefix("raw "))
    )
    assert "231 days" in document.text


async def test_a_gzip_bomb_unfolds_to_the_limit_and_no_further(server: Server, crawler: Crawler) -> None:
    import tracemalloc

    bomb = gzip.compress(b"rain " * 40_000_000)  # 200 MB in about 200 kB
    assert len(bomb) < 300_000
    url = server.add("/bomb", bomb, kind="text/plain", Content_Encoding="gzip")
    tracemalloc.start()
    document = await _fetch(crawler, url, max_bytes=100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert document.truncated
    assert len(document.text) <= 100_000
    assert peak < 20_000_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
async def test_broken_or_unwanted_compression(server: Server, crawler: Crawler, encoding: str) -> None:
    url = server.add("/page", b"this is not compressed at all", Content_Encoding=encoding)
    with pytest.raises(ToolError, match="compressed"):
        await _fetch(crawler, url)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (404, "answered 404 Not Found: there is no such page"),
        (403, "answered 403 Forbidden: it refuses"),
        (429, "answered 429 Too Many Requests: it is asked too often"),
        (503, "answered 503 Service Unavailable: the server has a problem"),
        (418, "answered 418"),
        (799, "answered 799 unknown status"),
        (304, "answered 304"),
    ],
)
async def test_errors_of_the_server(server: Server, crawler: Crawler, status: int, sentence: str) -> None:
    with pytest.raises(ToolError, match=sentence):
        await _fetch(crawler, server.add("/page", "gone", status=status))


@pytest.mark.parametrize(
    "kind",
    ["image/png", "application/zip", "video/mp4", "image/svg+xml", "application/octet-stream", "text/html"],
)
async def test_binary_files(server: Server, crawler: Crawler, kind: str) -> None:
    with pytest.raises(ToolError, match=r"not a page of text|binary|not text"):
        await _fetch(crawler, server.add("/file", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 100, kind=kind))


async def test_a_page_without_text(server: Server, crawler: Crawler) -> None:
    with pytest.raises(ToolError, match="no text"):
        await _fetch(crawler, server.add("/page", "<html><body><script>draw()</script></body></html>"))
    with pytest.raises(ToolError, match="no text"):
        await _fetch(crawler, server.add("/page", ""))


async def test_nobody_listens(crawler: Crawler) -> None:
    async with _serving() as gone:
        url = gone.url("/")
    with pytest.raises(ToolError, match="nothing answers"):
        await _fetch(crawler, url)


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"]
)
async def test_a_server_that_does_not_speak_http_or_breaks_off(
    server: Server, crawler: Crawler, answer: bytes
) -> None:
    async def odd(send: Send) -> None:
        await send(answer)

    server.pages["/odd"] = odd
    with pytest.raises(ToolError, match="broke off"):
        await _fetch(crawler, server.url("/odd"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key, for `good.example`."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=good.example", "-addext", "subjectAltName=DNS:good.example", "-keyout", path, "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


async def test_the_certificate_is_checked_against_the_name_though_the_address_is_pinned(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(_: object, host: str, port: int, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    crawler = Crawler(allow_private=True)
    crawler._tls = ssl.create_default_context(cafile=str(certificate))
    async with _serving(tls=context) as server:
        server.add("/page", PAGE)
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
        document = await _fetch(crawler, f"https://good.example:{server.port}/page")
        assert document.title == "Rain & wind"
        with pytest.raises(ToolError, match="certificate is not valid"):
            await _fetch(crawler, f"https://other.example:{server.port}/page")


async def test_no_more_pages_at_a_time_than_allowed(server: Server) -> None:
    running, most = 0, 0
    full = asyncio.Event()

    async def page(send: Send) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0.02)  # a fourth would come in now
        running -= 1
        await send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")

    server.pages["/page"] = page
    crawler = Crawler(allow_private=True, concurrency=3)
    await asyncio.gather(*(_fetch(crawler, server.url("/page")) for _ in range(10)))
    assert most == 3


async def test_a_hostile_page_takes_limited_time(server: Server, crawler: Crawler) -> None:
    page = "<table><tr><td>a</td></tr></table>" * 30_000 + "<div>" * 50_000
    document = await _fetch(crawler, server.add("/page", page), timeout=60)
    assert document.text.startswith("a")


def test_one_crawler_in_several_event_loops() -> None:
    crawler = Crawler(allow_private=True, concurrency=1)

    async def twice() -> list[Document]:
        async with _serving() as server:
            url = server.add("/page", PAGE)
            return await asyncio.gather(_fetch(crawler, url), _fetch(crawler, url))

    for _ in range(2):
        assert len(asyncio.run(twice())) == 2


async def test_a_closed_crawler_refuses(crawler: Crawler) -> None:
    await crawler.aclose()
    with pytest.raises(ToolError, match="closed"):
        await _fetch(crawler, "http://127.0.0.1/")


class _Library:
    """A provider with one document."""

    name = "library"

    def __init__(self, text: str = "A book.") -> None:
        self.text = text
        self.fetched: list[str] = []

    async def search(self, queries: object, *, limit: int) -> list[list[SearchHit]]:
        return []

    async def fetch(self, uri: str, *, timeout: float, max_bytes: int) -> Document | None:
        self.fetched.append(uri)
        if not uri.startswith("book"):
            return None
        return Document(uri=uri, title="", text=self.text[:max_bytes], truncated=len(self.text) > max_bytes)


async def test_the_reader_asks_the_provider_then_the_web(server: Server, crawler: Crawler) -> None:
    reader = Reader(_Library(), crawler)
    assert (await reader.read(" book ", timeout=60, max_bytes=100)).text == "A book."
    assert "231" in (await reader.read(server.add("/page", PAGE), timeout=60, max_bytes=10_000)).text
    for uri in ("nothing", "../x", "", "file:///etc/passwd"):
        with pytest.raises(ToolError, match="no document"):
            await reader.read(uri, timeout=60, max_bytes=100)


async def test_the_reader_remembers_the_last_documents(crawler: Crawler) -> None:
    library = _Library()
    reader = Reader(library, crawler, cache=2)
    for uri in ("book1", "book2", "book1", "book3", "book1", "book2"):
        await reader.read(uri, timeout=60, max_bytes=100)
    assert library.fetched == ["book1", "book2", "book3", "book2"]


async def test_the_reader_reads_again_where_more_is_wanted(crawler: Crawler) -> None:
    library = _Library("A long book.")
    reader = Reader(library, crawler)
    assert (await reader.read("book", timeout=60, max_bytes=6)).truncated
    assert (await reader.read("book", timeout=60, max_bytes=6)).truncated
    assert (await reader.read("book", timeout=60, max_bytes=100)).text == "A long book."
    assert (await reader.read("book", timeout=60, max_bytes=6)).text == "A long book."
    assert len(library.fetched) == 2


async def test_errors_are_not_remembered(server: Server, crawler: Crawler) -> None:
    reader = Reader(_Library(), crawler)
    url = server.add("/page", "x", status=503)
    with pytest.raises(ToolError):
        await reader.read(url, timeout=60, max_bytes=100)
    server.add("/page", "Back again.", kind="text/plain")
    assert (await reader.read(url, timeout=60, max_bytes=100)).text == "Back again."


async def test_json_of_any_depth(server: Server, crawler: Crawler) -> None:
    deep = "[" * 100_000
    assert (await _fetch(crawler, server.add("/x", deep, kind="application/json"))).text == deep
    assert json.loads((await _fetch(crawler, server.add("/x", "[1]", kind="application/json"))).text) == [1]
