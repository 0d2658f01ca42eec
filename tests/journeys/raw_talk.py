"""A TCP connection on which a test says exactly the bytes it wants to, and reads what comes back."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from server import Reply

ANSWER_S = 10.0


class Talk:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, raw: bytes) -> None:
        """Writes; a server that has hung up meanwhile is no error."""
        self._writer.write(raw)
        with suppress(ConnectionError):
            await self._writer.drain()

    async def line(self, seconds: float = ANSWER_S) -> str:
        """One line, without its end; "" at the end of the connection."""
        async with asyncio.timeout(seconds):
            try:
                return (await self._reader.readline()).decode().rstrip("\r\n")
            except ConnectionError:
                return ""

    async def smtp(self, command: str | None = None) -> str:
        """Says a command and reads the whole reply; its lines are joined by LF."""
        if command is not None:
            await self.say(command.encode() + b"\r\n")
        lines = [await self.line()]
        while lines[-1][3:4] == "-":
            lines.append(await self.line())
        return "\n".join(lines)

    async def login(self, key: str) -> None:
        """EHLO and AUTH PLAIN."""
        assert (await self.smtp("EHLO client.test")).startswith("250-")
        token = base64.b64encode(f"\0sendkit\0{key}".encode()).decode()
        assert await self.smtp(f"AUTH PLAIN {token}") == "235 2.7.0 Authentication successful"

    async def http(self, *, head: bool = False, seconds: float = ANSWER_S) -> Reply:
        """One whole HTTP response that has a Content-Length. seconds: until its first line."""
        status = int((await self.line(seconds)).split()[1])
        headers: dict[str, str] = {}
        while line := await self.line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        async with asyncio.timeout(ANSWER_S):
            body = b"" if head else await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(status, headers, body)

    async def rest(self) -> bytes:
        """All that comes until the server ends the connection."""
        async with asyncio.timeout(ANSWER_S):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """TLS from here on, as a client."""
        await self._writer.start_tls(context, server_hostname="localhost")


@asynccontextmanager
async def connected(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Talk]:
    """A connection to a door, cut off at the end."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None
    )
    try:
        yield Talk(reader, writer)
    finally:
        writer.transport.abort()
