"""What a mail server says first (RFC 5321 4.2): enough to know whether a name leads to the server that it should."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import msgspec

from sendkit_server.net.connect import Failure, Target, connect
from sendkit_server.net.guard import Guard

MAX_LINE_BYTES = 512  # RFC 5321 4.5.3.1.5


class Greeting(msgspec.Struct, frozen=True):
    """line: the first one, without its end; "" when the server closed without a word, None when it was silent or nobody
    took the connection.  target: who took it.  failures: who did not, in words."""

    line: str | None
    target: Target | None
    failures: tuple[str, ...]


class _FirstLine(asyncio.Protocol):
    def __init__(self) -> None:
        self.line: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        if b"\n" in self._read or len(self._read) >= MAX_LINE_BYTES:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """Politely: an answer is not waited for."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"QUIT\r\n")
            self._transport.close()

    def _end(self) -> None:
        if not self.line.done():
            self.line.set_result(self._read.partition(b"\n")[0][:MAX_LINE_BYTES])


async def greeting(targets: Sequence[Target], guard: Guard, *, deadline_s: float) -> Greeting:
    """The greeting of the first target that takes a connection, all within the deadline."""
    failures: list[Failure] = []
    connected: tuple[_FirstLine, Target] | None = None
    try:
        async with asyncio.timeout(deadline_s):
            connected = await connect(_FirstLine, targets, guard, deadline_s=deadline_s, on_failure=failures.append)
            line = None if connected is None else (await connected[0].line).decode("utf-8", "replace").rstrip("\r")
    except TimeoutError:
        line = None
    finally:
        if connected is not None:
            connected[0].leave()
    told = tuple(f"{each.target.host} [{each.target.address}]:{each.target.port}: {each.text}" for each in failures)
    return Greeting(line, connected[1] if connected else None, told)
