"""Where the doors listen: what comes in by such a socket is answered at once."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sendkit_server.net.listen import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_what_is_accepted_does_not_hold_back_small_writes(host: str) -> None:
    accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    class Door(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(transport.get_extra_info("socket"))

    sock = listen(host, 0, "SENDKIT_HTTP_BIND")
    async with await asyncio.get_running_loop().create_server(Door, sock=sock):
        _, writer = await asyncio.open_connection(*sock.getsockname()[:2])
        assert (await accepted).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
