"""Plans that a clock made which has been set back since: nobody waits until it has caught up."""

from __future__ import annotations

from sqlalchemy import select, update
from store_mails import completion, new_mail, owned_job

from sendkit_server.model.instant import DAY_MS, HOUR_MS
from sendkit_server.model.status import Status
from sendkit_server.store import schema
from sendkit_server.store.queries import queue
from sendkit_server.store.store import Store

NOW = 10 * DAY_MS
LATEST = NOW + HOUR_MS
YEAR_MS = 365 * DAY_MS


async def deferred(store: Store, until: int) -> str:
    """A mail that was tried once; its id."""
    mail = new_mail(store.owner)
    await store.accept(mail)
    await store.complete(completion(owned_job(mail), Status.DELAYED, next_at=until))
    return mail.messages[0].message.id


async def planned(store: Store) -> dict[str, int | None]:
    """When each mail's first recipient is tried next."""
    columns = select(schema.recipient.c.message_id, schema.recipient.c.next_attempt_at)
    rows = await store.read(lambda connection: connection.execute(columns).all())
    return {row.message_id: row.next_attempt_at for row in rows}


async def brought_forward(store: Store) -> int:
    """All slices; how many there were in all."""
    found = 0
    while some := await store.write_quietly(lambda connection: queue.bring_forward_slice(connection, NOW, LATEST)):
        found += some
    return found


async def test_what_lies_beyond_the_longest_delay_is_brought_to_it_and_the_rest_stays(store: Store) -> None:
    far = [await deferred(store, NOW + YEAR_MS + n) for n in range(queue.SLICE * 2 + 1)]
    near, past, at_the_limit = [await deferred(store, at) for at in (NOW + 5, NOW - 5, LATEST)]
    assert await brought_forward(store) == len(far)
    plans = await planned(store)
    assert [plans[one] for one in far] == [LATEST] * len(far)
    assert (plans[near], plans[past], plans[at_the_limit]) == (NOW + 5, NOW - 5, LATEST)
    assert await brought_forward(store) == 0


async def test_what_was_never_tried_is_due_at_once(store: Store) -> None:
    mail = new_mail(store.owner, owned=False, at=NOW + YEAR_MS)
    await store.accept(mail)
    assert await brought_forward(store) == 1
    assert await planned(store) == {mail.messages[0].message.id: NOW}


async def test_scheduled_and_owned_and_settled_recipients_are_left_alone(store: Store) -> None:
    scheduled = await deferred(store, NOW + YEAR_MS)
    owned = new_mail(store.owner, at=NOW + YEAR_MS)
    await store.accept(owned)
    settled = new_mail(store.owner)
    await store.accept(settled)
    await store.complete(completion(owned_job(settled)))
    table = schema.recipient
    waits = update(table).where(table.c.message_id == scheduled).values(status=str(Status.SCHEDULED))
    await store.write_quietly(lambda connection: connection.execute(waits))
    before = await planned(store)
    assert await brought_forward(store) == 0
    assert await planned(store) == before
