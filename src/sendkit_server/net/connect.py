"""TCP connections to checked addresses: the next address is tried beside a slow one, never 30 seconds after it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from sendkit_server.net.guard import Guard
from sendkit_server.net.resolver import MAX_ADDRESSES

ADDRESSES_A_HOST = 2
STAGGER_S = 2.0  # how long an address may be silent before the next one is tried beside it (RFC 8305 5, but patient)

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Target(msgspec.Struct, frozen=True):
    """One place to connect to: the host's name, a numeric address of it, and the port."""

    host: str
    address: str
    port: int


class Failure(msgspec.Struct, frozen=True):
    """Why one target was not connected to. refused_by_us: no packet left, the guard forbids it."""

    target: Target
    text: str
    refused_by_us: bool = False


async def connect(
    factory: Callable[[], P],
    targets: Sequence[Target],
    guard: Guard,
    *,
    sources: Sequence[str] = (),
    deadline_s: float,
    stagger_s: float = STAGGER_S,
    on_failure: Callable[[Failure], None],
) -> tuple[P, Target] | None:
    """The first connection that any target grants within the deadline, earlier targets preferred; None when none does.

    sources: our own addresses to connect from, one a family; a family without one is left to the system. Failures are told one
    by one as they come. Cancelling closes whatever was under way.
    """
    waiting = list(targets)
    attempts: dict[asyncio.Task[P], Target] = {}
    loop = asyncio.get_running_loop()
    ends = loop.time() + deadline_s
    try:
        while waiting or attempts:
            if waiting:
                target = waiting.pop(0)
                if refusal := guard.refusal(target.address, target.port):
                    on_failure(Failure(target, refusal, refused_by_us=True))
                    continue
                attempts[asyncio.create_task(_connect_one(factory, target, _source_for(target, sources)))] = target
            left_s = ends - loop.time()
            patience_s = min(stagger_s, left_s) if waiting else left_s
            done, _ = await asyncio.wait(attempts, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: targets.index(attempts[task])):
                target = attempts[task]
                error = task.exception()
                if error is None:
                    del attempts[task]
                    return task.result(), target
                del attempts[task]
                on_failure(Failure(target, _wording(error)))
            if loop.time() >= ends:
                break
        for target in [*attempts.values(), *waiting]:
            on_failure(Failure(target, f"no connection within {deadline_s:g} s"))
        return None
    finally:
        await _abandon(list(attempts))


def choose_targets(hosts: Sequence[str], addresses: Sequence[Sequence[str]], port: int) -> list[Target]:
    """At most MAX_ADDRESSES targets in the hosts' order, not all of them one host's when there are others."""
    several = sum(1 for each in addresses if each) > 1
    each_host = ADDRESSES_A_HOST if several else MAX_ADDRESSES
    targets = [
        Target(host, address, port)
        for host, found in zip(hosts, addresses, strict=False)
        for address in found[:each_host]
    ]
    return targets[:MAX_ADDRESSES]


def _source_for(target: Target, sources: Sequence[str]) -> str | None:
    return next((source for source in sources if (":" in source) == (":" in target.address)), None)


async def _connect_one(factory: Callable[[], P], target: Target, source: str | None) -> P:
    loop = asyncio.get_running_loop()
    # The address is numeric: nothing is looked up again between the guard's word and the connection.
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    local = None if source is None else (source, 0)
    try:
        transport, protocol = await loop.create_connection(
            factory, target.address, target.port, flags=numeric, local_addr=local
        )
    except OSError as error:
        if source is not None and error.errno == errno.EADDRNOTAVAIL:
            raise ConnectionError(f"this machine has no address {source} to connect from") from None
        raise
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        # Requests are written whole: waiting for more to send (Nagle) would only delay them.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return protocol


async def _abandon(tasks: list[asyncio.Task[P]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, OSError):
            protocol = await task
            close = getattr(protocol, "abort", None)
            if close is not None:
                close()


def _wording(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
