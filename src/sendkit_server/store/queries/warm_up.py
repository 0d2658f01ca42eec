"""What source addresses that are being warmed up have sent to the big receivers, by day."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, select, text

from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store.schema import warm_up

KEPT_DAYS = 60

Sent = tuple[str, str, Instant]


def add(connection: Connection, sent: Mapping[Sent, int], day: Instant) -> dict[Sent, int]:
    """Adds recipients to the counts of (address, receiver, day); the day's counts afterwards. Old days are forgotten."""
    statement = text(
        "INSERT INTO warm_up (address, receiver, day, recipients) VALUES (:address, :receiver, :day, :recipients)"
        " ON CONFLICT (address, receiver, day) DO UPDATE SET recipients = warm_up.recipients + excluded.recipients"
    )
    # In one order on every node, or two of them could wait for each other's rows.
    rows = [
        {"address": address, "receiver": receiver, "day": at, "recipients": count}
        for (address, receiver, at), count in sorted(sent.items())
        if count
    ]
    if rows:
        connection.execute(statement, rows)
        connection.execute(delete(warm_up).where(warm_up.c.day < day - KEPT_DAYS * DAY_MS))
    return on_day(connection, day)


def on_day(connection: Connection, day: Instant) -> dict[Sent, int]:
    """Recipients of one day by (address, receiver, day)."""
    query = select(warm_up.c.address, warm_up.c.receiver, warm_up.c.recipients).where(warm_up.c.day == day)
    return {(address, receiver, day): count for address, receiver, count in connection.execute(query)}
