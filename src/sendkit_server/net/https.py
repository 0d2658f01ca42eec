"""A small HTTPS client (RFC 9112 by h11): policies of recipients' domains, providers' APIs. One request at a time.

Made for strangers' servers: the address is judged right before the connection (`net.guard`), the certificate must prove
the host's name, redirects are answers like any other, a body has a bound, and each request a deadline as a whole.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import cast

import h11
import msgspec

from sendkit_server.net.connect import Failure, Target, connect
from sendkit_server.net.guard import Guard
from sendkit_server.net.resolver import MAX_ADDRESSES, DnsProblem, Resolver
from sendkit_server.net.tls_client import TlsClient, described, handshake_problem

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024
BUFFERED_BYTES = 256 * 1024  # beyond it nothing more is read from the socket until somebody wants it
USER_AGENT = "Sendkit"


class HttpsTrouble(Exception):
    """There is no answer; the text says why, in words for people.

    sent: the request was written, so it may have been obeyed.  unproved: the server did not prove its name.
    """

    def __init__(self, text: str, *, sent: bool = False, unproved: bool = False) -> None:
        super().__init__(text)
        self.sent = sent
        self.unproved = unproved


class HttpsReply(msgspec.Struct, frozen=True):
    """An answer. headers: names in lower case, as they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name (in lower case)."""
        return next((value for key, value in self.headers if key == name), None)


class HttpsConnection:
    """A connection that is kept: open_https() makes it."""

    def __init__(self, host: str, port: int, target: Target, wire: _Wire, tls: str) -> None:
        self.target = target
        self.tls = tls  # as `tls_client.described` words it
        name = f"[{host}]" if ":" in host else host
        self._authority = name if port == 443 else f"{name}:{port}"
        self._wire = wire
        self._talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.usable = True

    @property
    def is_open(self) -> bool:
        """Whether another request may go over it: the server has not closed it, as far as can be known."""
        return self.usable and not self._wire.ended

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        deadline_s: float = 60.0,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> HttpsReply:
        """One request and its whole answer. HttpsTrouble when there is none; the connection is of no more use then.

        path: with the query, as it goes on the wire.  A body is given its Content-Length; its type is the caller's to name.
        """
        sent = False
        try:
            async with asyncio.timeout(deadline_s):
                await self._send(method, path, headers, body)
                sent = True
                return await self._receive(max_body_bytes)
        except TimeoutError:
            raise HttpsTrouble(f"no whole answer within {deadline_s:g} s", sent=sent) from None
        except (h11.RemoteProtocolError, OSError) as error:
            raise HttpsTrouble(f"no valid answer: {error}", sent=sent) from None
        finally:
            if self._talk.our_state is h11.DONE and self._talk.their_state is h11.DONE:
                self._talk.start_next_cycle()
            else:
                self.close()

    def close(self) -> None:
        """Close it now."""
        self.usable = False
        self._wire.transport.abort()

    async def _send(self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        head = [("Host", self._authority), ("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"), *headers]
        if body or method not in ("GET", "HEAD", "DELETE"):
            head.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=path, headers=head)
        data = (self._talk.send(request) or b"") + (self._talk.send(h11.Data(data=body)) or b"" if body else b"")
        await self._wire.write(data + (self._talk.send(h11.EndOfMessage()) or b""))

    async def _receive(self, max_body_bytes: int) -> HttpsReply:
        response: h11.Response | None = None
        pieces: list[bytes] = []
        size = 0
        while True:
            event = self._talk.next_event()
            if event is h11.NEED_DATA:
                self._talk.receive_data(await self._wire.read())
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
                size += len(event.data)
                if size > max_body_bytes:
                    raise HttpsTrouble(f"the answer is longer than {max_body_bytes} bytes", sent=True)
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                found = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers)
                return HttpsReply(response.status_code, found, b"".join(pieces))
            elif isinstance(event, h11.ConnectionClosed):
                raise HttpsTrouble("the server closed the connection without an answer", sent=True)


class _Wire(asyncio.Protocol):
    """Bytes in and out; TLS is put beneath it once the TCP connection stands."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.ended = False
        self._error: Exception | None = None
        self._received = bytearray()
        self._paused = False
        self._can_read = asyncio.Event()
        self._can_write = asyncio.Event()
        self._can_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > BUFFERED_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._can_read.set()

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error)

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def abort(self) -> None:
        self.transport.abort()

    async def write(self, data: bytes) -> None:
        if self.ended:
            raise ConnectionResetError("the server closed the connection")
        self.transport.write(data)
        await self._can_write.wait()

    async def read(self) -> bytes:
        """What has come; b"" once the server has closed. OSError when the connection broke."""
        await self._can_read.wait()
        data = bytes(self._received)
        self._received.clear()
        if not data and self._error is not None:
            raise self._error
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if not self.ended:
            self._can_read.clear()
        return data

    def _end(self, error: Exception | None) -> None:
        self.ended = True
        self._error = self._error or error
        self._can_read.set()
        self._can_write.set()


async def open_https(
    host: str, port: int, *, resolver: Resolver, tls: TlsClient, guard: Guard, deadline_s: float = 30.0
) -> HttpsConnection:
    """A connection to a host (name or literal) that has proved its name. HttpsTrouble says why there is none."""
    failures: list[Failure] = []
    try:
        async with asyncio.timeout(deadline_s):
            targets = [Target(host, address, port) for address in await _addresses(host, resolver)]
            found = await connect(_Wire, targets, guard, deadline_s=deadline_s, on_failure=failures.append)
            if found is None:
                words = "; ".join(f"[{one.target.address}]:{one.target.port}: {one.text}" for one in failures)
                raise HttpsTrouble(f"no connection to {host}: {words}")
            wire, target = found
            return await _secured(wire, target, tls)
    except TimeoutError:
        raise HttpsTrouble(f"no connection to {host} within {deadline_s:g} s") from None


async def _secured(wire: _Wire, target: Target, tls: TlsClient) -> HttpsConnection:
    loop = asyncio.get_running_loop()
    try:
        transport = await loop.start_tls(wire.transport, wire, tls.verified, server_hostname=target.host)
        if transport is None:
            raise ConnectionResetError("the server closed the connection")
        wire.transport = transport
        cipher = described(transport.get_extra_info("ssl_object"), None)
    except (ssl.SSLError, OSError) as error:
        wire.abort()
        unproved = isinstance(error, ssl.SSLCertVerificationError)
        raise HttpsTrouble(f"no TLS with {target.host}: {handshake_problem(error).text}", unproved=unproved) from None
    except BaseException:
        wire.abort()
        raise
    return HttpsConnection(target.host, target.port, target, wire, cipher)


async def _addresses(host: str, resolver: Resolver) -> tuple[str, ...]:
    found = await resolver.host_addresses(host)
    if isinstance(found, DnsProblem):
        raise HttpsTrouble(found.text)
    return found[:MAX_ADDRESSES]
