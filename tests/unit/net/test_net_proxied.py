"""Whom a proxy says it comes for: who is believed, and what is no header."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest
from sinks import proxy_header

from sendkit_server.net.proxied import NO_PROXIES, SIGNATURE, BadProxyHeader, Proxies, announced

TRUSTED = Proxies([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", [b"198.51.100.7"], "192.0.2.1"),  # no proxy of ours
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [b"203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the left one is the client's own invention
        ("10.0.0.1", [b"203.0.113.9", b"198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", [b"10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("2001:db8::1", [b"[2001:DB8:1::7]:4711, 2001:db8::2"], "2001:db8:1::7"),
        ("10.0.0.1", [b"198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", [b"198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.7, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b"\xff\xfe, , "], "10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.9" + b", 10.0.0.2" * 1000], "10.0.0.2"),
    ],
)
def test_the_client_is_the_last_one_that_somebody_trusted_names(peer: str, forwarded: list[bytes], client: str) -> None:
    assert TRUSTED.client_of(peer, forwarded) == client


def test_without_proxies_nobody_is_believed() -> None:
    assert not NO_PROXIES and not NO_PROXIES.trusts("127.0.0.1") and not TRUSTED.trusts("unix")
    assert NO_PROXIES.client_of("127.0.0.1", [b"198.51.100.7"]) == "127.0.0.1"


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@pytest.mark.parametrize("source", ["198.51.100.7", "2001:db8::7"])
async def test_a_header_names_the_client_and_nothing_behind_it_is_taken(source: str) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(proxy_header(source, more=b"\x04\x00\x03abc") + b"EHLO x\r\n")
        assert await announced(ours, 20) == str(ip_address(source))
        assert ours.recv(100) == b"EHLO x\r\n"


async def test_a_header_may_come_in_pieces() -> None:
    with pair() as (ours, theirs):
        asking = asyncio.create_task(announced(ours, 20))
        for byte in proxy_header("198.51.100.7"):
            theirs.sendall(bytes([byte]))
            await asyncio.sleep(0)
        assert await asking == "198.51.100.7"


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\nEHLO x\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"]
)
async def test_what_is_no_header_is_left_where_it_is(said: bytes) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(said)
        assert await announced(ours, 20) is None
        assert ours.recv(100) == said


async def test_who_says_nothing_is_nobody_s_proxy() -> None:
    with pair() as (ours, _):
        assert await announced(ours, 0.05) is None


@pytest.mark.parametrize(
    "header",
    [
        proxy_header("198.51.100.7", command=0),  # LOCAL: the proxy's own health check
        SIGNATURE + b"\x21\x00\x00\x00",  # UNSPEC
        SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),  # UNIX
    ],
    ids=["local", "unspec", "unix"],
)
async def test_a_header_that_names_nobody_leaves_the_proxy_as_the_client(header: bytes) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(header + b"x")
        assert await announced(ours, 20) is None
        assert ours.recv(10) == b"x"


@pytest.mark.parametrize(
    "header",
    [
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),  # version 1 in the form of 2
        proxy_header("198.51.100.7", command=2),
        SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),  # too short for an address
        SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\xff\xff",  # too long
    ],
)
async def test_a_broken_header_is_not_guessed_at(header: bytes) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(header)
        with pytest.raises(BadProxyHeader):
            await announced(ours, 20)


@pytest.mark.parametrize("cut", [0, 14, 20])
async def test_a_header_that_is_cut_off_ends_the_connection(cut: int) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(proxy_header("198.51.100.7")[:cut])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            await announced(ours, 20)


@pytest.mark.parametrize("cut", [5, 20])
async def test_a_header_that_does_not_go_on_is_given_up(cut: int) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(proxy_header("198.51.100.7")[:cut])
        with pytest.raises(BadProxyHeader, match="whole"):
            await announced(ours, 0.05)
