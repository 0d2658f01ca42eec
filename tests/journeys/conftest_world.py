"""A world for each test: a DNS server, a recipient's server at an address of its own, and the program between them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from server import Server
from sinks import DnsServer, SmtpSink, own_addresses

SECRET_KEY = "of every node that shares the database, 48 bytes"


@pytest.fixture
async def sink() -> AsyncIterator[SmtpSink]:
    """A recipient's server."""
    async with SmtpSink(next(own_addresses())) as running:
        yield running


@pytest.fixture
async def dns(sink: SmtpSink) -> AsyncIterator[DnsServer]:
    """DNS: there.test and elsewhere.test have the sink as their MX."""
    zone = {
        "there.test": {"MX": ["10 mx.there.test."]},
        "elsewhere.test": {"MX": ["10 mx.there.test."]},
        "xn--bcher-kva.test": {"MX": ["10 mx.there.test."]},
        "mx.there.test": {"A": [sink.host]},
    }
    async with DnsServer(zone) as running:
        yield running


@pytest.fixture
async def make_server(
    tmp_path: Path, sink: SmtpSink, dns: DnsServer, database_url: str | None, migrated_file: Path
) -> AsyncIterator[Callable[..., Server]]:
    """Makes servers (not started) that deliver to the sink; whatever still runs at the end is killed.

    Each has a data directory of its own. On PostgreSQL they share the test's database, unless they are given another
    one, and one secret key. empty: on SQLite, that it has no database yet.
    """
    made: list[Server] = []

    def make(database: str | None = database_url, *, empty: bool = False, **settings: str) -> Server:
        data_dir = tmp_path / f"data{len(made)}"
        data_dir.mkdir()
        if database is None:
            if not empty:
                shutil.copyfile(migrated_file, data_dir / "sendkit.db")
        else:
            settings = {"SENDKIT_DATABASE_URL": database, "SENDKIT_SECRET_KEY": SECRET_KEY, **settings}
        server = Server(
            data_dir,
            {
                "SENDKIT_DNS_SERVERS": dns.address,
                "SENDKIT_MX_PORT": str(sink.port),
                "SENDKIT_ALLOW_PRIVATE_NETWORKS": "127.0.0.0/8",
                "SENDKIT_MIN_FREE_DISK": "1MB",
                **settings,
            },
        )
        made.append(server)
        return server

    yield make
    for server in made:
        if server.process is not None:
            await server.kill()


@pytest.fixture
async def server(make_server: Callable[..., Server]) -> Server:
    """A running server that delivers to the sink."""
    return await make_server().start()


@pytest.fixture
async def key(server: Server) -> str:
    """A live key of the running server; sender.test is trusted."""
    return await server.live_key()
