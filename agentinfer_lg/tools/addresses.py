"""Which addresses may be fetched: a URL in a page or from a model must not reach the machines behind the firewall.

A name is resolved once, every address it has is checked, and the connection goes to an address that was checked. A
name server that answers differently the second time (DNS rebinding) therefore gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket

import httpx

from agentinfer_lg.errors import ToolError

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_URL_CHARACTERS = 8192
_MAX_ADDRESSES_TRIED = 4
_RESOLVE_SECONDS = 10.0
_NUMBER_LABEL = re.compile(r"(0x[0-9a-f]*|\d+)\.?", re.I)
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
        ),
    )
)
"""Where clouds hand credentials to their machines; refused even where private addresses are allowed."""
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "100::/64", "2001::/32", "2002::/16",
            "fe80::/10", "fec0::/10", "ff00::/8",
        ),
    )
)  # fmt: skip
_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
            "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "::1/128",
            "64:ff9b:1::/48", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7",
        ),
    )
)  # fmt: skip
"""Spelt out, because what `ipaddress` calls private differs between versions of Python."""
_PRIVATE_REASON = "a private network"
_RESERVED_REASON = "a link-local, multicast or reserved address"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def check_url(url: str) -> httpx.URL:
    """Check the form of a URL, without any network access.

    Raises:
        ToolError: It is not an http or https URL, carries a user name or password, or writes its address in a way
            that hides it (decimal, octal, hexadecimal, shortened).
    """
    if len(url) > _MAX_URL_CHARACTERS:
        msg = f"The address is longer than {_MAX_URL_CHARACTERS} characters."
        raise ToolError(msg)
    try:
        parsed = httpx.URL(url.strip())
        host = parsed.raw_host.decode("ascii")
        port = parsed.port
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError):
        msg = f"{_shown(url)} is not a valid address."
        raise ToolError(msg) from None
    if parsed.scheme not in ("http", "https"):
        msg = f"{_shown(url)} cannot be fetched: only http and https addresses can."
        raise ToolError(msg)
    if not host or not (port is None or 0 < port < 65536):
        msg = f"{_shown(url)} names no host, or an impossible port."
        raise ToolError(msg)
    if parsed.userinfo:
        msg = "An address with a user name or password in it is not fetched."
        raise ToolError(msg)
    if _literal(host) is None and _NUMBER_LABEL.fullmatch(host.rstrip(".").rsplit(".", 1)[-1]):
        msg = f"{_shown(url)} is refused: write the IP address in its usual form."
        raise ToolError(msg)
    return parsed


async def check_public(url: str, *, allow_private: bool) -> None:
    """Check that a URL may be fetched; resolves its host.

    Args:
        url: Anything.
        allow_private: Accept loopback and private networks. Link-local, multicast, reserved and cloud metadata
            addresses are refused all the same.

    Raises:
        ToolError: It may not, or the host has no address.
    """
    parsed = check_url(url)
    await resolve(parsed.raw_host.decode("ascii"), _port(parsed), allow_private=allow_private)


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Return the IP addresses of `host`, all of them checked.

    Raises:
        ToolError: There is none, or one of them may not be fetched.
    """
    literal = _literal(host)
    addresses = [literal] if literal is not None else await _lookup(host, port)
    for address in addresses:
        reason = _refusal(address, allow_private=allow_private)
        if reason:
            msg = f"{_shown(host)} is refused: it leads to {reason}."
            if reason == _PRIVATE_REASON:
                msg += " Set AGENTINFER_ALLOW_PRIVATE_ADDRESSES=true to allow it."
            raise ToolError(msg)
    return [str(address) for address in addresses]


async def _lookup(host: str, port: int) -> list[_IPAddress]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        msg = f"The name {_shown(host)} could not be looked up within {_RESOLVE_SECONDS:g} s."
        raise ToolError(msg) from None
    except (OSError, UnicodeError):
        msg = f"The host {_shown(host)} was not found. Check the address and the network."
        raise ToolError(msg) from None
    addresses = [ipaddress.ip_address(str(info[4][0])) for info in infos]
    if not addresses:
        msg = f"The host {_shown(host)} has no address."
        raise ToolError(msg)
    return list(dict.fromkeys(addresses))


def _literal(host: str) -> _IPAddress | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _refusal(address: _IPAddress, *, allow_private: bool) -> str:
    """Why an address may not be fetched; "" when it may."""
    inner = _unwrapped(address)
    if inner in _METADATA:
        return "a cloud metadata service"
    if any(inner in network for network in _NEVER if network.version == inner.version):
        return _RESERVED_REASON
    if any(inner in network for network in _PRIVATE if network.version == inner.version):
        return "" if allow_private else _PRIVATE_REASON
    return _RESERVED_REASON if inner.is_reserved or not inner.is_global else ""


def _unwrapped(address: _IPAddress) -> _IPAddress:
    """The IPv4 address that an IPv6 address stands for (mapped, NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")


class PinnedTransport(httpx.AsyncBaseTransport):
    """HTTP transport that connects only to addresses it has checked; proxies are not used.

    Args:
        transport: Does the work.
        allow_private: See `check_public`.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, *, allow_private: bool) -> None:
        self._transport = transport
        self._allow_private = allow_private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Resolve, check and send; the next address of the host is tried where one does not answer.

        Raises:
            ToolError: The address may not be fetched.
            httpx.TransportError: The connection failed.
        """
        url = check_url(str(request.url))
        host = url.raw_host.decode("ascii")
        addresses = (await resolve(host, _port(url), allow_private=self._allow_private))[
            :_MAX_ADDRESSES_TRIED
        ]
        for number, address in enumerate(addresses, start=1):
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,  # the Host header still names the host
                stream=request.stream,
                extensions={
                    **request.extensions,
                    "sni_hostname": host,
                },  # so does the certificate that is asked for
            )
            try:
                return await self._transport.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise AssertionError  # resolve() never returns an empty list

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()
