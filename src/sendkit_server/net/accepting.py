"""Taking connections off a listening socket, where something has to be done with them before asyncio's transport begins.

That is who is turned away, and what a trusted proxy says first: its header stands in front of everything, TLS as well.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from sendkit_server.net.proxied import BadProxyHeader, Proxies, announced

ACCEPTS_AT_ONCE = 64  # then others get their turn
ACCEPT_PAUSE_S = 1.0  # when the system has no more file descriptors

log = structlog.get_logger()


class Accepting:
    """One listening socket, until it is closed. door: its name in the log.

    admit: takes each client's socket, which does not block, and the address that it comes from.  proxies: who may name
    another one, for which patience_s are given.
    """

    def __init__(
        self,
        listener: socket.socket,
        admit: Callable[[socket.socket, str], None],
        *,
        door: str,
        proxies: Proxies,
        patience_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._admit = admit
        self._door = door
        self._proxies = proxies
        self._patience_s = patience_s
        self._introducing: dict[asyncio.Task[None], socket.socket] = {}
        self._listen()

    def close(self) -> None:
        """Takes no more connections; those of whom nobody has said yet whom they come for are dropped."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for task in self._introducing:
            task.cancel()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._take)

    def _take(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                client, peer = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error(f"{self._door}.accept_failed", error=str(error))
                self._loop.remove_reader(self._listener)
                self._loop.call_later(ACCEPT_PAUSE_S, self._listen)
                return
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._proxies.trusts(peer[0]):
                self._admit(client, peer[0])
                continue
            task = self._loop.create_task(self._introduced(client, peer[0]))
            self._introducing[task] = client
            task.add_done_callback(self._was_introduced)

    async def _introduced(self, client: socket.socket, proxy: str) -> None:
        try:
            host = await announced(client, self._patience_s) or proxy
        except (BadProxyHeader, OSError) as error:
            log.info(f"{self._door}.proxy_header_refused", peer=proxy, error=str(error))
            client.close()
            return
        self._admit(client, host)

    def _was_introduced(self, task: asyncio.Task[None]) -> None:
        client = self._introducing.pop(task)
        if task.cancelled():
            client.close()
