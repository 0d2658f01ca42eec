"""Calls that are obeyed once: their keys are written with their mail, and a repetition writes nothing."""

from __future__ import annotations

import asyncio

import msgspec
from sqlalchemy import func, select
from store_mails import new_mail

from sendkit_server.model.instant import DAY_MS, HOUR_MS
from sendkit_server.store import schema
from sendkit_server.store.queries import once as queries
from sendkit_server.store.store import Store
from sendkit_server.store.values import NewMail, Once, Repeat

AT = 5_000


def keyed(
    store: Store, key: str, *, team: int = 1, fingerprint: bytes = b"f", reply: str = "{}", at: int = AT
) -> NewMail:
    mail = new_mail(store.owner, at=at)
    (new,) = mail.messages
    new = msgspec.structs.replace(new, message=msgspec.structs.replace(new.message, team_id=team))
    once = Once("/emails", key, fingerprint, reply, at, at + DAY_MS)
    return msgspec.structs.replace(mail, messages=(new,), once=once)


async def messages(store: Store) -> int:
    return await store.read(
        lambda connection: connection.execute(select(func.count()).select_from(schema.message)).scalar_one()
    )


async def test_of_many_at_once_with_one_key_one_is_stored_and_the_others_get_its_reply(store: Store) -> None:
    mails = [keyed(store, "order-17", reply=f'"{n}"') for n in range(100)]
    results = await asyncio.gather(*(store.accept(mail) for mail in mails))
    first = results.index(None)
    assert results.count(None) == 1
    assert {result for result in results if result is not None} == {Repeat(b"f", f'"{first}"')}
    assert await messages(store) == 1


async def test_a_repetition_beside_other_mail_takes_nothing_from_it(store: Store) -> None:
    await store.accept(keyed(store, "a"))
    mails = [new_mail(store.owner), keyed(store, "a", fingerprint=b"other"), keyed(store, "b"), new_mail(store.owner)]
    assert await asyncio.gather(*(store.accept(mail) for mail in mails)) == [None, Repeat(b"f", "{}"), None, None]
    assert await messages(store) == 4


async def test_keys_are_a_team_s_own(store: Store) -> None:
    assert await store.accept(keyed(store, "a")) is None
    assert await store.accept(keyed(store, "a", team=2)) is None
    assert await messages(store) == 2


async def test_a_key_may_be_used_anew_when_it_is_not_kept_any_longer(store: Store) -> None:
    assert await store.accept(keyed(store, "a", reply='"old"')) is None
    assert await store.accept(keyed(store, "a", at=AT + DAY_MS - 1)) == Repeat(b"f", '"old"')
    assert await store.accept(keyed(store, "a", at=AT + DAY_MS, reply='"new"')) is None
    assert await store.accept(keyed(store, "a", at=AT + DAY_MS + 1)) == Repeat(b"f", '"new"')
    found = await store.read(lambda connection: queries.find(connection, (1, "/emails", "a"), AT + DAY_MS + 1))
    assert found == Repeat(b"f", '"new"')
    assert await store.read(lambda connection: queries.find(connection, (1, "/emails", "a"), AT + 2 * DAY_MS)) is None


async def test_a_mail_that_cannot_be_stored_leaves_no_key_behind(store: Store) -> None:
    first = keyed(store, "a")
    await store.accept(first)
    # The same ids under another key: the message is refused by the database, and with it the key.
    broken = msgspec.structs.replace(first, once=Once("/emails", "b", b"f", "{}", AT, AT + DAY_MS))
    results = await asyncio.gather(store.accept(broken), store.accept(keyed(store, "c")), return_exceptions=True)
    assert isinstance(results[0], Exception) and results[1] is None
    assert await store.read(lambda connection: queries.find(connection, (1, "/emails", "b"), AT)) is None


async def test_what_is_not_kept_any_longer_is_removed_slice_by_slice(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(queries, "SLICE", 7)
    for n in range(20):
        await store.accept(keyed(store, f"k{n:02d}", at=AT if n % 2 else AT + 3 * HOUR_MS))
    removed, after, rounds = 0, None, 0
    now = AT + DAY_MS + 2 * HOUR_MS
    while True:
        start = after
        gone, after = await store.write_quietly(
            lambda connection, start=start: queries.forget_slice(connection, start, now)
        )
        removed += gone
        rounds += 1
        if after is None:
            break
    assert (removed, rounds) == (10, 3)
    left = await store.read(
        lambda connection: connection.execute(select(func.count()).select_from(schema.idempotency)).scalar()
    )
    assert left == 10
