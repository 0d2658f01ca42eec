"""What an installation's database is to whoever reads all of it: one state, whatever is written meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sendkit_server.model.instant import Instant
from sendkit_server.store.transfer.tables import Batch, Carried, Counting, Key, Row, Tally, counting


class Source(Protocol):
    """One state of a database, to be read only."""

    engine: str
    placeholder: str

    def values(self, statement: str, *parameters: object) -> list[Row]:
        """All rows of a small query."""

    def batches(
        self, table: Carried, after: Key | None = None, where: str = "", parameters: Sequence[object] = ()
    ) -> Iterator[Batch]:
        """The table's rows in the form that `tables` describes. after: only those behind this key."""


def open_snapshot(data_dir: Path, database_url: str | None, scratch: Path) -> AbstractContextManager[Source]:
    """The database as it is now, while a server goes on. scratch: the folder where SQLite's copy may lie meanwhile.

    TransferRefused when there is no database; StoreUnavailable.
    """
    if database_url is None:
        from sendkit_server.store.transfer import sqlite

        return sqlite.snapshot(data_dir / "sendkit.db", scratch)
    # Imported here: who keeps to SQLite needs no driver for PostgreSQL.
    from sendkit_server.store.transfer import postgres

    return postgres.snapshot(database_url)


def revision(source: Source) -> str | None:
    """The schema's revision."""
    found = source.values("SELECT version_num FROM alembic_version")
    return str(found[0][0]) if found else None


def noted(source: Source, key: str) -> str | None:
    """A value of `meta`."""
    found = source.values(f"SELECT value FROM meta WHERE key = {source.placeholder}", key)  # noqa: S608 - a placeholder
    return str(found[0][0]) if found else None


def count(source: Source, table: Carried, after: Key | None = None) -> int:
    """How many rows of the table there are to carry, or behind a key."""
    statement = counting(table, source.placeholder, after=after is not None)
    return int(source.values(statement, *(after or ()))[0][0])


def tally(source: Source, table: Carried, step: Callable[[int], None] | None = None) -> Tally:
    """Reads a whole table. step: told how many rows came, a batch at a time."""
    made = Counting()
    for batch in source.batches(table):
        made.add(batch)
        if step is not None:
            step(len(batch))
    return made.tally()


_AGE = (("message", "id"), ("content", "id"), ("recipient", "message_id"))


def oldest(source: Source) -> Instant | None:
    """When the oldest mail was accepted, by the ids; None when there is none."""
    found = []
    for (team_id,) in source.values("SELECT id FROM team"):
        for table, key in _AGE:
            statement = f"SELECT {key} FROM {table} WHERE team_id = {source.placeholder} ORDER BY {key} LIMIT 1"  # noqa: S608
            found += [time_of(str(public_id)) for (public_id,) in source.values(statement, team_id)]
    return min(found, default=None)


def time_of(public_id: str) -> Instant:
    """The millisecond that an id was made at: its first ten digits in base 32 (model/ids.py)."""
    return int(public_id[4:14], 32)
