"""The listeners of the HTTP door: how they end, and whom a request comes from."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

from sinks import proxy_header

from sendkit_server.api.server import HttpServer
from sendkit_server.net.listen import listen
from sendkit_server.net.proxied import NO_PROXIES, Proxies

GET = b"GET /who HTTP/1.1\r\nHost: x\r\n"
LOOPBACK = Proxies([ip_network("127.0.0.1/32")])


async def tells_who(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the client's address."""
    body = scope["client"][0].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def never_answers(scope: Any, receive: Any, send: Any) -> None:
    """Waits for ever."""
    await asyncio.Event().wait()


@asynccontextmanager
async def serving(application: Any, proxies: Proxies = NO_PROXIES) -> AsyncIterator[tuple[HttpServer, int]]:
    server = HttpServer(application, "/docs", proxies=proxies)
    sock = listen("127.0.0.1", 0, "TESTS")
    port = sock.getsockname()[1]
    await server.listen(sock)
    try:
        yield server, port
    finally:
        await server.close(0)


async def said(port: int, *data: bytes) -> bytes:
    """The answer to what is said, until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for each in data:
        writer.write(each)
        await writer.drain()
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""  # it hangs up with something unread
    finally:
        writer.close()


async def test_what_is_not_answered_at_the_end_is_told_that_nobody_knows() -> None:
    async with serving(never_answers) as (server, port):
        asking = asyncio.create_task(said(port, GET + b"\r\n"))
        async with asyncio.timeout(20):
            while not server._state.tasks:
                await asyncio.sleep(0.01)
        await server.close(0.01)
        head, _, body = (await asking).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: 5" in head
        answer = json.loads(body)
        assert (answer["name"], answer["statusCode"]) == ("internal_server_error", 503)
        assert "not known" in answer["message"]


async def test_a_client_is_named_by_a_proxy_that_is_trusted_alone() -> None:
    close = b"Connection: close\r\n"
    forwarded = b"X-Forwarded-For: 203.0.113.9, 198.51.100.7\r\n"
    for proxies, client in ((NO_PROXIES, b"127.0.0.1"), (LOOPBACK, b"198.51.100.7")):
        async with serving(tells_who, proxies) as (_, port):
            assert (await said(port, GET + close + forwarded + b"\r\n")).endswith(b"\r\n" + client)
            assert (await said(port, GET + close + b"\r\n")).endswith(b"\r\n127.0.0.1")


async def test_each_request_of_a_kept_connection_has_its_own_client() -> None:
    async with serving(tells_who, LOOPBACK) as (_, port):
        first = GET + b"X-Forwarded-For: 198.51.100.7\r\n\r\n"
        second = GET + b"X-Forwarded-For: 198.51.100.8\r\nConnection: close\r\n\r\n"
        answers = await said(port, first + second)
        assert answers.index(b"\r\n198.51.100.7") < answers.index(b"\r\n198.51.100.8")


async def test_a_proxy_header_names_the_client_of_a_connection() -> None:
    request = GET + b"Connection: close\r\n\r\n"
    async with serving(tells_who, LOOPBACK) as (_, port):
        assert (await said(port, proxy_header("198.51.100.7"), request)).endswith(b"\r\n198.51.100.7")
        # The one that passes the bytes on may be trusted to stand behind one that speaks HTTP.
        both = GET + b"X-Forwarded-For: 198.51.100.7\r\nConnection: close\r\n\r\n"
        assert (await said(port, proxy_header("127.0.0.1"), both)).endswith(b"\r\n198.51.100.7")
        assert await said(port, proxy_header("198.51.100.7", command=2), request) == b""
    async with serving(tells_who) as (_, port):
        assert b" 400 " in (await said(port, proxy_header("198.51.100.7"), request)).partition(b"\r\n")[0]


async def test_connections_that_have_said_nothing_end_with_the_server() -> None:
    async with serving(tells_who, LOOPBACK) as (server, port):
        with socket.create_connection(("127.0.0.1", port), 20) as silent:
            async with asyncio.timeout(20):
                while not server._servers[0]._introducing:  # type: ignore[union-attr]
                    await asyncio.sleep(0.01)
            await server.close(0)
            assert await asyncio.to_thread(silent.recv, 10) == b""
