"""A database that another program holds: refused or late, never acknowledged without being stored."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from senders import Journal, all_arrived, by_http, by_smtp, tokens
from server import Server
from sinks import SmtpSink

pytestmark = pytest.mark.engine("sqlite")


@contextmanager
def locked(server: Server) -> Iterator[None]:
    """Holds the database's write lock, as a backup script or a curious person does."""
    connection = sqlite3.connect(server.data_dir / "sendkit.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.fixture
async def quiet(make_server: Callable[..., Server]) -> Server:
    """A running server that takes passwords without TLS."""
    return await make_server(SENDKIT_SMTP_PLAIN_AUTH="loopback").start()


async def test_a_locked_database_refuses_for_now_and_recovers(quiet: Server, sink: SmtpSink) -> None:
    key = await quiet.live_key()
    journal = Journal(quiet, key)
    await journal.send("before")
    with locked(quiet):
        ready, health, http, smtp = await asyncio.gather(
            quiet.call("GET", "/ready"),
            quiet.call("GET", "/health"),
            by_http(quiet, key, "refused-http"),
            by_smtp(quiet, key, "refused-smtp"),
        )
        assert (http, smtp) == (503, 451)
        assert (ready.status, health.status) == (503, 200)
        assert ready.json["status"] == "unavailable"
        assert any("locked" in problem for problem in ready.json["problems"]), ready.json
    await journal.send("after")
    assert (await quiet.call("GET", "/ready")).status == 200
    await all_arrived(sink, journal.acknowledged)
    assert Counter(tokens(sink)) == Counter(journal.acknowledged)


async def test_a_database_locked_for_a_moment_only_delays(quiet: Server, sink: SmtpSink) -> None:
    key = await quiet.live_key()
    with locked(quiet):
        sending = asyncio.create_task(quiet.send(key))
        await asyncio.sleep(0.5)
        assert not sending.done()
    await quiet.settled(key, await sending, "delivered")
