"""Wrong keys and passwords that processes tell each other of: a row for what one of them has counted within a second."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, or_, select

from sendkit_server.model.ids import id_floor
from sendkit_server.model.instant import MINUTE_MS, Instant
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import guess

ID = "gue"
KEPT_MS = 20 * MINUTE_MS


def insert_row(connection: Connection, row_id: str, process: str, counted: str) -> None:
    """Adds a row. process: who tells, at random.  counted: JSON."""
    connection.execute(insert(guess).values(id=row_id, process=process, counted=counted))


def list_rows(connection: Connection, since: Instant, until: Instant, process: str) -> Sequence[AnyRow]:
    """What others than this process have told from one moment to another; both are within."""
    query = select(guess.c.id, guess.c.counted).where(
        guess.c.id >= id_floor(ID, since), guess.c.id < id_floor(ID, until + 1), guess.c.process != process
    )
    return connection.execute(query.order_by(guess.c.id)).all()


def forget_old(connection: Connection, now: Instant) -> None:
    """Removes what counts no more, and what a clock that was wrong has put into the future."""
    is_old, is_to_come = guess.c.id < id_floor(ID, now - KEPT_MS), guess.c.id >= id_floor(ID, now + KEPT_MS)
    connection.execute(delete(guess).where(or_(is_old, is_to_come)))
