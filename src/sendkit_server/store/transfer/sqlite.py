"""Reading and filling SQLite.

A long read transaction would keep the server from writing its log back, and the log would grow for as long as the
backup takes, or for as long as somebody leaves an export's output lying. So the file is copied first, page by page and
in one read transaction, which takes a second a gigabyte; everything is read from the copy. The copy has no name from
the moment it is open. Where there is no room for it, the database itself is read.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.store.transfer.errors import TransferRefused
from sendkit_server.store.transfer.tables import Batch, Carried, Key, Row, batches, column_list, selection, without_nul

SPARE_BYTES = 512 * 1024 * 1024  # that a copy must leave free: the server refuses mail when the disk is nearly full


class SqliteSource:
    """Implements source.Source on one connection, which is in a read transaction or alone."""

    engine = "sqlite"
    placeholder = "?"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def values(self, statement: str, *parameters: object) -> list[Row]:
        """All rows."""
        return self._connection.execute(statement, parameters).fetchall()

    def batches(
        self, table: Carried, after: Key | None = None, where: str = "", parameters: Sequence[object] = ()
    ) -> Iterator[Batch]:
        """By the primary key's index."""
        statement = selection(table, "?", lambda name: name, after=after is not None, where=where)
        with closing(self._connection.execute(statement, (*(after or ()), *parameters))) as cursor:
            for batch in batches(table, cursor.fetchmany):
                yield without_nul(table, batch)


@contextmanager
def snapshot(path: Path, scratch: Path) -> Iterator[SqliteSource]:
    """See source.open_snapshot."""
    if not path.exists():
        raise TransferRefused(f"there is no database {path}; is SENDKIT_DATA_DIR right?")
    with _translated(), closing(_open(path, "mode=ro")) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
            raise TransferRefused(f"{path} holds no installation; is SENDKIT_DATA_DIR right?")
        if not _is_room(path, scratch):
            connection.execute("BEGIN")
            yield SqliteSource(connection)
            return
        copy = _copied(connection, scratch)
    with _translated(), closing(copy):
        yield SqliteSource(copy)


@contextmanager
def reading(path: Path) -> Iterator[SqliteSource]:
    """The database itself, by whoever holds the data directory's lock."""
    with _translated(), closing(_open(path, "mode=ro")) as connection:
        connection.execute("BEGIN")
        yield SqliteSource(connection)


def _open(path: Path, options: str) -> sqlite3.Connection:
    # Read by another thread than the one that opened it, one at a time.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None, timeout=10.0, check_same_thread=False
    )
    connection.execute("PRAGMA cache_size=-16384")
    return connection


def _is_room(path: Path, scratch: Path) -> bool:
    log = path.with_name(path.name + "-wal")
    needed = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    return shutil.disk_usage(scratch).free > needed + SPARE_BYTES


def _copied(connection: sqlite3.Connection, scratch: Path) -> sqlite3.Connection:
    descriptor, name = tempfile.mkstemp(prefix=".sendkit-copy-", dir=scratch)
    os.close(descriptor)
    try:
        with closing(sqlite3.connect(name, isolation_level=None)) as target:
            # It is worth nothing after a crash.
            target.execute("PRAGMA journal_mode=OFF")
            target.execute("PRAGMA synchronous=OFF")
            connection.backup(target)
        # immutable: nobody else has it, so no lock and no log are looked for under a name that is gone.
        return _open(Path(name), "mode=ro&immutable=1")
    finally:
        Path(name).unlink()


class SqliteTarget:
    """Implements target.Target: a new file that nobody else knows yet, so nothing of it is journalled."""

    placeholder = "?"

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        # Off only while it is filled: the engine turns WAL on again when it opens the file.
        self._connection.execute("PRAGMA journal_mode=OFF")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("PRAGMA cache_size=-65536")
        self._connection.execute("BEGIN")

    def execute(self, statement: str, *parameters: object) -> None:
        """Runs one statement."""
        self._connection.execute(statement, parameters)

    def write(self, table: Carried, batch: Batch) -> None:
        """Inserts rows."""
        marks = ", ".join("?" * len(table.columns))
        statement = f'INSERT INTO "{table.name}" ({column_list(table)}) VALUES ({marks})'  # noqa: S608 - our names
        self._connection.executemany(statement, batch)

    def close(self) -> None:
        """Commits."""
        self._connection.execute("COMMIT")
        self._connection.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreUnavailable(f"the SQLite database cannot be read: {error}") from error
