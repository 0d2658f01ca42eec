"""Notes in `meta` about an installation that moves: who finds one at its start does not serve.

INCOMING stands in a database that `sendkit migrate --to` fills, until everything is there and has been compared.
MOVED stands in the SQLite database from then on: whoever served it again would send what waits a second time.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from sendkit_server.store.errors import StoreError
from sendkit_server.store.schema import meta

FINGERPRINT = "secret_fingerprint"
INCOMING = "incoming"
MOVED = "migrated_to"
CAME_FROM = "migrated_from"
OWN = (CAME_FROM, FINGERPRINT, INCOMING, MOVED)
"""Keys of `meta` that belong to one database and are not carried over."""


class Progress(msgspec.Struct, frozen=True):
    """How far a migration has come, as it stands under INCOMING.

    source: which installation it comes from.  state: which state of it; another one begins anew.  table, after: the
    last row that is there, by its key.  tables: how many tables are done.
    """

    source: str
    state: str
    tables: int = 0
    after: tuple[int | str, ...] | None = None


def refuse_to_serve(connection: Connection) -> None:
    """StoreError when this database is being filled, or has moved."""
    marks = select(meta.c.key, meta.c.value).where(meta.c.key.in_((INCOMING, MOVED)))
    for key, value in connection.execute(marks).all():
        if key == INCOMING:
            raise StoreError(
                "`sendkit migrate --to` is filling this database and has not finished; run it again where the SQLite "
                "database is, or drop and create this database to begin anew"
            )
        raise StoreError(
            f"this SQLite database was carried over to {value}; to serve it again would send what waits twice. Set "
            "SENDKIT_DATABASE_URL, or go back with `sendkit migrate --undo` if nothing was served from there"
        )
