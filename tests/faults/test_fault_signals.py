"""SIGTERM and kill -9 at bad moments: under load, and while the server only starts."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest
from load import Load
from raw_talk import connected
from senders import all_arrived, tokens
from server import SENDKIT, Server, until
from sinks import SmtpSink

STOP_S = 10.0


async def test_sigterm_under_load_ends_well_and_loses_nothing(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server(SENDKIT_SMTP_PLAIN_AUTH="loopback", SENDKIT_LOG_LEVEL="warning").start()
    key = await server.live_key()
    load = Load(server, key)
    async with connected(server.port("SMTP, STARTTLS")) as idle:
        await idle.smtp()
        await idle.smtp("EHLO client.test")
        load.start()
        await until(lambda: len(load.acknowledged) > 100)
        started = time.monotonic()
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert (await idle.smtp()).startswith("421 4.3.2")
        assert await server.stop() == 0  # the second SIGTERM, while the first is obeyed
        assert time.monotonic() - started < STOP_S
    await asyncio.to_thread(load.stop)
    assert "Traceback" not in server.log
    await server.start()
    await all_arrived(sink, load.acknowledged)
    assert set(tokens(sink)) <= load.attempted
    assert [token for token, count in Counter(tokens(sink)).items() if count > 1] == []


@pytest.mark.engine("sqlite")
async def test_who_is_told_to_end_again_and_again_ends_in_order(make_server: Callable[..., Server]) -> None:
    server = await make_server().start()
    assert server.process is not None
    async with asyncio.timeout(STOP_S):
        while server.process.returncode is None:
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.02)
    assert await server.stop() == 0 and "server.stopped" in server.log


def has_begun(server: Server) -> bool:
    """Whether the server has made its database, or has come to the one that it was given."""
    url = server.settings.get("SENDKIT_DATABASE_URL")
    if url is None:
        return (server.data_dir / "sendkit.db").exists()
    others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    with psycopg.connect(url) as connection:
        return connection.execute(others).fetchone() is not None


async def interrupted_starts(
    make_server: Callable[..., Server], new_database: Callable[..., str | None], how: signal.Signals, times: int
) -> None:
    """Fresh installations whose first start ends within the first 300 ms of its database's life; the second one works."""
    chance = random.Random()
    for _ in range(times):
        server = make_server(new_database(empty=True), empty=True)
        first = await asyncio.create_subprocess_exec(
            SENDKIT, "serve", env=server.environment, cwd=server.data_dir.parent,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await until(lambda server=server: has_begun(server))  # type: ignore[misc]  # a default binds it now
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        first.send_signal(how)
        _, said = await asyncio.wait_for(first.communicate(), STOP_S)
        assert first.returncode in (0, -how), said.decode()
        await server.start()
        key = await server.live_key()
        await server.settled(key, await server.send(key), "delivered")
        assert await server.stop() == 0


async def test_a_first_start_that_is_killed_is_made_up_for_by_the_next(
    make_server: Callable[..., Server], new_database: Callable[..., str | None]
) -> None:
    await interrupted_starts(make_server, new_database, signal.SIGKILL, 3)


async def test_a_first_start_that_is_told_to_end_is_made_up_for_by_the_next(
    make_server: Callable[..., Server], new_database: Callable[..., str | None]
) -> None:
    await interrupted_starts(make_server, new_database, signal.SIGTERM, 2)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_twenty_first_starts_that_are_killed_are_made_up_for(
    make_server: Callable[..., Server], new_database: Callable[..., str | None]
) -> None:
    await interrupted_starts(make_server, new_database, signal.SIGKILL, 20)
