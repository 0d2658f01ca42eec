"""Connections to checked addresses, in order, beside each other when one is slow."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network

import pytest
from sinks import own_addresses

from sendkit_server.net.connect import Failure, Target, connect
from sendkit_server.net.guard import Guard

LOOPBACK = Guard((ip_network("127.0.0.0/8"),))


class Quiet(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def abort(self) -> None:
        assert self.transport is not None
        self.transport.abort()


@pytest.fixture
async def listener():
    accepted: list[asyncio.StreamWriter] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)

    address = next(own_addresses())
    server = await asyncio.start_server(take, address, 0)
    yield Target("alive", address, server.sockets[0].getsockname()[1]), accepted
    for writer in accepted:
        writer.transport.abort()
    server.close()
    await server.wait_closed()


def full_listener() -> tuple[socket.socket, Target, list[socket.socket]]:
    """A port whose queue is full: connecting to it neither succeeds nor fails."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    port = listening.getsockname()[1]
    fill = []
    for _ in range(4):
        each = socket.socket()
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", port))
        fill.append(each)
    return listening, Target("full", "127.0.0.1", port), fill


async def test_the_first_that_answers_wins_and_nagle_is_off(listener):
    target, _ = listener
    failures: list[Failure] = []
    refused = Target("refused", target.address, 1)
    found = await connect(Quiet, [refused, target], LOOPBACK, deadline_s=5, on_failure=failures.append)
    assert found is not None and found[1] == target
    assert [(each.target, each.text) for each in failures] == [(refused, "connection refused")]
    assert found[0].transport is not None
    raw = found[0].transport.get_extra_info("socket")
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    found[0].abort()


async def test_a_silent_address_does_not_hold_up_the_next(listener):
    target, _ = listener
    listening, full, fill = full_listener()
    try:
        failures: list[Failure] = []
        found = await connect(
            Quiet, [full, target], LOOPBACK, deadline_s=20, stagger_s=0.05, on_failure=failures.append
        )
        assert found is not None and found[1] == target
        found[0].abort()
        found = await connect(Quiet, [full], LOOPBACK, deadline_s=0.1, on_failure=failures.append)
        assert found is None
        assert "within 0.1 s" in failures[-1].text
    finally:
        for each in (listening, *fill):
            each.close()


async def test_a_forbidden_address_is_never_connected_to(listener):
    target, accepted = listener
    failures: list[Failure] = []
    assert await connect(Quiet, [target], Guard(), deadline_s=1, on_failure=failures.append) is None
    assert failures[0].refused_by_us
    assert not accepted


async def test_cancelling_leaves_no_connection_behind(listener):
    listening, full, fill = full_listener()
    try:
        under_way = asyncio.create_task(connect(Quiet, [full], LOOPBACK, deadline_s=20, on_failure=lambda _: None))
        await asyncio.sleep(0)
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        assert len(asyncio.all_tasks()) == 1
    finally:
        for each in (listening, *fill):
            each.close()
