"""Calls that were obeyed, and their answers."""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, insert, select, tuple_

from sendkit_server.model.instant import HOUR_MS, Instant
from sendkit_server.store.once import Key
from sendkit_server.store.rows import numbers
from sendkit_server.store.schema import event, idempotency
from sendkit_server.store.values import Repeat

SLICE = 2_000
DEDUPLICATED = "deduplicated"


def find(connection: Connection, key: Key, now: Instant) -> Repeat | None:
    """The answer to the call with this team, scope and key, while it is kept."""
    table = idempotency
    found = connection.execute(
        select(table.c.fingerprint, table.c.reply).where(
            and_(table.c.team_id == key[0], table.c.scope == key[1], table.c.key == key[2], table.c.kept_until > now)
        )
    ).one_or_none()
    return None if found is None else Repeat(bytes(found.fingerprint), found.reply)


def deduplicated(connection: Connection, team_id: int, message_id: str, now: Instant, owner: int) -> None:
    """Notes at a mail that it came once more, and was not taken again."""
    row = {
        "team_id": team_id,
        "message_id": message_id,
        "id": numbers.next(now, owner),
        "n": 0,
        "type": DEDUPLICATED,
        "at": now,
        "detail": "{}",
    }
    connection.execute(insert(event).values(row))


def forget_slice(connection: Connection, after: Key | None, now: Instant) -> tuple[int, Key | None]:
    """Removes what is not kept any longer from the next SLICE rows in the order of their keys: how many, and where to go on;
    None at the end.

    There is no index on the time: it would cost each accepted mail more than walking the table costs now and then. An
    hour longer than it counts, so that a row that an accept has just seen as kept is still there.
    """
    table = idempotency
    place = tuple_(table.c.team_id, table.c.scope, table.c.key)
    query = select(table.c.team_id, table.c.scope, table.c.key, table.c.kept_until).order_by(
        table.c.team_id, table.c.scope, table.c.key
    )
    if after is not None:
        query = query.where(place > tuple_(*after))
    rows = connection.execute(query.limit(SLICE)).all()
    old = [(row[0], row[1], row[2]) for row in rows if row.kept_until < now - HOUR_MS]
    for team_id, scope, key in old:
        connection.execute(delete(table).where(table.c.team_id == team_id, table.c.scope == scope, table.c.key == key))
    last = rows[-1] if len(rows) == SLICE else None
    return len(old), None if last is None else (last[0], last[1], last[2])
