"""Retention: each kind goes after its own time, whatever a waiting mail needs stays, and partitions go as a whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, insert, select, update
from store_mails import completion, new_mail, owned_job

from sendkit_server.manage.retention import Kept, expire
from sendkit_server.model.ids import id_floor, make_id
from sendkit_server.model.instant import DAY_MS
from sendkit_server.model.mail import Tag
from sendkit_server.model.status import Status
from sendkit_server.store import schema
from sendkit_server.store.postgres import partitions
from sendkit_server.store.postgres.partitions import AHEAD, CUTS, WEEK_MS
from sendkit_server.store.queries import retention
from sendkit_server.store.store import Store
from sendkit_server.store.values import Job, NewMail

NOW = int(time.time() * 1000)
KEPT = Kept(captured=7 * DAY_MS, bodies=30 * DAY_MS, transcripts=20 * DAY_MS, events=400 * DAY_MS)
TABLES = tuple(retention.AGE)
_made = iter(range(1, 1_000_000))


def old_mail(store: Store, days: float, *addresses: str, team_id: int = 1) -> NewMail:
    """A mail that was accepted so long ago, with a label."""
    at = NOW - round(days * DAY_MS)
    entropy = next(_made).to_bytes(10, "big")
    mail = new_mail(store.owner, *addresses, tags=(Tag("a", "b"),), at=at)
    new = mail.messages[0]
    message = msgspec.structs.replace(
        new.message, id=make_id("msg", at, entropy), content_id=make_id("con", at, entropy), team_id=team_id
    )
    return msgspec.structs.replace(mail, messages=(msgspec.structs.replace(new, message=message),))


async def deliver(store: Store, job: Job) -> None:
    done = completion(job, at=job.message.created_at)
    assert await store.complete(msgspec.structs.replace(done, captured=b"From: a@b.test\r\n\r\n"))


async def delivered(store: Store, days: float, *addresses: str, team_id: int = 1) -> str:
    """The id of a mail that has arrived, and of which everything was kept."""
    mail = old_mail(store, days, *addresses, team_id=team_id)
    await store.accept(mail)
    await deliver(store, owned_job(mail))
    return mail.messages[0].message.id


async def left(store: Store, table: str) -> set[str]:
    """Of a table, the times and numbers in the ids of what is there."""
    age, _ = retention.AGE[table]
    found = await store.read(lambda connection: connection.execute(select(age)).scalars().all())
    return {str(name)[4:] for name in found}


async def left_of_all(store: Store) -> dict[str, set[str]]:
    return {table: await left(store, table) for table in TABLES}


def tails(*names: str) -> set[str]:
    return {name[4:] for name in names}


async def test_each_kind_is_removed_after_its_own_time(store: Store) -> None:
    day, ten, month, year = [await delivered(store, days) for days in (1, 10, 31, 401)]
    await expire(store, KEPT, NOW)
    assert await left_of_all(store) == {
        "captured": tails(day),
        "content": tails(day, ten),
        "attempt": tails(day, ten),
        "event": tails(day, ten, month),
        "message_label": tails(day, ten, month),
        "recipient": tails(day, ten, month),
        "message": tails(day, ten, month),
    }
    assert year not in await left(store, "message")
    assert await expire(store, KEPT, NOW) == 0


async def test_what_is_exactly_as_old_as_its_time_is_kept(store: Store) -> None:
    kept = await delivered(store, 30)
    await expire(store, KEPT, NOW)
    assert kept[4:] in await left(store, "content")
    await expire(store, KEPT, NOW + 1)
    assert kept[4:] not in await left(store, "content")


async def test_nothing_is_removed_of_a_mail_that_waits_until_it_is_settled(store: Store) -> None:
    mail = old_mail(store, 500, "a@one.test", "b@two.test")
    await store.accept(mail)
    new = mail.messages[0]
    first, second = (
        Job(new.message, (recipient,), recipient.mailbox.domain, 1, 1, None, store.owner, shared=True)
        for recipient in new.recipients
    )
    await deliver(store, first)
    await store.complete(completion(second, Status.DELAYED, next_at=NOW))
    before = await left_of_all(store)
    assert all(before.values())
    assert await expire(store, KEPT, NOW) == 0
    assert await left_of_all(store) == before
    assert await store.content(1, new.message.content_id) == mail.content
    await store.write(lambda c: c.execute(update(schema.recipient).values(owner=store.owner, fence=7)).rowcount)
    await deliver(store, msgspec.structs.replace(second, fence=7))
    await expire(store, KEPT, NOW)
    assert not any((await left_of_all(store)).values())


async def test_a_content_stays_for_the_last_mail_made_from_it(store: Store) -> None:
    mail = old_mail(store, 500)
    first = mail.messages[0]
    second = msgspec.structs.replace(
        first, message=msgspec.structs.replace(first.message, id=id_floor("msg", first.message.created_at))
    )
    mail = msgspec.structs.replace(mail, messages=(first, second))
    await store.accept(mail)
    await deliver(store, owned_job(mail))
    await expire(store, KEPT, NOW)
    waiting = tails(second.message.id)
    assert await left(store, "content") == tails(first.message.content_id)
    assert await left(store, "message") == waiting
    assert await left(store, "recipient") == waiting
    await deliver(store, msgspec.structs.replace(owned_job(mail), message=second.message, recipients=second.recipients))
    await expire(store, KEPT, NOW)
    assert not any((await left_of_all(store)).values())


async def test_every_teams_rows_are_looked_at(store: Store) -> None:
    await store.write(lambda c: c.execute(insert(schema.team).values(id=2, name="second", created_at=0)))
    for team_id in (1, 2):
        await delivered(store, 500, team_id=team_id)
    await expire(store, KEPT, NOW)
    assert not any((await left_of_all(store)).values())


async def test_rows_are_removed_in_slices_that_go_on_where_the_last_one_stopped(store: Store) -> None:
    many = 2 * retention.SLICE + 50
    await asyncio.gather(*(store.accept(old_mail(store, 500 + n / many)) for n in range(many)))
    none_waits = update(schema.recipient).values(next_attempt_at=None, owner=None)
    await store.write(lambda connection: connection.execute(none_waits))

    def slice_after(last: str) -> Callable[[Connection], retention.Step]:
        return lambda connection: retention.remove_slice(connection, "message", 1, NOW, last)

    steps = [await store.write_quietly(slice_after(""))]
    while (last := steps[-1].last) is not None:
        steps.append(await store.write_quietly(slice_after(last)))
    assert [step.removed for step in steps] == [retention.SLICE, retention.SLICE, 50, 0]
    assert not await left(store, "message")


async def test_a_slice_of_what_is_all_still_needed_does_not_stop_the_next(store: Store) -> None:
    for n in range(retention.SLICE + 5):
        await store.accept(old_mail(store, 500 - n / 1000))
    free = await delivered(store, 450)
    await expire(store, KEPT, NOW)
    assert free[4:] not in await left(store, "message")
    assert len(await left(store, "message")) == retention.SLICE + 5


# Partitions.


@pytest.fixture
def old_partitions(database_url: str, store: Store) -> None:
    """Partitions for the last 500 days, as an installation of that age has them."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        partitions.ensure(connection, NOW, since=NOW - 500 * DAY_MS)


def parts_of(database_url: str, table: str) -> list[partitions.Part]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        return [part for part in partitions.parts(connection) if part.cut.table == table]


@pytest.mark.engine("postgres")
@pytest.mark.usefixtures("old_partitions")
async def test_partitions_that_are_old_enough_are_dropped_as_a_whole(store: Store, database_url: str) -> None:
    kept = await delivered(store, 1)
    for days in (60, 100, 490):
        await delivered(store, days)
    await expire(store, KEPT, NOW)
    for cut in CUTS:
        days = {"captured": 7, "content": 30, "attempt": 20}.get(cut.table, 400)
        before = NOW - days * DAY_MS
        numbers = [part.number for part in parts_of(database_url, cut.table)]
        assert numbers == list(range(before // cut.span_ms, NOW // cut.span_ms + AHEAD + 1)), cut.table
    assert kept[4:] in await left(store, "captured")
    assert len(await left(store, "message")) == 3


@pytest.mark.engine("postgres")
@pytest.mark.usefixtures("old_partitions")
async def test_dropping_is_not_removing_row_by_row(store: Store, database_url: str) -> None:
    week = (NOW - 60 * DAY_MS) // WEEK_MS * WEEK_MS
    in_its_middle = (NOW - week - WEEK_MS // 2) / DAY_MS
    for _ in range(5):
        await delivered(store, in_its_middle)
    assert await expire(store, KEPT, NOW) == 0
    assert not await left(store, "content") and not await left(store, "attempt")
    assert len(await left(store, "message")) == 5


@pytest.mark.engine("postgres")
@pytest.mark.usefixtures("old_partitions")
async def test_a_partition_of_a_waiting_mail_stays_and_is_cleared_of_all_others(
    store: Store, database_url: str
) -> None:
    waiting = old_mail(store, 60)
    await store.accept(waiting)
    await delivered(store, 60)
    await delivered(store, 59.9)
    week = (NOW - 60 * DAY_MS) // WEEK_MS
    await expire(store, KEPT, NOW)
    assert week in [part.number for part in parts_of(database_url, "content")]
    assert await left(store, "content") == tails(waiting.messages[0].message.content_id)
    await deliver(store, owned_job(waiting))
    await expire(store, KEPT, NOW)
    assert week not in [part.number for part in parts_of(database_url, "content")]
    assert not await left(store, "content")


@pytest.mark.engine("postgres")
@pytest.mark.usefixtures("old_partitions")
async def test_a_partition_that_somebody_reads_is_left_for_the_next_time_and_nobody_waits_for_it(
    store: Store, database_url: str
) -> None:
    old = partitions.Part(next(cut for cut in CUTS if cut.table == "content"), (NOW - 60 * DAY_MS) // WEEK_MS)
    with psycopg.connect(database_url) as reader:
        reader.execute(f"SELECT count(*) FROM {old.name}".encode())
        expiring = asyncio.ensure_future(expire(store, KEPT, NOW))
        slowest = 0.0
        while not expiring.done():
            started = time.monotonic()
            await store.accept(old_mail(store, 0))
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 3 * partitions.LOCK_TIMEOUT_MS / 1000
        await expiring
        assert parts_of(database_url, "content")[0].number == old.number
    await expire(store, KEPT, NOW)
    assert old.number not in [part.number for part in parts_of(database_url, "content")]


@pytest.mark.engine("postgres")
@pytest.mark.usefixtures("old_partitions")
async def test_two_nodes_that_drop_at_once_do_not_get_into_each_others_way(store: Store, database_url: str) -> None:
    def drop() -> list[str]:
        with psycopg.connect(database_url, autocommit=True) as connection:
            return partitions.drop_before(connection, "content", NOW - 30 * DAY_MS)

    ones, others = await asyncio.gather(asyncio.to_thread(drop), asyncio.to_thread(drop))
    left_over = await asyncio.to_thread(drop)
    assert len({*ones, *others, *left_over}) == len(ones) + len(others) + len(left_over)
    assert parts_of(database_url, "content")[0].end > NOW - 30 * DAY_MS


@pytest.mark.engine("postgres")
async def test_mail_of_a_time_without_a_partition_is_kept_and_removed_like_any_other(
    store: Store, database_url: str
) -> None:
    name = await delivered(store, 900)
    assert name[4:] in await left(store, "message")
    with psycopg.connect(database_url, autocommit=True) as connection:
        made = partitions.ensure(connection, NOW, since=NOW - 930 * DAY_MS)
    # Its place is taken by the default partition: made there now, the partition would lack what belongs to it.
    assert f"message_p{(NOW - 900 * DAY_MS) // (4 * WEEK_MS)}" not in made
    assert name[4:] in await left(store, "message")
    await expire(store, KEPT, NOW)
    assert not any((await left_of_all(store)).values())
