"""The SQLite engine: how connections are opened, transactions are run, and errors are read.

WAL and synchronous=FULL on every connection: a commit is on the disk when it returns. Only the writer checkpoints
(readers are opened read-only): stock SQLite before 3.51.3 can corrupt a WAL when two connections write or checkpoint at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from sendkit_server.model.instant import Instant
from sendkit_server.store.engine import Group, Mark
from sendkit_server.store.errors import StoreError, StoreFull, StoreUnavailable
from sendkit_server.store.migrate import migrate_sqlite
from sendkit_server.store.sqlite import hot

CHECKPOINT_PAGES = 4000
READERS = 4

T = TypeVar("T")
HotOperation = Callable[[sqlite3.Connection, list[Any]], list[Any]]
_HOT: dict[str, HotOperation] = {
    "accept": hot.accept_many,
    "claim": hot.claim_many,
    "complete": hot.complete_many,
}


class SqliteEngine:
    """Implements engine.Engine for one database file."""

    name = "sqlite"
    exclusive = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = create_engine("sqlite://", creator=self._connect_writer, poolclass=NullPool)
        self.reading: Engine = create_engine(
            "sqlite://", creator=self._connect_reader, poolclass=QueuePool, pool_size=READERS, max_overflow=0
        )

    def migrate(self, then: Callable[[Connection], None]) -> None:
        """After a copy, in one transaction."""
        with self.open_writer() as connection:
            migrate_sqlite(connection, self.path, then)

    def open_writer(self) -> Connection:
        """A writing connection; the writer thread is its only user, though it may be opened elsewhere."""
        return self._writing.connect()

    # On the raw driver connection: of a group's time SQLAlchemy's way to it would be a good part.

    def transact(self, connection: Connection, groups: Sequence[Group], mark: Mark) -> list[list[Any]]:
        """Takes the write lock at once, so that a transaction cannot fail half-way for want of it."""
        raw = _raw(connection)
        raw.execute("BEGIN IMMEDIATE")
        results = [_HOT[kind](raw, values) for kind, values in groups]
        raw.execute("COMMIT")
        return results

    def run(self, connection: Connection, function: Callable[[Connection], T], mark: Mark) -> T:
        """Runs a management function."""
        raw = _raw(connection)
        raw.execute("BEGIN IMMEDIATE")
        result = function(connection)
        raw.execute("COMMIT")
        if connection.in_transaction():
            connection.commit()
        return result

    def read(self, function: Callable[[Connection], T]) -> T:
        """On a connection that was opened read-only."""
        with self.reading.connect() as connection:
            return function(connection)

    def rollback(self, connection: Connection) -> None:
        """Undoes the transaction."""
        raw = _raw(connection)
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        if connection.in_transaction():
            connection.rollback()

    def was_committed(self, connection: Connection, mark: Mark) -> bool | None:
        """Never asked: there is no connection between us and the file that could be lost."""
        return False

    def now(self, connection: Connection) -> Instant | None:
        """The database has no clock but this machine's."""
        return None

    def wake(self, connection: Connection) -> None:
        """Nothing: there are no others."""

    def listen(self, wake: Callable[[], None]) -> Callable[[], None] | None:
        """There are no others."""
        return None

    def maintain(self, now: Instant) -> None:
        """Nothing: there are no partitions."""

    def drop_before(self, connection: Connection, table: str, before: Instant) -> list[str]:
        """Nothing: there are no partitions."""
        return []

    def log_bytes(self) -> int:
        """Size of the WAL."""
        wal = self.path.with_name(self.path.name + "-wal")
        return wal.stat().st_size if wal.exists() else 0

    def translated(self, error: Exception) -> StoreError | None:
        """Operational errors (disk, lock, I/O) are the database's; constraint and programming errors are not."""
        if isinstance(error, StoreError):
            return error if isinstance(error, StoreUnavailable) else None
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, sqlite3.OperationalError | sqlite3.DatabaseError):
            return None
        if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError):
            return None
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return StoreFull(str(cause))
        return StoreUnavailable(str(cause))

    def close(self) -> None:
        """Closes the readers; the writer closes its own connection."""
        self.reading.dispose()
        self._writing.dispose()

    def _connect_writer(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=5.0,
            cached_statements=hot.STATEMENTS,
        )
        connection.execute("PRAGMA journal_mode=WAL")
        _configure(connection)
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=5.0,
        )
        _configure(connection)
        connection.execute("PRAGMA query_only=ON")
        return connection


def _raw(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-16384")
    connection.execute("PRAGMA temp_store=MEMORY")
