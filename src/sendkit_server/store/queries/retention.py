"""Retention in slices: the rows of one team that are older than a time, by the time in their ids."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, select

from sendkit_server.model.ids import id_floor
from sendkit_server.model.instant import Instant
from sendkit_server.store import schema
from sendkit_server.store.schema import content, message, recipient, team

SLICE = 200  # ids a slice
TIME_CHARACTERS = 10  # of an id behind its prefix: the millisecond

# By table: the column with the id that tells its age, and that id's prefix.
AGE = {
    "captured": (schema.captured.c.message_id, "msg"),
    "content": (content.c.id, "con"),
    "attempt": (schema.attempt.c.message_id, "msg"),
    "event": (schema.event.c.message_id, "msg"),
    "message_label": (schema.message_label.c.message_id, "msg"),
    "recipient": (recipient.c.message_id, "msg"),
    "message": (message.c.id, "msg"),
}


class Step(msgspec.Struct, frozen=True):
    """One slice's outcome. last: the id where the next slice goes on; None when there is nothing more."""

    removed: int
    last: str | None


def team_ids(connection: Connection) -> list[int]:
    """All teams."""
    return [int(number) for (number,) in connection.execute(select(team.c.id))]


def remove_slice(connection: Connection, table_name: str, team_id: int, before: Instant, after: str) -> Step:
    """Removes the next few old rows of one table that no waiting mail needs."""
    table: Table = schema.metadata.tables[table_name]
    age, prefix = AGE[table_name]
    old = (
        select(age)
        .where(table.c.team_id == team_id, age > after, age < id_floor(prefix, before))
        .distinct()
        .order_by(age)
        .limit(SLICE)
    )
    ids = [str(found) for (found,) in connection.execute(old)]
    if not ids:
        return Step(0, None)
    needed = _needed(connection, table, team_id, ids)
    free = [found for found in ids if found not in needed]
    removed = connection.execute(delete(table).where(table.c.team_id == team_id, age.in_(free))).rowcount if free else 0
    return Step(removed, ids[-1])


def _needed(connection: Connection, table: Table, team_id: int, ids: Sequence[str]) -> set[str]:
    """Which of these ids a recipient that is still to be delivered to depends on."""
    waits = and_(
        recipient.c.team_id == message.c.team_id,
        recipient.c.message_id == message.c.id,
        recipient.c.next_attempt_at.is_not(None),
    )
    key: ColumnElement[str] = message.c.content_id if table is content else message.c.id
    query = select(key).where(message.c.team_id == team_id, exists().where(waits))
    if table is content:
        # A content and the messages made from it have ids of one millisecond: they were made in one call.
        first, last = (id_of.replace("con_", "msg_", 1) for id_of in (ids[0], ids[-1]))
        query = query.where(message.c.id >= first[: len("msg_") + TIME_CHARACTERS], key.in_(ids))
        query = query.where(message.c.id <= last[: len("msg_") + TIME_CHARACTERS] + "~")
    else:
        query = query.where(key.in_(ids))
    return {str(found) for (found,) in connection.execute(query)}
