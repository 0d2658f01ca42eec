"""Suppressions where they are kept, remembered and written by the hot operations; and the operator's hand on the queue."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update
from store_mails import completion, new_mail, owned_job

from sendkit_server.events import suppressed_at_accept
from sendkit_server.model.address import Mailbox, parse_address
from sendkit_server.model.ids import instant_of, make_id
from sendkit_server.model.status import Status
from sendkit_server.model.suppression import NewSuppression
from sendkit_server.store import schema
from sendkit_server.store.queries import queue, suppressions
from sendkit_server.store.queries.queue import Target
from sendkit_server.store.store import Store
from sendkit_server.store.values import Claim, NewMail

ANN, BOB = parse_address("ann@there.test"), parse_address("Bob@there.test")


async def one(store: Store, query: Any) -> Any:
    return await store.read(lambda connection: connection.execute(query).one())


async def bounced(store: Store, *, code: int = 552, enhanced: str = "5.2.2", at: int = 9_000, **wishes: Any) -> str:
    """A mail to Ann that ends bounced with these codes; its id."""
    mail = new_mail(store.owner, "ann@there.test", **wishes)
    await store.accept(mail)
    done = completion(owned_job(mail), Status.BOUNCED, at=at)
    changed = msgspec.structs.replace(done.updates[0], code=code, enhanced=enhanced, explanation="x")
    await store.complete(msgspec.structs.replace(done, updates=(changed,)))
    return mail.messages[0].message.id


def with_end(mail: NewMail, n: int) -> NewMail:
    """The mail with its nth recipient suppressed."""
    new = mail.messages[0]
    recipients = tuple(
        msgspec.structs.replace(each, status=Status.SUPPRESSED) if each.n == n else each for each in new.recipients
    )
    ended = {n: suppressed_at_accept(n, "complaint", new.message.created_at)}
    return msgspec.structs.replace(mail, messages=(msgspec.structs.replace(new, recipients=recipients, ended=ended),))


def test_an_id_tells_when_it_was_made() -> None:
    assert instant_of(make_id("sup", 1_764_000_000_123, bytes(range(10)))) == 1_764_000_000_123


async def test_a_recipient_that_is_at_its_end_when_accepted_is_settled_and_told(store: Store) -> None:
    mail = with_end(new_mail(store.owner, "ann@there.test", "bob@there.test", owned=False), 0)
    await store.accept(mail)
    table = schema.recipient
    rows = await store.read(lambda connection: connection.execute(select(table).order_by(table.c.n)).all())
    assert [(row.status, row.next_attempt_at, row.reason, row.owner) for row in rows] == [
        ("suppressed", None, "complaint", None),
        ("queued", 5_000, None, None),
    ]
    event = await one(store, select(schema.event))
    assert (event.type, event.n) == ("suppressed", 0) and "complained" in event.detail
    assert (await one(store, select(schema.message))).status == "queued"
    claimed = await store.claim(Claim(store.owner, 9_000, frozenset(), 10, 10))
    assert [(len(job.recipients), job.shared) for job in claimed.jobs] == [(1, True)]
    await store.complete(completion(claimed.jobs[0]))
    assert (await one(store, select(schema.message))).status == "suppressed"


async def test_a_message_whose_recipients_are_all_suppressed_is_suppressed(store: Store) -> None:
    await store.accept(with_end(new_mail(store.owner, "ann@there.test"), 0))
    assert (await one(store, select(schema.message))).status == "suppressed"
    assert (await store.claim(Claim(store.owner, 9_000, frozenset(), 10, 10))).jobs == []


async def test_a_completion_suppresses_with_its_commit_and_the_first_evidence_stays(store: Store) -> None:
    mails = [new_mail(store.owner, "ann@there.test") for _ in range(3)]
    for mail in mails:
        await store.accept(mail)
    futures = [
        store.complete(
            msgspec.structs.replace(
                completion(owned_job(mail), Status.BOUNCED, at=9_000 + n),
                suppressions=(NewSuppression("ann@there.test", f'{{"n":{n}}}'),),
            )
        )
        for n, mail in enumerate(mails)
    ]
    for future in futures:
        assert await future
    row = await one(store, select(schema.suppression))
    assert (row.address, row.reason, row.detail, row.created_at) == ("ann@there.test", "bounce", '{"n":0}', 9_000)
    assert row.updated_at == 9_002


async def test_three_soft_bounces_in_a_row_suppress(store: Store) -> None:
    judge = lambda connection: suppressions.add_after_soft_bounces(connection, 1, "ann@there.test", 9_500)  # noqa: E731
    await bounced(store)
    await bounced(store)
    assert await store.write_quietly(judge) is False
    # Neither a captured mail nor one that never met a server counts, for or against.
    await bounced(store, code=550, enhanced="5.1.1", capture=True)
    last = await bounced(store)
    assert await store.write_quietly(judge) is True
    row = await one(store, select(schema.suppression))
    assert row.reason == "bounce" and last in row.detail and '"soft_bounces":3' in row.detail


@pytest.mark.parametrize(("code", "enhanced"), [(550, "5.7.1"), (550, "5.0.0")])
async def test_another_kind_of_bounce_between_soft_ones_begins_the_count_anew(
    store: Store, code: int, enhanced: str
) -> None:
    for given in ((552, "5.2.2"), (552, "5.2.2"), (code, enhanced), (552, "5.2.2")):
        await bounced(store, code=given[0], enhanced=given[1])
    assert not await store.write_quietly(
        lambda connection: suppressions.add_after_soft_bounces(connection, 1, "ann@there.test", 9_500)
    )


async def test_memory_knows_what_this_process_suppresses_at_once_and_what_was_removed_elsewhere(store: Store) -> None:
    known = store.suppressed
    assert known.clear(1, [ANN]) is False
    assert await known.among(1, [ANN]) == {} and known.clear(1, [ANN])
    await store.write_quietly(lambda connection: known.suppress(connection, 1, BOB.matching, "bounce", {}, 9_000))
    assert known.clear(1, [ANN]) and not known.clear(1, [ANN, Mailbox("BOB", "there.test")])
    assert await known.among(1, [ANN, BOB]) == {"bob@there.test": "bounce"}
    await store.write_quietly(lambda connection: suppressions.remove(connection, 1, "bob@there.test"))
    assert not known.clear(1, [BOB])
    assert await known.among(1, [BOB]) == {} and known.clear(1, [BOB])


async def test_memory_reads_a_long_list_in_slices_and_later_only_what_is_new(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendkit_server.store.suppressed.SLICE", 7)
    at = 1_764_000_000_000

    def write(connection: Any) -> None:
        for n in range(30):
            suppressions.add(connection, 1, f"{n}@there.test", "manual", {}, at + n)

    await store.write(write)
    everybody = [parse_address(f"{n}@there.test") for n in range(40)]
    assert len(await store.suppressed.among(1, everybody)) == 30
    await store.write(lambda connection: suppressions.add(connection, 1, "35@there.test", "manual", {}, at + 60_000))
    assert len(await store.suppressed.among(1, everybody)) == 31
    seen: list[int] = []
    monkeypatch.setattr(
        suppressions, "added_since", lambda connection, team, since, after, limit: seen.append(since) or []
    )
    store.suppressed.forget()
    await store.suppressed.among(1, [ANN])
    assert seen == [at + 60_000 - 15_000]


async def test_the_operators_hand_is_read_with_what_is_held_for_a_moment(store: Store) -> None:
    def write(connection: Any) -> None:
        queue.hold(connection, "there.test", 1_000)
        queue.hold_briefly(connection, "msg_1", 2_000)
        queue.tell_retried(connection, "there.test", 3_000)
        queue.tell_retried(connection, "", 4_000)

    await store.write(write)
    hand = await store.read(lambda connection: queue.hand(connection, 5_000))
    assert hand.held == {"there.test", "msg_1"} and hand.retried == {"there.test": 3_000, "": 4_000}
    assert await store.read(queue.held_sites) == ["there.test"]
    assert (await store.read(lambda connection: queue.hand(connection, 63_000))).held == {"there.test"}
    await store.write(lambda connection: queue.release_briefly(connection, "msg_2", 63_000))
    assert (await store.read(lambda connection: queue.hand(connection, 5_000))).held == {"there.test"}
    assert await store.write(lambda connection: queue.release(connection, "there.test")) is True
    assert await store.write(lambda connection: queue.release(connection, "there.test")) is False


async def test_only_what_waits_unowned_is_cancelled_slice_by_slice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "SLICE", 2)
    for _ in range(3):
        await store.accept(new_mail(store.owner, "ann@there.test", owned=False))
    mixed = new_mail(store.owner, "ann@there.test", "bob@elsewhere.test", owned=False)
    await store.accept(mixed)
    await store.accept(new_mail(store.owner, "ann@there.test"))
    target = Target(1, site="there.test")
    counts = []
    more = True
    while more:
        ended, more = await store.write_quietly(
            lambda connection: queue.cancel_slice(connection, target, "dropped", "Dropped.", 9_000, store.owner)
        )
        counts.append(ended)
    assert counts == [2, 2, 0]
    assert await store.read(lambda connection: queue.in_hand(connection, target)) == 1
    assert await store.read(lambda connection: queue.unsettled(connection, Target(1))) == 2
    statuses = await store.read(
        lambda connection: (
            connection.execute(select(schema.message.c.status).order_by(schema.message.c.id)).scalars().all()
        )
    )
    assert statuses == ["cancelled", "cancelled", "cancelled", "queued", "queued"]
    assert len(await store.read(lambda connection: connection.execute(select(schema.event)).all())) == 4


async def test_only_what_is_due_later_is_made_due_now(store: Store) -> None:
    mail = new_mail(store.owner, "ann@there.test", owned=False)
    await store.accept(mail)
    await store.accept(new_mail(store.owner, "bob@there.test", owned=False))
    table = schema.recipient
    later = update(table).where(table.c.message_id == mail.messages[0].message.id).values(next_attempt_at=90_000)
    await store.write(lambda connection: connection.execute(later))
    retry = lambda target: store.write(lambda connection: queue.retry_slice(connection, target, 10_000))  # noqa: E731
    assert await retry(Target(1, site="elsewhere.test")) == 0
    assert await retry(Target(2, site="there.test")) == 0
    assert await retry(Target(1, site="there.test")) == 1
    assert await retry(Target(1)) == 0
    assert sorted(
        await store.read(lambda connection: connection.execute(select(table.c.next_attempt_at)).scalars().all())
    ) == [5_000, 10_000]
