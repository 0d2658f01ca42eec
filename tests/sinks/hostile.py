"""Servers that no SmtpSink can play: they hang up with a reset, babble without end, drip, or break TLS.

async with RawServer(host, port, silent) as server: ...
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from sinks.server import LoopbackServer

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_LINGER_NOT = struct.pack("ii", 1, 0)


class RawServer(LoopbackServer):
    """Gives each connection to a handler and cuts it when that returns. receive_bytes: the kernel's buffer for each."""

    def __init__(self, host: str, port: int, handler: Handler, *, receive_bytes: int | None = None) -> None:
        super().__init__(host, port, limit=2**12, backlog=64)
        self._handler = handler
        self._receive_bytes = receive_bytes

    def _bound(self) -> socket.socket:
        sock = super()._bound()
        if self._receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)  # connections inherit it
        return sock

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._handler(reader, writer)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """RST at once."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


async def reset_at_mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """RST in answer to MAIL."""
    await hello(reader, writer)
    await reader.readline()
    await reset(reader, writer)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the connection and says nothing."""
    await asyncio.Event().wait()


async def endless_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A greeting whose last line never comes."""
    while True:
        writer.write(b"220-and another thing\r\n" * 50)
        await writer.drain()


async def endless_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A greeting whose line never ends, with what terminals and browsers would obey in it."""
    writer.write(b"220 \x1b[31m<script>alert(1)</script>\x00\xff ")
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


def tarpit(every_s: float) -> Handler:
    """A greeting that comes byte by byte and is never done."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220-")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(every_s)

    return drip


async def slow_reader(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for the message and does not read it."""
    await hello(reader, writer)
    while (line := await reader.readline()) and not line.startswith((b"DATA", b"BDAT")):
        writer.write(b"250 2.0.0 ok\r\n")
    writer.write(b"354 go ahead, I am listening\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def garbage_for_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Offers STARTTLS and answers the handshake with something else; takes mail in clear."""
    await hello(reader, writer, b"250-farm.test\r\n250 STARTTLS\r\n")
    while line := await reader.readline():
        match line[:4].upper():
            case b"STAR":
                writer.write(b"220 2.0.0 go ahead\r\n")
                await reader.read(1)
                writer.write(b"this is no TLS record\r\n" * 20)
                await writer.drain()
                return
            case b"DATA":
                writer.write(b"354 go ahead\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 2.0.0 taken in clear\r\n")
            case _:
                writer.write(b"250 2.0.0 ok\r\n")


async def hello(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, offer: bytes = b"250 farm.test\r\n"
) -> None:
    """The greeting, and the answer to EHLO."""
    writer.write(b"220 farm.test ESMTP\r\n")
    await reader.readline()
    writer.write(offer)
