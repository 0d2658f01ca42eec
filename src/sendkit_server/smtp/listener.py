"""What every SMTP door does: listens, admits, watches the clocks, and closes in an orderly way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import structlog

from sendkit_server.events.refusals import Entry
from sendkit_server.model.peer import address_group
from sendkit_server.net.accepting import Accepting
from sendkit_server.smtp.service import Door
from sendkit_server.smtp.shell import Shell
from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import Reply
from sendkit_server.wire.smtp_server import speaks_other_protocol

BACKLOG = 1_024
LONGEST_SWEEP_S = 1.0
PEEKED_BYTES = 16
DISCARDED_BYTES = 65_536

log = structlog.get_logger()


class Listener:
    """One kind of listener, on as many sockets as wanted. implicit_tls: TLS from the first byte.

    connection: makes the shell for a client at a host (its literal) that counts as an address.
    """

    def __init__(self, door: Door, connection: Callable[[str, str], Shell], *, implicit_tls: bool = False) -> None:
        self._door = door
        self._connection = connection
        self._implicit_tls = implicit_tls
        self._settings = door.settings
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Accepting] = []
        self._opening: dict[asyncio.Task[None], tuple[socket.socket, Shell]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen there. The address it is bound to (port 0: any free one). OSError when it cannot."""
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        self.serve(listener)
        bound = listener.getsockname()
        return bound[0], bound[1]

    def serve(self, listener: socket.socket) -> None:
        """Take clients from a bound socket, which is the door's from now on."""
        listener.listen(BACKLOG)  # again where it listens: the queue is as long as was said last
        listener.setblocking(False)
        proxies, patience_s = self._settings.proxies, self._settings.proxy_s
        self._listeners.append(Accepting(listener, self._admit, door="smtp", proxies=proxies, patience_s=patience_s))
        if self._sweeper is None:
            self._sweep()

    async def close(self, drain_s: float) -> None:
        """Take nobody in any more, tell idle clients, let messages that are coming in finish for drain_s, hang up."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        self._door.draining = True
        for connection in list(self._door.connections):
            connection.drain()
        if self._door.connections:
            try:
                await asyncio.wait_for(self._door.empty.wait(), drain_s)
            except TimeoutError:
                log.info("smtp.drain_timed_out", connections=len(self._door.connections))
        await self._hang_up()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _hang_up(self) -> None:
        connections = list(self._door.connections)
        tasks = [connection.task for connection in connections if connection.task] + list(self._opening)
        for connection in connections:
            connection.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            connection.forget()  # the loop does not report the loss of a connection in mid-handshake

    def _admit(self, client: socket.socket, host: str) -> None:
        address = address_group(host)
        if not self._door.counts.admit(address):
            self._door.on_error("too_many_connections")
            self._turn_away(client, host, say.TOO_MANY_CONNECTIONS)
            return
        if not self._implicit_tls and _talks_early(client):
            self._door.counts.release(address)
            self._turn_away(client, host, say.EARLY_TALKER)
            return
        connection = self._connection(host, address)
        task = self._loop.create_task(self._open(client, connection, address))
        self._opening[task] = (client, connection)
        task.add_done_callback(self._opened)

    def _turn_away(self, client: socket.socket, host: str, reply: Reply) -> None:
        detail = {"status": reply.code, "refusals": 1, "transcript": []}
        words = f"{reply.code} {reply.enhanced} {reply.text}"
        self._door.note_refusal(Entry(self._door.name, host, "connect", words, detail))
        with client:
            if self._implicit_tls:
                return  # a reply in clear means nothing to a client that speaks TLS
            try:
                with contextlib.suppress(BlockingIOError):
                    client.recv(DISCARDED_BYTES)  # closing with unread input would reset, and the reply be lost
                client.send(reply.to_bytes())
            except OSError as error:
                log.debug("smtp.reply_lost", error=str(error))

    async def _open(self, client: socket.socket, connection: Shell, address: str) -> None:
        """From a socket to a connection; with implicit TLS the handshake lies between."""
        secure = self._implicit_tls
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                client,
                ssl=self._door.tls() if self._door.tls and secure else None,
                ssl_handshake_timeout=self._settings.handshake_s if secure else None,
                ssl_shutdown_timeout=self._settings.linger_s if secure else None,
            )
        except (OSError, ValueError) as error:  # ssl.SSLError and the time-out are among them
            if isinstance(error, ConnectionResetError):
                # Who connects and hangs up without a word looks whether the port is open: health checks do it all day.
                log.info("smtp.handshake_failed", peer=address, error=type(error).__name__)
            else:
                connection.handshake_failed(error)
            client.close()
            connection.forget()

    def _opened(self, task: asyncio.Task[None]) -> None:
        client, connection = self._opening.pop(task)
        if task.cancelled():
            client.close()
            connection.forget()

    def _sweep(self) -> None:
        """Look at all clocks. One timer for all: a clock costs a connection nothing while it is in time."""
        now = self._loop.time()
        for connection in list(self._door.connections):
            connection.check_clocks(now)
        settings = self._settings
        shortest_s = min(settings.idle_s, settings.command_s, settings.data_stall_s, settings.linger_s)
        self._sweeper = self._loop.call_later(min(LONGEST_SWEEP_S, shortest_s / 4), self._sweep)


def _talks_early(client: socket.socket) -> bool:
    """Whether something was said before our greeting, in SMTP: a bot, or somebody else's bytes in front.

    HTTP and TLS also speak first; the session has better answers for those.
    """
    try:
        first = client.recv(PEEKED_BYTES, socket.MSG_PEEK)
    except OSError:
        return False
    return bool(first) and not speaks_other_protocol(first)
