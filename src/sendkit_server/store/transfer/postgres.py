"""Reading and filling PostgreSQL.

Read in one REPEATABLE READ transaction by server-side cursors. Every table is locked first, in the mode that any reader
takes: otherwise a partition that retention drops meanwhile would be missing although the snapshot is older. Written by
COPY in binary form: of all ways it costs both sides least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.exc import DBAPIError

from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store import schema
from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.store.postgres import partitions
from sendkit_server.store.postgres.engine import PostgresEngine
from sendkit_server.store.transfer.errors import TransferRefused
from sendkit_server.store.transfer.tables import TABLES, Batch, Carried, Key, Row, batches, column_list, selection

Raw = psycopg.Connection[tuple[Any, ...]]

OLDEST_PARTITION_MS = 2 * 365 * DAY_MS  # before now; what is older lies in the default partition
_TYPES = {"BIGINT": "int8", "INTEGER": "int4", "BOOLEAN": "bool", "BLOB": "bytea"}


class PostgresSource:
    """Implements source.Source on one connection that is in a transaction."""

    engine = "postgresql"
    placeholder = "%s"

    def __init__(self, connection: Raw) -> None:
        self._connection = connection
        self._names = count(1)

    def values(self, statement: str, *parameters: object) -> list[Row]:
        """All rows."""
        return list(self._connection.execute(statement.encode(), parameters or None).fetchall())

    def batches(
        self, table: Carried, after: Key | None = None, where: str = "", parameters: Sequence[object] = ()
    ) -> Iterator[Batch]:
        """By a server-side cursor."""
        statement = selection(table, "%s", lambda name: f"{name}::int", after=after is not None, where=where)
        with self._connection.cursor(f"sendkit_{next(self._names)}") as cursor:
            cursor.execute(statement.encode(), (*(after or ()), *parameters) or None, binary=True)
            yield from batches(table, cursor.fetchmany)


@contextmanager
def snapshot(url: str) -> Iterator[PostgresSource]:
    """See source.open_snapshot."""
    engine = PostgresEngine(url)
    try:
        with answering(), engine.open_writer() as connection:
            raw = raw_of(connection)
            _require_installation(raw)
            raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # Before the first SELECT, which is what takes the snapshot.
            _lock_all(raw)
            yield PostgresSource(raw)
            raw.execute("ROLLBACK")
    finally:
        engine.close()


def _require_installation(raw: Raw) -> None:
    found = raw.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    if found != (True,):
        raise TransferRefused("there is no installation in that database; is SENDKIT_DATABASE_URL right?")


def _lock_all(raw: Raw) -> None:
    names = sql.SQL(", ").join(sql.Identifier(table.name) for table in TABLES)
    raw.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))


def raw_of(connection: Any) -> Raw:
    """The driver's connection."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return raw


class PostgresTarget:
    """Implements target.Target on a connection that is in a transaction, which is the caller's to end."""

    placeholder = "%s"

    def __init__(self, connection: Raw) -> None:
        self._connection = connection

    def execute(self, statement: str, *parameters: object) -> None:
        """Runs one statement."""
        self._connection.execute(statement.encode(), parameters or None)

    def write(self, table: Carried, batch: Batch) -> None:
        """Copies rows in."""
        copying = f'COPY "{table.name}" ({column_list(table)}) FROM STDIN (FORMAT BINARY)'
        types = [_type_of(table, name) for name in table.columns]
        with self._connection.cursor() as cursor, cursor.copy(copying.encode()) as copy:
            copy.set_types(types)
            if table.switches:
                batch = [_with_booleans(table, row) for row in batch]
            write_row = copy.write_row
            for row in batch:
                write_row(row)


def _type_of(table: Carried, column: str) -> str:
    return _TYPES.get(str(schema.metadata.tables[table.name].c[column].type), "text")


def _with_booleans(table: Carried, row: Row) -> Row:
    changed = list(row)
    for position in table.switches:
        changed[position] = bool(changed[position])
    return changed


def make_partitions(connection: Raw, now: Instant, since: Instant | None) -> None:
    """Makes the partitions for mail from `since` on, as far back as is sensible. Within a transaction."""
    least = now if since is None else min(since, now)
    partitions.ensure(connection, now, since=max(least, now - OLDEST_PARTITION_MS, 0))
    # It waits for no lock, so as not to hold up others; in this transaction, which has the tables to itself, that ends here.
    connection.execute("SELECT set_config('lock_timeout', '0', true)")


def finish(connection: Raw) -> None:
    """Sets numbering behind what was written, and lets the planner know what is there."""
    connection.execute("SELECT setval(pg_get_serial_sequence('team', 'id'), max(id)) FROM team")
    connection.execute(b"ANALYZE " + ", ".join(f'"{table.name}"' for table in TABLES).encode())


@contextmanager
def answering() -> Iterator[None]:
    """What the server refuses (rights, space, a lost connection) is a StoreUnavailable with its words."""
    try:
        yield
    except (psycopg.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise StoreUnavailable(f"PostgreSQL did not do it: {str(cause).strip()}") from error
