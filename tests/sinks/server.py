"""What all servers of this package have: they listen on loopback, each connection is a task, and all are cut at the end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, ClassVar, Self

Broken = tuple[type[Exception], ...]


class LoopbackServer:
    """`async with` it. A subclass talks in `_talk`; what that raises of `broken` ends the connection, nothing more.

    port: 0 takes a free one, which then stands there.  tls: from a connection's first byte.  connections: how many there
    were.
    """

    broken: ClassVar[Broken] = (OSError, asyncio.IncompleteReadError)

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None, **listening: Any
    ) -> None:
        self.host = host
        self.port = port
        self.connections = 0
        self._context = tls
        self._listening = listening
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, sock=self._bound(), ssl=self._context, **self._listening)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _bound(self) -> socket.socket:
        # The protocol by its number: asyncio turns Nagle off only for a socket that says so, and a sink that answers line by
        # line would wait 40 ms for each acknowledgement.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((self.host, self.port))
        except OSError:
            sock.close()
            raise
        return sock

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except self.broken:
            pass
        except asyncio.CancelledError:
            if self._server.is_serving():
                raise
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError
