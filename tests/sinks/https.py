"""An HTTPS server on loopback that answers each request with the bytes a test has put down for its path.

    async with HttpsSink(context) as site:
        site.pages["/.well-known/mta-sts.txt"] = reply(200, "version: STSv1\\n…")

A page is bytes (sent as they are, then the connection is kept), SILENCE (nothing, for ever), or DRIP (a head, then one
byte of a body every tenth of a second).
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TypeAlias

from sinks.smtp import SILENCE

DRIP = object()
Page: TypeAlias = "bytes | object"


def reply(status: int, body: str | bytes, *, kind: str | None = "text/plain", more: str = "") -> bytes:
    """A whole answer. more: further header lines, each with CRLF."""
    raw = body.encode() if isinstance(body, str) else body
    type_ = f"Content-Type: {kind}\r\n" if kind else ""
    return f"HTTP/1.1 {status} x\r\n{type_}{more}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


class HttpsSink:
    """See above. requests: (Host, path) of each, in order.  connections: how many there were."""

    def __init__(self, context: ssl.SSLContext, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, str]] = []
        self.connections = 0
        self._context = context
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> HttpsSink:
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.decode(), reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            if self._server is not None and self._server.is_serving():
                raise
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, *lines = head.split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", "0")))
        path = request.split()[1]
        self.requests.append((headers["host"], path))
        page = self.pages.get(path, reply(404, "no such page"))
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
