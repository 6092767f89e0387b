import asyncio
import ipaddress
import socket
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import ToolError
from agentinfer_lg.tools import addresses
from agentinfer_lg.tools.addresses import PinnedTransport, check_public, check_url, resolve


def _answer(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let the name server give these answers, one after the other; returns the names asked for."""
    asked: list[str] = []

    async def getaddrinfo(_: object, host: str, port: int, **__: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        if not found:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


PRIVATE = [
    "127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "192.0.0.1",
    "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "::1", "fc00::1", "fd12:3456::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::1",
]  # fmt: skip
NEVER = [
    "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.1.1", "168.63.129.16", "100.100.100.200", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "fe80::1", "fe80::1%1", "ff02::1", "fec0::1", "100::1",
    "fd00:ec2::254", "::ffff:169.254.169.254", "::ffff:0.0.0.0",
    "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1", "2002:101:101::1", "2001::1", "::127.0.0.1", "::1.1.1.1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "64:ff9b::1.1.1.1",
    "::ffff:1.1.1.1",
]


@pytest.mark.parametrize("address", PUBLIC)
async def test_public_addresses_may_be_fetched(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    _answer(monkeypatch, [address])
    await check_public("https://host.example/x", allow_private=False)


@pytest.mark.parametrize("address", PRIVATE)
async def test_private_addresses_only_where_allowed(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    _answer(monkeypatch, [address])
    with pytest.raises(ToolError, match="AGENTINFER_ALLOW_PRIVATE_ADDRESSES"):
        await check_public("https://host.example/x", allow_private=False)
    await check_public("https://host.example/x", allow_private=True)


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("address", NEVER)
async def test_other_special_addresses_never(
    monkeypatch: pytest.MonkeyPatch, address: str, allow_private: bool
) -> None:
    _answer(monkeypatch, [address])
    with pytest.raises(ToolError, match="refused"):
        await check_public("https://host.example/x", allow_private=allow_private)


async def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, ["1.1.1.1", "10.0.0.1"])
    with pytest.raises(ToolError, match="private network"):
        await check_public("https://host.example/x", allow_private=False)


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
async def test_literal_addresses(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ToolError):
        await check_public(f"http://{host}:8080/latest/meta-data", allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.1/",
        "http://017700000001/", "http://0/", "http://0x/", "http://127.0.0.1./", "http://1.1.1.1.1/", "http://①②⑦.⓪.⓪.①/", "http://host.999/",
        "http://localhost/", "http://LOCALHOST:80/", "http://user@1.1.1.1/",
        "http://user:password@1.1.1.1/",
        "http://1.1.1.1@127.0.0.1/",
        "http://1.1.1.1#@127.0.0.1/../", "ftp://1.1.1.1/", "file:///etc/passwd", "gopher://1.1.1.1/",
        "javascript:alert(1)",
        "data:text/html,x",
        "//1.1.1.1/", "1.1.1.1", "", "http://", "http:///path",
        "https://[::1", "http://1.1.1.1:99999/", "http://1.1.1.1:0/", "http://a b/",
        "http://\\127.0.0.1/", "http://127.0.0.1\\@1.1.1.1/", "http://\x00/", "http://" + "a" * 9000,
    ],
)  # fmt: skip
async def test_urls_that_hide_where_they_lead_are_refused(url: str) -> None:
    if url == "http://1.1.1.1#@127.0.0.1/../":  # the part after # is not sent
        assert check_url(url).host == "1.1.1.1"
        return
    with pytest.raises(ToolError):
        await check_public(url, allow_private=False)


async def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, [])
    with pytest.raises(ToolError, match="was not found"):
        await check_public("https://host.example/", allow_private=False)


async def test_passwords_are_not_repeated_in_the_error() -> None:
    with pytest.raises(ToolError) as caught:
        await check_public("https://user:hunter2@host.example/", allow_private=False)
    assert "hunter2" not in str(caught.value)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_no_address_that_the_standard_library_calls_special_is_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    special = not address.is_global or address.is_multicast or address.is_reserved or address.is_link_local
    try:
        asyncio.run(resolve(str(address), 80, allow_private=False))
    except ToolError:
        return
    stands_for_ipv4 = any(address in ipaddress.ip_network(net) for net in ("::ffff:0:0/96", "64:ff9b::/96"))
    assert not special or stands_for_ipv4  # those are judged by the next test


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_like_itself(address: ipaddress.IPv4Address) -> None:
    def refused(host: str) -> bool:
        try:
            asyncio.run(resolve(host, 80, allow_private=False))
        except ToolError:
            return True
        return False

    mapped = refused(f"::ffff:{address}")
    assert mapped == refused(str(address)) == refused(str(ipaddress.ip_address(f"64:ff9b::{address}")))


@given(st.text(st.characters(codec=None), max_size=60) | st.text("htp:/.0x17[]@#\\%a", max_size=30))
def test_any_text_is_a_url_or_a_clear_error(text: str) -> None:
    try:
        url = check_url(text)
    except ToolError:
        return
    assert url.scheme in ("http", "https")
    assert url.host
    assert not url.userinfo


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answer(monkeypatch, ["1.1.1.1"], ["127.0.0.1"])
    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, text="ok")

    transport = PinnedTransport(httpx.MockTransport(handle), allow_private=False)
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.get("https://rebind.example/page?q=1")
        assert str(response.url) == "https://rebind.example/page?q=1"
        with pytest.raises(ToolError, match="private network"):
            await client.get("https://rebind.example/page?q=1")
    (request,) = sent
    assert str(request.url) == "https://1.1.1.1/page?q=1"
    assert request.headers["Host"] == "rebind.example"
    assert request.extensions["sni_hostname"] == "rebind.example"
    assert asked == ["rebind.example", "rebind.example"]


async def test_the_next_address_is_tried_where_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, ["2606:4700:4700::1111", "1.1.1.1"])
    tried: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        tried.append(request.url.host)
        if len(tried) == 1:
            raise httpx.ConnectError("no route")
        return httpx.Response(200)

    transport = PinnedTransport(httpx.MockTransport(handle), allow_private=False)
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.get("http://host.example/")).status_code == 200
    assert tried == ["2606:4700:4700::1111", "1.1.1.1"]


async def test_looking_up_a_name_takes_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(addresses, "_RESOLVE_SECONDS", 0.05)
    with pytest.raises(ToolError, match="could not be looked up"):
        await check_public("https://host.example/", allow_private=False)
