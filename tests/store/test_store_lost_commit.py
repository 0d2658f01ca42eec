"""The connection to PostgreSQL ends on COMMIT: whether it happened is looked up, never guessed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from databases.proxy import Proxy
from sqlalchemy import func, select, text
from store_mails import completion, new_mail, owned_job

from sendkit_server.store import schema
from sendkit_server.store.errors import OutcomeUnknown, StoreUnavailable
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import Claim

pytestmark = pytest.mark.engine("postgres")


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as running:
        yield running


@pytest.fixture
async def store(tmp_path: Path, proxy: Proxy) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, "secret", "tests", proxy.url)
    opened.start(1_000)
    yield opened
    await asyncio.to_thread(opened.close)


async def count(store: Store, table: str) -> int:
    query = select(func.count()).select_from(schema.metadata.tables[table])
    return int(await store.read(lambda connection: connection.execute(query).scalar_one()))


async def test_an_accept_whose_commit_was_not_answered_is_found_and_acknowledged(store: Store, proxy: Proxy) -> None:
    proxy.lose_commits = 1
    await store.accept(new_mail(store.owner))
    assert proxy.lost == 1
    assert await count(store, "message") == 1


async def test_a_group_whose_connection_broke_before_commit_is_written_once_more(store: Store, proxy: Proxy) -> None:
    proxy.cut()
    await asyncio.sleep(0.05)
    await store.accept(new_mail(store.owner))
    assert await count(store, "message") == 1


async def test_what_its_client_was_told_to_send_again_is_not_written_once_more(store: Store, proxy: Proxy) -> None:
    proxy.cut()
    proxy.refuse = True
    await asyncio.sleep(0.05)
    operation = store.accept_in_time(new_mail(store.owner))
    await asyncio.sleep(0.2)
    store.give_up(operation)
    assert not operation.future.done()  # nobody knows yet
    proxy.refuse = False
    with pytest.raises(StoreUnavailable, match="before the transaction committed"):
        await asyncio.wait_for(operation.future, 10)
    assert await count(store, "message") == 0


async def test_completions_and_management_are_looked_up_too(store: Store, proxy: Proxy) -> None:
    mail = new_mail(store.owner)
    await store.accept(mail)
    proxy.lose_commits = 1
    assert await store.complete(completion(owned_job(mail)))
    assert await count(store, "attempt") == 1
    proxy.lose_commits = 1
    insert = schema.team.insert().values(name="second", created_at=0)
    made = await store.write(lambda connection: connection.execute(insert).inserted_primary_key[0])
    assert await store.read(lambda connection: connection.execute(text("SELECT max(id) FROM team")).scalar()) == made


async def test_what_was_claimed_when_the_answer_got_lost_is_in_hand(store: Store, proxy: Proxy) -> None:
    await store.accept(new_mail(store.owner, owned=False))
    proxy.lose_commits = 1
    (job,) = (await store.claim(Claim(store.owner, 100_000, frozenset(), 10, 10))).jobs
    assert await store.complete(completion(job))


async def test_while_the_database_is_away_the_outcome_stays_open_and_everything_else_is_refused(
    store: Store, proxy: Proxy
) -> None:
    proxy.lose_commits = 1
    proxy.refuse = True
    unknown = asyncio.ensure_future(store.accept(new_mail(store.owner)))
    while not proxy.lost:
        await asyncio.sleep(0.01)
    with pytest.raises(StoreUnavailable):
        await store.accept(new_mail(store.owner))
    assert not unknown.done()
    proxy.refuse = False
    await asyncio.wait_for(unknown, 10)  # nobody has to send anything for it
    await store.accept(new_mail(store.owner))
    assert await count(store, "message") == 2


async def test_a_server_that_is_still_at_it_is_waited_for(store: Store, proxy: Proxy, database_url: str) -> None:
    # Another session writes the mark that the next transaction would leave, and has not committed: as the server itself
    # stands there while a COMMIT waits for its disk or a standby.
    with psycopg.connect(database_url) as holder:
        number = store.marks_from + 2
        holder.execute("INSERT INTO node_commit (owner, number) VALUES (%s, %s)", (store.owner, number))
        waiting = asyncio.ensure_future(store.accept(new_mail(store.owner)))
        await asyncio.sleep(0.2)
        proxy.cut()
        await asyncio.sleep(0.5)
        assert not waiting.done()
        holder.rollback()
    await asyncio.wait_for(waiting, 15)
    assert await count(store, "message") == 1


async def test_a_command_that_leaves_no_mark_is_told_that_nobody_knows(tmp_path: Path, proxy: Proxy) -> None:
    store = open_store(tmp_path, "secret", "tests", proxy.url)
    store.start_managing()
    try:
        proxy.lose_commits = 1
        with pytest.raises(OutcomeUnknown):
            await store.write(lambda connection: connection.execute(text("SELECT 1")).scalar())
    finally:
        await asyncio.to_thread(store.close)
