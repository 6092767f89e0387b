"""The web search against a loopback server that answers as the service documents."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from agentinfer_lg.errors import ToolError
from agentinfer_lg.tools import SearchProvider, TavilySearch

KEY = "tvly-secret-0123456789"


class Service:
    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.running = 0
        self.most = 0
        self.wait_for = 1
        """Requests that must be running at the same time before the first is answered."""
        self.full = asyncio.Event()
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                request = json.loads(await reader.readexactly(int(fields["content-length"])))
                self.requests.append(request)
                self.keys.add(fields["authorization"])
                self.running += 1
                self.most = max(self.most, self.running)
                if self.running == self.wait_for:
                    self.full.set()
                await self.full.wait()
                await asyncio.sleep(0.01)  # one more would come in now
                self.running -= 1
                status, body = self.answers[request["query"]]
                if body == "hang":
                    await asyncio.sleep(30)
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    listener = await asyncio.start_server(service.handle, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield service
    listener.close()


def _search(service: Service, timeout: float = 30.0) -> TavilySearch:
    return TavilySearch(SecretStr(KEY), base_url=service.url, timeout=timeout)


def _found(*uris: str) -> tuple[int, Any]:
    results = [
        {"url": uri, "title": f"Title of {uri}", "content": "Rain.\x1b[1m", "score": 0.9} for uri in uris
    ]
    return 200, {"query": "q", "results": results, "response_time": 0.1}


async def test_hits_per_query_in_order(service: Service) -> None:
    service.answers = {
        "rain": _found("https://a.org/1", "https://a.org/2", "https://a.org/1"),
        "snow": _found("https://b.org/"),
    }
    provider = _search(service)
    assert isinstance(provider, SearchProvider)
    rain, empty, snow = await provider.search(["rain", "  ", " snow\n"], limit=5)
    assert [hit.uri for hit in rain] == ["https://a.org/1", "https://a.org/2"]
    assert (rain[0].title, rain[0].snippet, rain[0].score) == ("Title of https://a.org/1", "Rain.[1m", 0.9)
    assert empty == []
    assert [hit.uri for hit in snow] == ["https://b.org/"]
    assert service.keys == {f"bearer {KEY}"}
    assert {request["max_results"] for request in service.requests} == {5}


async def test_pages_are_for_the_crawler(service: Service) -> None:
    assert await _search(service).fetch("https://a.org/1", timeout=1, max_bytes=1) is None


async def test_queries_run_at_the_same_time_but_not_all(service: Service) -> None:
    queries = [f"q{i}" for i in range(12)]
    service.answers = dict.fromkeys(queries, _found("https://a.org/"))
    service.wait_for = 4
    found = await _search(service).search(queries, limit=1)
    assert all(len(hits) == 1 for hits in found)
    assert service.most == 4


async def test_a_long_query_is_shortened(service: Service) -> None:
    service.answers = {"x" * 400: _found("https://a.org/")}
    assert len((await _search(service).search(["x" * 5000], limit=1))[0]) == 1


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "refuses the key"),
        (403, "refuses the request"),
        (432, "refuses the request"),
        (429, "429"),
        (400, "does not accept the query"),
        (500, "answered 500"),
    ],
)
async def test_errors_of_the_service(service: Service, status: int, sentence: str) -> None:
    service.answers = {"rain": (status, {"detail": {"error": f"your key {KEY} is bad"}})}
    with pytest.raises(ToolError, match=sentence) as caught:
        await _search(service).search(["rain"], limit=5)
    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_time_runs_out(service: Service) -> None:
    service.answers = {"rain": (200, "hang")}
    with pytest.raises(ToolError, match=r"took longer than 0\.2 s"):
        await _search(service, timeout=0.2).search(["rain"], limit=5)


async def test_the_service_cannot_be_reached() -> None:
    provider = TavilySearch(SecretStr(KEY), base_url="http://127.0.0.1:9", timeout=5)
    with pytest.raises(ToolError, match="cannot be reached"):
        await provider.search(["rain"], limit=5)


async def test_what_was_found_is_kept_where_another_query_fails(service: Service) -> None:
    service.answers = {"rain": _found("https://a.org/"), "snow": (500, {})}
    rain, snow = await _search(service).search(["rain", "snow"], limit=5)
    assert ([hit.uri for hit in rain], snow) == (["https://a.org/"], [])


async def test_a_refused_key_is_told_even_if_another_query_succeeded(service: Service) -> None:
    service.answers = {"rain": _found("https://a.org/"), "snow": (401, {})}
    with pytest.raises(ToolError, match="key"):
        await _search(service).search(["rain", "snow"], limit=5)


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        [],
        {},
        {"results": None},
        {
            "results": [
                None,
                1,
                {},
                {"url": 5},
                {"url": "file:///etc/passwd"},
                {"url": "https://a.org/", "score": "x"},
            ]
        },
    ],
)
async def test_an_answer_that_is_not_as_documented(service: Service, body: Any) -> None:
    service.answers = {"rain": (200, body)}
    if not isinstance(body, dict):
        with pytest.raises(ToolError, match="web search failed"):
            await _search(service).search(["rain"], limit=5)
        return
    (hits,) = await _search(service).search(["rain"], limit=5)
    assert [(hit.uri, hit.title, hit.score) for hit in hits] in (
        [],
        [("https://a.org/", "https://a.org/", 0.0)],
    )


async def test_no_query_no_request(service: Service) -> None:
    assert await _search(service).search(["", " "], limit=5) == [[], []]
    assert await _search(service).search([], limit=5) == []
    assert service.requests == []


def test_one_search_in_several_event_loops() -> None:
    async def run() -> None:
        service = Service()
        service.answers = {"rain": _found("https://a.org/")}
        listener = await asyncio.start_server(service.handle, "127.0.0.1", 0)
        provider._base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        assert len((await provider.search(["rain"], limit=1))[0]) == 1
        listener.close()

    provider = TavilySearch(SecretStr(KEY))
    for _ in range(2):
        asyncio.run(run())


def test_the_key_is_not_shown() -> None:
    provider = TavilySearch(SecretStr(KEY))
    assert KEY not in repr(provider)
    assert KEY not in repr(vars(provider))
