"""Listeners of the HTTP door: uvicorn's protocol on our own sockets, with the limits and wording that it leaves open.

uvicorn parses and writes HTTP; what is added here: a deadline for the request's head, a limit on its size, JSON where
uvicorn would answer in plain text, offers of another protocol passed over, and one drain for all listeners.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from asyncio import TimerHandle
from email.utils import formatdate
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from sendkit_server.api.http import Response, refusal_response
from sendkit_server.events.refusals import Entry, Note
from sendkit_server.model.refusal import ENDED_MEANWHILE, Refusal
from sendkit_server.net.accepting import Accepting
from sendkit_server.net.proxied import NO_PROXIES, Proxies

HEAD_DEADLINE_S = 30.0
KEEP_ALIVE_S = 75
MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 200
BACKLOG = 2048
TLS_HANDSHAKE_S = 30.0
# Closing with bytes unread makes the kernel send a reset, which can overtake the answer: for so long they are read away.
LINGER_S = 2.0

NOT_HTTP = Refusal("validation_error", "This is not a valid HTTP/1.1 request.", 400)
HEAD_TOO_LARGE = Refusal("validation_error", "The request's headers are too large.", 431)
HEAD_TOO_SLOW = Refusal("validation_error", "The request's headers came too slowly.", 408)

UPGRADE_OPTIONS = frozenset({b"upgrade", b"http2-settings"})


class Protocol(HttpToolsProtocol):
    """One connection. What is wrong before a request is whole is answered here; everything else by the application."""

    doc_url = ""
    note_refusal: Note
    proxies: Proxies = NO_PROXIES
    host: str | None = None  # whom the connection comes for; None: whoever is at its other end
    _head_timer: TimerHandle | None = None  # until the head is whole; after a refusal, until the end
    _head_bytes = 0
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if self.host is not None:
            self.client = (self.host, 0)
        self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._head_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(NOT_HTTP)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Goes on as if `Upgrade: h2c` had not been said, as RFC 9110 7.8 allows; Java's client offers it on every request.

        The parser takes what follows such a head for the other protocol, the body too: a new one reads the head again
        without the offer. rest: what came behind the head.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(NOT_HTTP)
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = (option.strip() for option in value.split(b","))
                value = b", ".join(option for option in options if option.lower() not in UPGRADE_OPTIONS)
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._head_too_slow)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._stop_timer()
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            if self.proxies and self.client is not None:
                forwarded = [value for name, value in self.headers if name == b"x-forwarded-for"]
                self.scope["client"] = (self.proxies.client_of(self.client[0], forwarded), 0)
            # The short ways of api/http.py: a body that came with its head need not be asked for, and an answer that
            # is whole leaves in one write.
            self.scope["sendkit.cycle"] = self.cycle  # type: ignore[typeddict-unknown-key]  # our own
            self.scope["sendkit.reply"] = self.reply  # type: ignore[typeddict-unknown-key]  # our own

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused and not self.parser.should_upgrade():
            super().on_message_complete()

    def reply(self, cycle: RequestResponseCycle, response: Response) -> None:
        """Answers a request in one write. ASGI's two events and uvicorn's checks of each would take 30 µs more.

        Header values come from this program alone; none holds a line break (api/http.py makes them).
        """
        if cycle.disconnected:
            return
        cycle.response_started = True
        chunks = [STATUS_LINE[response.status]]
        for name, value in (*cycle.default_headers, (b"content-type", response.content_type), *response.headers):
            chunks += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            chunks.append(b"connection: close\r\n")
        chunks.append(b"content-length: %d\r\n\r\n%b" % (len(response.body), response.body))
        self.transport.write(b"".join(chunks))
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def give_up(self) -> None:
        """Answers what is not answered yet, at the program's end: uvicorn would call what is cancelled then a fault of ours."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_started and not cycle.disconnected:
            cycle.keep_alive = False
            self.reply(cycle, refusal_response(ENDED_MEANWHILE, self.doc_url))

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse(HEAD_TOO_LARGE)

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(HEAD_TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, refusal: Refusal) -> None:
        if self._refused or self.transport is None or self.transport.is_closing():
            return
        self._refused = True
        self._stop_timer()
        response = refusal_response(refusal, self.doc_url)
        self._note(refusal)
        head = (
            f"HTTP/1.1 {response.status} {refusal.name}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(response.body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + response.body)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._head_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _note(self, refusal: Refusal) -> None:
        self.note_refusal(
            Entry(
                door="http",
                address=self.client[0] if self.client else "",
                step="request head",
                reply=f"{refusal.http_status} {refusal.name}: {refusal.message}",
                detail={"status": refusal.http_status, "name": refusal.name, "message": refusal.message},
            )
        )


class HttpServer:
    """All listeners of one application, plain and TLS. proxies: whose word is taken for whom a request comes from."""

    def __init__(
        self,
        application: Any,
        doc_url: str,
        note_refusal: Note = lambda entry: None,
        proxies: Proxies = NO_PROXIES,
    ) -> None:
        self._config = Config(
            application,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        # Whatever uvicorn would log about a client's bad bytes is the client's affair.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._state = ServerState()
        self._servers: list[asyncio.Server | Accepting] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._proxies = proxies
        self._ticking: asyncio.Task[None] | None = None
        self._protocol = type(
            "ServingProtocol",
            (Protocol,),
            {"doc_url": doc_url, "note_refusal": staticmethod(note_refusal), "proxies": proxies},
        )

    async def listen(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serves a bound socket."""
        loop = asyncio.get_running_loop()
        if self._proxies:
            self._servers.append(self._behind_proxies(listener, tls))
        else:
            server = await loop.create_server(
                self._connected,
                sock=listener,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=TLS_HANDSHAKE_S if tls is not None else None,
            )
            self._servers.append(server)
        if self._ticking is None:
            self._ticking = loop.create_task(self._tick())

    def _connected(self, host: str | None = None) -> Protocol:
        made: Protocol = self._protocol(self._config, self._state, {}, asyncio.get_running_loop())
        made.host = host
        return made

    def _behind_proxies(self, listener: socket.socket, tls: ssl.SSLContext | None) -> Accepting:
        def admit(client: socket.socket, host: str) -> None:
            task = asyncio.get_running_loop().create_task(self._open(client, host, tls))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

        listener.listen(BACKLOG)
        return Accepting(listener, admit, door="http", proxies=self._proxies, patience_s=HEAD_DEADLINE_S)

    async def _open(self, client: socket.socket, host: str, tls: ssl.SSLContext | None) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connected(host),
                client,
                ssl=tls,
                ssl_handshake_timeout=TLS_HANDSHAKE_S if tls is not None else None,
            )
        except OSError:  # the client has gone, or its handshake failed
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise

    async def close(self, drain_s: float) -> None:
        """Takes no more connections, lets running requests finish for a while, then ends what is left."""
        for server in self._servers:
            server.close()
        for opening in self._opening:
            opening.cancel()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=drain_s)
        for connection in list(self._state.connections):
            if isinstance(connection, Protocol):
                connection.give_up()
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            if isinstance(connection, Protocol) and connection.transport is not None:
                connection.transport.abort()
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick(self) -> None:
        """Keeps the Date header (RFC 9110 6.6.1) true to the second, formatted once for all responses."""
        while True:
            self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            await asyncio.sleep(1.0)
