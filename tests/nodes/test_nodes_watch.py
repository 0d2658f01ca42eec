"""What a node looks after by itself while the database is away: it tries again, and serves on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from sendkit_server import watch as watch_module
from sendkit_server.model.clock import SteadyClock
from sendkit_server.model.instant import DAY_MS
from sendkit_server.watch import Watch


class Elapsed:
    """Nanoseconds that the test moves."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


@pytest.mark.parametrize(
    "error",
    [psycopg.OperationalError("away"), OperationalError("connect", {}, psycopg.OperationalError("away"))],
    ids=["driver", "sqlalchemy"],
)
async def test_a_database_that_is_away_when_the_partitions_are_due_does_not_end_the_process(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(watch_module, "WATCH_S", 0.01)
    elapsed, tries = Elapsed(), 0

    def maintain(now: int) -> None:
        nonlocal tries
        tries += 1
        raise error

    async def read(_: object) -> list[int]:
        return []

    async def write(_: object) -> list[str]:
        return []

    engine = SimpleNamespace(exclusive=False, maintain=maintain)
    store: Any = SimpleNamespace(engine=engine, read=read, write_quietly=write)
    settings: Any = SimpleNamespace(
        data_dir=Path(), capture_retention=1, body_retention=1, transcript_retention=1, event_retention=1
    )
    clock = SteadyClock(elapsed, elapsed)
    watch = Watch(settings, store, cast("Any", None), clock, lambda: None)
    elapsed.ns = (DAY_MS + 1) * 1_000_000
    running = asyncio.create_task(watch.run())
    async with asyncio.timeout(5):
        while not tries:
            await asyncio.sleep(0.005)
    await asyncio.wait([running], timeout=0.2)
    assert not running.done(), running.exception()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
