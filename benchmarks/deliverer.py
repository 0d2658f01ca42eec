"""Mails a second through the Deliverer: a store that forgets, a sink in another process, loopback.

`python benchmarks/deliverer.py [mails] [--sign] [--profile]`; --sign: RSA-2048 DKIM by the compose room.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import pstats
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from multiprocessing.connection import Connection
from typing import cast

import structlog
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sendkit_server.deliver import Deliverer, DeliverySettings, Routing, Smarthost, chain_of
from sendkit_server.deliver.room import Bounds
from sendkit_server.deliver.warm_up import Sent
from sendkit_server.model.address import parse_address
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Content, Door, Message, PartsContent, Recipient, Role
from sendkit_server.net.resolver import Resolver
from sendkit_server.store.values import Completion, Job
from sendkit_server.wire.dkim import DkimKey


class Sink(asyncio.Protocol):
    """Says yes to everything; the cheapest server that can be talked to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = b""
        self.in_data = False
        self.transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """One reply for each command, one for each message."""
        self.buffer += data
        replies = []
        while True:
            if self.in_data:
                end = self.buffer.find(b"\r\n.\r\n")
                if end < 0:
                    break
                self.buffer = self.buffer[end + 5 :]
                self.in_data = False
                replies.append(b"250 2.0.0 Ok: queued as 12345\r\n")
                continue
            end = self.buffer.find(b"\r\n")
            if end < 0:
                break
            verb, self.buffer = self.buffer[:4], self.buffer[end + 2 :]
            if verb == b"DATA":
                self.in_data = True
                replies.append(b"354 go ahead\r\n")
            elif verb == b"EHLO":
                replies.append(b"250-sink\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250 8BITMIME\r\n")
            else:
                replies.append(b"250 2.0.0 Ok\r\n")
        if replies:
            self.transport.write(b"".join(replies))


def serve(pipe: Connection) -> None:
    """The sink's process; tells its port."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=512)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


class Forgetful:
    """A store that owns no disk. done: set when all is complete."""

    def __init__(self, keys: tuple[DkimKey, ...], expected: int) -> None:
        self.keys = keys
        self.left = expected
        self.done = asyncio.Event()

    async def claim(self, *, exclude_sites: frozenset[str], urgent_only: frozenset[str], bounds: Bounds) -> list[Job]:
        """Nothing."""
        return []

    async def content(self, team_id: int, content_id: str) -> Content:
        """Never asked for."""
        raise LookupError(content_id)

    async def add_warm_up(self, sent: Mapping[Sent, int], day: Instant) -> dict[Sent, int]:
        """No address is new."""
        return {}

    async def signing_keys(self, team_id: int, domain: str) -> tuple[DkimKey, ...]:
        """The same for all."""
        return self.keys

    async def complete(self, completion: Completion) -> None:
        """Count."""
        self.left -= 1
        if not self.left:
            self.done.set()

    async def next_due(self) -> int | None:
        """Nothing."""
        return None


def job(n: int) -> Job:
    """A mail of usual size to its own recipient."""
    recipient = Recipient(0, parse_address(f"u{n}@there.test"), Role.TO)
    message = Message(
        id=f"msg_{n:026d}",
        team_id=1,
        content_id="c",
        door=Door.HTTP,
        key_id="k",
        from_=parse_address("shop@here.test"),
        to=(recipient.mailbox,),
        cc=(),
        subject="Your order",
        message_id=f"<{n}@here.test>",
        created_at=1_800_000_000_000,
    )
    content = PartsContent("Your order", "<p>Thank you for your order.</p>" * 40, "Thank you for your order.\r\n" * 40)
    return Job(message, (recipient,), "there.test", 2000, 1, content)


async def measure(mails: int, port: int, keys: tuple[DkimKey, ...]) -> float:
    """Seconds for all mails."""
    store = Forgetful(keys, mails)
    settings = DeliverySettings(
        "out.test",
        routing=Routing(chain_of(Smarthost("127.0.0.1", port))),
        allow_private=(ip_network("127.0.0.0/8"),),
        dkim_required=bool(keys),
    )
    with ThreadPoolExecutor(2) as pool:
        deliverer = Deliverer(
            settings,
            store,
            Resolver(["127.0.0.1"]),
            pool,
            return_path=lambda message, n: "b-0123456789abcdefghijklmnop-0-0123456789abcdefghij@out.test",
            clock=lambda: int(time.time() * 1000),
            random=lambda: 0.5,
            log=structlog.wrap_logger(
                structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(30)
            ).bind(),
        )
        running = asyncio.create_task(deliverer.run())
        jobs = [job(n) for n in range(mails)]
        started = time.perf_counter()
        for each in jobs:
            while not deliverer.has_room("there.test", each.size_bytes):
                await asyncio.sleep(0.001)
            deliverer.offer(each)
        await store.done.wait()
        took = time.perf_counter() - started
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if deliverer.delivered != mails:
            raise SystemExit(f"only {deliverer.delivered} of {mails} mails were delivered")
    return took


def rsa_key() -> DkimKey:
    """A fresh key of 2048 bits."""
    private = rsa.generate_private_key(65537, 2048)
    return DkimKey(
        "here.test", "s1", "rsa-sha256", lambda data: private.sign(data, padding.PKCS1v15(), hashes.SHA256())
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mails", type=int, nargs="?", default=10_000)
    parser.add_argument("--sign", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    keys = (rsa_key(),) if arguments.sign else ()
    profile = cProfile.Profile()
    before = time.process_time()
    try:
        port = here.recv()
        if arguments.profile:
            profile.enable()
        took = uvloop.run(measure(arguments.mails, port, keys))
    finally:
        process.terminate()
    used = time.process_time() - before
    if arguments.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    a_mail = 1e6 / arguments.mails
    print(f"{arguments.mails / took:.0f} mails/s; a mail: {took * a_mail:.0f} µs, of CPU {used * a_mail:.0f} µs")


if __name__ == "__main__":
    main()
