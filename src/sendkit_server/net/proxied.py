"""Who is at the other end when a proxy stands between, as proxies that are trusted say.

A proxy that speaks HTTP adds X-Forwarded-For; one that passes bytes on begins each connection with a PROXY header, of which
version 2 is understood (https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt). From anybody else the same words
mean nothing: they are a client's.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from sendkit_server.model.peer import peer_address
from sendkit_server.net.guard import Network

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct("!12sBBH")
_SOURCES = {
    0x11: (12, IPv4Address, 4),
    0x21: (36, IPv6Address, 16),
}  # TCP over IPv4, over IPv6: length, and how a source is read
MAX_HEADER_BYTES = 4_096  # with what a proxy may tell besides, which is passed over
MAX_FORWARDED = 50
LOOK_AGAIN_S = 0.005


class BadProxyHeader(Exception):
    """What a trusted proxy has sent begins as a PROXY header and is none that can be read."""


class Proxies:
    """The networks whose word is taken."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, host: str) -> bool:
        """Whether this peer is one of them."""
        if not self._networks:
            return False
        address = peer_address(host)
        return address is not None and any(address in network for network in self._networks)

    def client_of(self, host: str, forwarded: Iterable[bytes]) -> str:
        """The client of a request that came from a peer. forwarded: its X-Forwarded-For headers, in order.

        The last entry is the nearest proxy's; those further left are the word of whoever they name. So it is read from the
        right, as long as the one who says it is trusted. What cannot be read ends it.
        """
        if not self.trusts(host):
            return host
        said = b",".join(forwarded).decode("latin-1").split(",")
        for entry in said[: -MAX_FORWARDED - 1 : -1]:
            found = _address_in(entry)
            if found is None:
                return host
            host = found
            if not self.trusts(host):
                return host
        return host


NO_PROXIES = Proxies()


def _address_in(entry: str) -> str | None:
    """An entry's address: bare, in brackets, or with a port."""
    text = entry.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = peer_address(text)
    return None if address is None else str(address)


async def announced(sock: socket.socket, patience_s: float) -> str | None:
    """The client that a connection's PROXY header names; None when there is no header, or one that names nobody.

    Nothing but the header is taken from the socket, which must not block. patience_s: for the first byte to come, and then
    for the rest. BadProxyHeader; OSError when the connection is lost.
    """
    try:
        async with asyncio.timeout(patience_s):
            await _readable(sock)
    except TimeoutError:
        return None
    try:
        async with asyncio.timeout(patience_s):
            while (seen := sock.recv(len(SIGNATURE), socket.MSG_PEEK)) != SIGNATURE:
                if not seen:
                    raise ConnectionResetError("closed before a word was said")
                if not SIGNATURE.startswith(seen):
                    return None
                await asyncio.sleep(LOOK_AGAIN_S)  # it is readable already: the rest of it does not show
            _, version, family, length = _FIXED.unpack(await _exactly(sock, _FIXED.size))
            if version >> 4 != 2 or length > MAX_HEADER_BYTES:
                raise BadProxyHeader(f"version {version >> 4}, {length} bytes")
            rest = await _exactly(sock, length)
    except TimeoutError:
        raise BadProxyHeader("it did not come whole") from None
    return _source(version & 0x0F, family, rest)


def _source(command: int, family: int, rest: bytes) -> str | None:
    # 0, LOCAL: the proxy's own connection, such as a health check. Families without an address tell nothing, too.
    if command == 0 or family not in _SOURCES:
        return None
    if command != 1:
        raise BadProxyHeader(f"command {command}")
    least, read, size = _SOURCES[family]
    if len(rest) < least:
        raise BadProxyHeader(f"{len(rest)} bytes for an address")
    found = peer_address(str(read(rest[:size])))
    return str(found)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def come() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, come)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < count:
        more = await loop.sock_recv(sock, count - len(found))
        if not more:
            raise ConnectionResetError("closed within the PROXY header")
        found += more
    return found
