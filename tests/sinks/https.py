"""An HTTPS server on loopback that answers each request with the bytes a test has put down for its path.

    async with HttpsSink(context) as site:
        site.pages["/.well-known/mta-sts.txt"] = reply(200, "version: STSv1\\n…")

A page is bytes (sent as they are, then the connection is kept), SILENCE (nothing, for ever), or DRIP (a head, then one
byte of a body every tenth of a second).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from sinks.server import LoopbackServer
from sinks.smtp import SILENCE

DRIP = object()
Page: TypeAlias = "bytes | object"


def reply(status: int, body: str | bytes, *, kind: str | None = "text/plain", more: str = "") -> bytes:
    """A whole answer. more: further header lines, each with CRLF."""
    raw = body.encode() if isinstance(body, str) else body
    type_ = f"Content-Type: {kind}\r\n" if kind else ""
    return f"HTTP/1.1 {status} x\r\n{type_}{more}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


@dataclass
class Request:
    """What came. headers: names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[Request]:
    """All that come on a connection, as clients that say Content-Length send them."""
    while True:
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = request.split()
        yield Request(method, path, headers, body)


class HttpsSink(LoopbackServer):
    """See above. requests: (Host, path) of each, in order."""

    def __init__(self, context: ssl.SSLContext, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port, tls=context)
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, str]] = []

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            self.requests.append((request.headers["host"], request.path))
            page = self.pages.get(request.path, reply(404, "no such page"))
            if page is SILENCE:
                await asyncio.Event().wait()
            if page is DRIP:
                writer.write(b"HTTP/1.1 200 ok\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n")
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.1)
            assert isinstance(page, bytes)
            writer.write(page)
            with suppress(ConnectionError):
                await writer.drain()
