"""A proxy before an SMTP door that cuts connections behind the dot: the server has taken the mail, its client does not hear it.

    async with cutting(port, times=2) as proxy:
        …a client talks to proxy.port; each mail's first 2 answers do not reach it…

It reads what is said, so TLS is not for it.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_TAKEN = re.compile(rb"250 2\.0\.0 Ok: (msg_\S+)\r\n")
_CONTENT = re.compile(rb"\r\nDATA\r\n(.*?\r\n)\.\r\n", re.DOTALL)


class Cutting:
    """What it has done. cut: how often the answer to each id was kept back.  said: the bytes of each connection's client."""

    def __init__(self, server_port: int, times: int) -> None:
        self.port = 0
        self.cut: Counter[str] = Counter()
        self.said: list[bytes] = []
        self._server_port, self._times = server_port, times

    @property
    def contents(self) -> list[bytes]:
        """Each message that came whole, as it came: again with each try."""
        return [content for said in self.said for content in _CONTENT.findall(said)]

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection."""
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        going = asyncio.create_task(self._go(client, to_server))
        try:
            while line := await server.readline():
                taken = _TAKEN.fullmatch(line)
                if taken is not None and self.cut[taken[1].decode()] < self._times:
                    self.cut[taken[1].decode()] += 1
                    return
                to_client.write(line)
        finally:
            going.cancel()
            to_client.transport.abort()
            to_server.close()

    async def _go(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        number = len(self.said)
        self.said.append(b"")
        while data := await client.read(65536):
            self.said[number] += data
            to_server.write(data)
        to_server.write_eof()


@asynccontextmanager
async def cutting(server_port: int, times: int) -> AsyncIterator[Cutting]:
    """See above."""
    proxy = Cutting(server_port, times)
    running = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = running.sockets[0].getsockname()[1]
    async with running:
        yield proxy
