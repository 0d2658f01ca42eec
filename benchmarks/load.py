"""The load, in a process of its own: HTTP or SMTP, many mails over kept connections, or one mail at a time.

Reads one JSON job on stdin, writes one JSON result on stdout. Both servers get the same SMTP client, which sends MAIL,
RCPT and DATA in one packet (RFC 2920; both offer it). Every reply is checked; a wrong one ends the run.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any, cast

import mails
import msgspec
import uvloop

IDLE_PAUSE_S = 0.02
LIMIT_S = 120.0


_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")
_ENVELOPE = b"MAIL FROM:<bounces@" + mails.SENDER_DOMAIN.encode() + b">\r\nRCPT TO:<%b>\r\nDATA\r\n"
_ID = re.compile(rb'"id":"(msg_[0-9a-z]{26})"')


class Job(msgspec.Struct, frozen=True):
    """kind: http, smtp.  ports: the connections are spread over them.  first, count: the mails' numbers.  secret: our
    API key; None for Postfix, which trusts loopback.  sink_port: 0, or where this process shall be the sink itself and
    send one mail at a time.  domains: of the recipients, in turn, all names of one length.  once: each mail has an
    idempotency key of its own."""

    kind: str
    ports: tuple[int, ...]
    first: int
    count: int
    connections: int
    secret: str | None = None
    sink_port: int = 0
    domains: tuple[str, ...] = mails.DOMAINS
    once: bool = False


class Result(msgspec.Struct, frozen=True):
    """began, ended: time.perf_counter, one clock for all processes of the machine.  accept_ms: each mail's wait for
    its acceptance, sorted.  sink_ms: each mail's time until the sink had it whole, sorted.  cpu_s: what this process
    worked in between."""

    began: float
    ended: float
    accept_ms: list[float]
    sink_ms: list[float]
    cpu_s: float = 0.0


class Work:
    """What all connections share. unattended: a connection goes on with the next mail by itself."""

    def __init__(self, job: Job, *, unattended: bool) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waits: list[float] = []
        self.ids: set[bytes] = set()
        self.unattended = unattended
        self.domains = job.domains
        self._next = job.first
        self._end = job.first + job.count
        self._left = job.count

    def take(self) -> int | None:
        """The next mail's number; None when all are under way."""
        if self._next >= self._end:
            return None
        self._next += 1
        return self._next - 1

    def finish(self, wait_s: float) -> None:
        """One more was accepted."""
        self.waits.append(wait_s)
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def fail(self, why: str) -> None:
        """Something was not as it must be."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


class Client(asyncio.Protocol):
    """A connection that sends mail after mail while there is work."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_at = 0.0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Before the end it is a fault."""
        self.work.fail(f"the server closed the connection: {error}")
        if not self.ready.done():
            self.ready.set_exception(ConnectionResetError("closed before it was ready"))

    def send_next(self) -> None:
        """Send a mail if there is one left."""
        raise NotImplementedError

    def accepted(self) -> None:
        """The mail that was sent last is the server's now."""
        self.work.finish(perf_counter() - self.sent_at)
        if self.work.unattended:
            self.send_next()


_ONCE = b"Idempotency-Key: order-%06d\r\n"


def http_requests(secret: str, domains: tuple[str, ...]) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """POST /emails for each variant of a mail, cut where another header, recipient and number belong."""
    requests = []
    for variant in range(mails.VARIANTS):
        before, between, after = mails.api_template(variant)
        size = len(before + between + after) + len(mails.recipient(0, domains)) + 6
        head = (
            f"POST /emails HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {secret}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n"
        )
        requests.append((head.encode(), b"\r\n" + before, between, after))
    return requests


class HttpClient(Client):
    """POST /emails on a kept connection."""

    def __init__(self, work: Work, requests: list[tuple[bytes, bytes, bytes, bytes]], *, once: bool) -> None:
        super().__init__(work)
        self._requests = requests
        self._once = once

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready at once."""
        super().connection_made(transport)
        self.ready.set_result(None)

    def send_next(self) -> None:
        """One request."""
        n = self.work.take()
        if n is None:
            return
        head, before, between, after = self._requests[n % mails.VARIANTS]
        recipient = mails.recipient(n, self.work.domains).encode()
        self.sent_at = perf_counter()
        once = _ONCE % n if self._once else b""
        self.transport.write(b"".join((head, once, before, recipient, between, b"%06d" % n, after)))

    def data_received(self, data: bytes) -> None:
        """200 with an id that was not given before, or the run is void."""
        self.buffer = data = self.buffer + data if self.buffer else data
        head = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
        if length is None or len(data) < head + 4 + int(length[1]):
            return
        self.buffer = b""
        found = _ID.search(data, head)
        if not data.startswith(b"HTTP/1.1 200 ") or found is None or found[1] in self.work.ids:
            self.work.fail(f"not a fresh mail's id: {data!r}")
            return
        self.work.ids.add(found[1])
        self.accepted()


class SmtpClient(Client):
    """A session that is kept: MAIL, RCPT, DATA in one packet, then the message, then the next."""

    def __init__(self, work: Work, raws: list[tuple[bytes, bytes]], secret: str | None, *, once: bool) -> None:
        super().__init__(work)
        self._raws = raws
        self._secret = secret
        self._once = once
        self._n = 0
        self._expect([b"220"], self._greet)

    def send_next(self) -> None:
        """One envelope; the message follows once it is asked for."""
        n = self.work.take()
        if n is None:
            return
        self._n = n
        self.sent_at = perf_counter()
        self._expect([b"250", b"250", b"354"], self._send_message)
        self.transport.write(_ENVELOPE % mails.recipient(n, self.work.domains).encode())

    def data_received(self, data: bytes) -> None:
        """Replies, each as expected, or the run is void."""
        lines = (self.buffer + data).split(b"\r\n")
        self.buffer = lines.pop()
        for line in lines:
            if line[3:4] == b"-":
                continue
            if not self._expected or line[:3] != self._expected.pop(0):
                self.work.fail(f"unexpected reply: {line!r}")
                return
        if not self._expected:
            self._then()

    def _expect(self, codes: list[bytes], then: Callable[[], None]) -> None:
        self._expected = codes
        self._then = then

    def _greet(self) -> None:
        self._expect([b"250"], self._ready if self._secret is None else self._log_in)
        self.transport.write(b"EHLO load.test\r\n")

    def _log_in(self) -> None:
        self._expect([b"235"], self._ready)
        self.transport.write(
            b"AUTH PLAIN " + base64.b64encode(b"\0sendkit\0" + (self._secret or "").encode()) + b"\r\n"
        )

    def _ready(self) -> None:
        self.ready.set_result(None)

    def _send_message(self) -> None:
        self._expect([b"250"], self.accepted)
        before, after = self._raws[self._n % mails.VARIANTS]
        once = _ONCE % self._n if self._once else b""
        self.transport.write(b"".join((once, before, b"%06d" % self._n, after, b".\r\n")))


class Sink(asyncio.Protocol):
    """Says yes to everything and tells when a message's dot has come; for one mail at a time."""

    def __init__(self, arrived: Callable[[float], None]) -> None:
        self._arrived = arrived
        self._buffer = b""
        self._in_message = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(b"220 sink.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """A reply for each command and for each message."""
        now = perf_counter()
        self._buffer += data
        replies = []
        while True:
            end = self._buffer.find(b"\r\n.\r\n" if self._in_message else b"\r\n")
            if end < 0:
                break
            if self._in_message:
                self._in_message = False
                self._buffer = self._buffer[end + 5 :]
                self._arrived(now)
                replies.append(b"250 2.0.0 Ok\r\n")
                continue
            verb, self._buffer = self._buffer[:4].upper(), self._buffer[end + 2 :]
            self._in_message = verb == b"DATA"
            replies.append(_SINK_REPLIES.get(verb, b"250 2.0.0 Ok\r\n"))
        self._transport.write(b"".join(replies))


_SINK_REPLIES = {
    b"EHLO": b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250 8BITMIME\r\n",
    b"DATA": b"354 go ahead\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}


async def connected(job: Job, work: Work) -> list[Client]:
    """All connections, greeted and logged in."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    requests = http_requests(job.secret or "", job.domains)
    raws = [mails.raw_template(variant) for variant in range(mails.VARIANTS)]
    for number in range(job.connections):
        client: Client
        if job.kind == "http":
            client = HttpClient(work, requests, once=job.once)
        else:
            client = SmtpClient(work, raws, job.secret, once=job.once)
        port = job.ports[number % len(job.ports)]
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]  # a default binds it now
        await client.ready
        clients.append(client)
    return clients


async def many(job: Job) -> Result:
    """All mails as fast as they are taken."""
    work = Work(job, unattended=True)
    clients = await connected(job, work)
    began, worked = perf_counter(), process_time()
    for client in clients:
        client.send_next()
    await asyncio.wait_for(work.done, LIMIT_S)
    ended, worked = perf_counter(), process_time() - worked
    return Result(began, ended, sorted(wait * 1000 for wait in work.waits), [], worked)


async def one_by_one(job: Job) -> Result:
    """Each mail is sent when the one before has arrived, and after a pause."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[float] = loop.create_future()
    server = await loop.create_server(
        lambda: Sink(lambda at: None if arrived.done() else arrived.set_result(at)), "127.0.0.1", job.sink_port
    )
    accept_ms, sink_ms = [], []
    # One connection for all, so that what is measured is a mail, not a handshake.
    work = Work(job, unattended=False)
    (client,) = await connected(msgspec.structs.replace(job, connections=1), work)
    began = perf_counter()
    for n in range(job.count):
        arrived = loop.create_future()
        client.send_next()
        sink_ms.append((await asyncio.wait_for(arrived, 30) - client.sent_at) * 1000)
        while len(work.waits) <= n:
            await asyncio.sleep(0)
        accept_ms.append(work.waits[n] * 1000)
        await asyncio.sleep(IDLE_PAUSE_S)
    server.close()
    return Result(began, perf_counter(), sorted(accept_ms), sorted(sink_ms))


async def main() -> None:
    """One job."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    result: Any = await (one_by_one(job) if job.sink_port else many(job))
    print(json.dumps(msgspec.to_builtins(result)))


if __name__ == "__main__":
    uvloop.run(main())
