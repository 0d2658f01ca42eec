"""Wrong keys and passwords as processes tell each other of them, and a process itself after a restart."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from sqlalchemy import func, select

from sendkit_server.manage import guess_exchange
from sendkit_server.manage.guess_exchange import GuessExchange
from sendkit_server.manage.guesses import LIMITS, Guesses, Kind
from sendkit_server.manage.retention import Kept, expire
from sendkit_server.model.ids import make_id
from sendkit_server.model.instant import DAY_MS, MINUTE_MS
from sendkit_server.store import schema
from sendkit_server.store.errors import OutcomeUnknown, StoreUnavailable
from sendkit_server.store.queries import guesses as queries
from sendkit_server.store.store import Store

LIMIT = LIMITS[Kind.KEY]
ONE = '[["key","192.0.2.1","",1]]'
KEPT = Kept(DAY_MS, DAY_MS, DAY_MS, DAY_MS)


class Process:
    """One process's memory and its exchange."""

    def __init__(self, store: Store) -> None:
        self.guesses = Guesses(lambda: 1_000.0)
        self.exchange = GuessExchange(store, self.guesses, lambda: time.time_ns() // 1_000_000)

    def wrong(self, count: int, host: str = "192.0.2.1") -> int:
        """How many of so many wrong keys were answered as wrong, and not told to wait."""
        return [self.guesses.wrong_key(host, "x") for _ in range(count)].count(None)


async def add_row(store: Store, age_ms: int, counted: str = ONE) -> None:
    """What some other process told so long ago; negative: in the future."""

    def write(connection: object) -> None:
        now = store.engine.now(connection) or time.time_ns() // 1_000_000  # type: ignore[arg-type]
        queries.insert_row(connection, make_id(queries.ID, now - age_ms, os.urandom(10)), "other", counted)  # type: ignore[arg-type]

    await store.write_quietly(write)


async def rows(store: Store) -> int:
    return int(await store.read(lambda c: c.execute(select(func.count()).select_from(schema.guess)).scalar_one()))


async def test_what_one_has_counted_another_knows_once_it_is_told(store: Store) -> None:
    one, other = Process(store), Process(store)
    assert (one.wrong(LIMIT - 5), other.wrong(2)) == (LIMIT - 5, 2)
    await one.exchange.tell()
    await one.exchange.tell()
    assert await rows(store) == 1, "what is known is not told again"
    for _ in range(3):
        await other.exchange.hear()
        await one.exchange.hear()
    assert other.wrong(9) == 3, "2 + 15 + 3 are the limit"
    await other.exchange.tell()
    await one.exchange.hear()
    assert one.wrong(3) == 0
    assert one.wrong(1, "192.0.2.2") == 1


async def test_a_restart_remembers_what_was_told(store: Store) -> None:
    before = Process(store)
    before.wrong(LIMIT)
    await before.exchange.tell()
    after = Process(store)
    await after.exchange.hear()
    assert after.wrong(1) == 0
    wait = after.guesses.wrong_key("192.0.2.1", "x")
    assert wait is not None and 540 < wait.seconds <= 600


async def test_ages_count_and_what_is_old_does_not(store: Store) -> None:
    process = Process(store)
    await add_row(store, 8 * MINUTE_MS, ONE.replace("1]]", f"{LIMIT}]]"))
    await add_row(store, 11 * MINUTE_MS, ONE.replace("192.0.2.1", "192.0.2.2").replace("1]]", f"{LIMIT}]]"))
    await process.exchange.hear()
    wait = process.guesses.wrong_key("192.0.2.1", "x")
    assert wait is not None and 90 < wait.seconds <= 120
    assert process.wrong(1, "192.0.2.2") == 1


async def test_a_row_that_comes_to_light_late_is_heard_and_none_twice(store: Store) -> None:
    process = Process(store)
    await add_row(store, 0)
    await process.exchange.hear()
    await add_row(store, 5_000)
    await process.exchange.hear()
    await process.exchange.hear()
    assert process.wrong(LIMIT) == LIMIT - 2


async def test_a_clock_that_was_ahead_leaves_nothing_that_counts_or_stays(store: Store) -> None:
    process = Process(store)
    await add_row(store, -365 * DAY_MS, ONE.replace("1]]", f"{LIMIT}]]"))
    await add_row(store, -MINUTE_MS, ONE.replace("1]]", f"{LIMIT}]]"))
    await process.exchange.hear()
    assert process.wrong(LIMIT) == LIMIT
    await add_row(store, 21 * MINUTE_MS)
    assert await rows(store) == 3
    await expire(store, KEPT, time.time_ns() // 1_000_000)
    assert await rows(store) == 1


@pytest.mark.engine("sqlite")
async def test_a_process_whose_clock_is_set_back_goes_on_hearing(store: Store) -> None:
    process = Process(store)
    process.exchange._clock = lambda: time.time_ns() // 1_000_000 + DAY_MS
    await process.exchange.hear()
    process.exchange._clock = lambda: time.time_ns() // 1_000_000
    await add_row(store, 0)
    await process.exchange.hear()
    assert process.wrong(LIMIT) == LIMIT - 1


async def test_a_flood_from_everywhere_is_a_bounded_row_a_round(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess_exchange, "MAX_GUESSES_A_ROW", 50)
    one, other = Process(store), Process(store)
    for n in range(120):
        one.wrong(1, f"198.51.100.{n}")
    one.wrong(10_000)
    for told in (1, 2, 3, 3):
        await one.exchange.tell()
        assert await rows(store) == told
    await other.exchange.hear()
    assert other.wrong(1) == 0


async def test_while_the_database_is_away_each_goes_by_what_it_knows_and_tells_it_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Process(store), Process(store)
    for error, told in ((StoreUnavailable("away"), LIMIT), (OutcomeUnknown("perhaps"), 0)):
        with monkeypatch.context() as patched:

            async def away(function: object, error: Exception = error) -> None:
                raise error

            patched.setattr(store, "write_quietly", away)
            patched.setattr(store, "read", away)
            host = f"192.0.2.{told + 1}"
            assert one.wrong(LIMIT + 1, host) == LIMIT
            for work in (one.exchange.tell, one.exchange.hear):
                with pytest.raises(StoreUnavailable):
                    await work()
            assert one.wrong(1, host) == 0
        await one.exchange.tell()
        await other.exchange.hear()
        assert other.wrong(LIMIT, host) == LIMIT - told, "what was perhaps told is not told again"


# Where there is nothing to hear: a reader that is in the middle of it when the task is cancelled would be left behind.
@pytest.mark.engine("sqlite")
async def test_rounds_go_on_whatever_happens_in_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess_exchange, "EXCHANGE_S", 0.01)
    one = Process(store)
    good, failed = store.write_quietly, asyncio.Event()

    async def broken(function: object) -> None:
        failed.set()
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "write_quietly", broken)
    one.wrong(3)
    running = asyncio.create_task(one.exchange.run())
    try:
        await asyncio.wait_for(failed.wait(), 10)
        monkeypatch.setattr(store, "write_quietly", good)
        async with asyncio.timeout(10):
            while not await rows(store):
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


async def test_a_row_of_another_version_is_passed_over(store: Store) -> None:
    process = Process(store)
    for counted in ("{}", "[[1]]", "nonsense", '[["palm","192.0.2.1","",9]]', ONE):
        await add_row(store, 0, counted)
    await process.exchange.hear()
    assert process.wrong(LIMIT) == LIMIT - 1
