"""`sendkit migrate --to`: a SQLite installation is carried to PostgreSQL, with the mail that waits.

The server is stopped: the data directory's lock is held all the while. Rows go over in batches, each committed together
with the note of how far it came (`marks.Progress`), so that an interrupted run goes on where it stopped. If the SQLite
database has changed in between (somebody served it again), the run begins anew by itself. At the end every table is
read on both sides and compared. Then first the SQLite database gets its mark that it has moved, and after that the
other one loses the mark that it is being filled: at no moment do both of them serve.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, delete, insert, select, update

from sendkit_server.model.instant import Instant
from sendkit_server.store import schema
from sendkit_server.store.files import instance_name, read_text
from sendkit_server.store.lock import DataLock
from sendkit_server.store.postgres.engine import PostgresEngine
from sendkit_server.store.sqlite.engine import SqliteEngine
from sendkit_server.store.transfer import marks, postgres, sqlite
from sendkit_server.store.transfer.backup import Progress, check_readable
from sendkit_server.store.transfer.errors import TransferRefused
from sendkit_server.store.transfer.source import Source, count, noted, oldest, tally
from sendkit_server.store.transfer.tables import TABLES, Batch, Carried, Tally
from sendkit_server.store.transfer.target import clear_first_rows, require_empty

COMMIT_ROWS = 20_000
COMMIT_BYTES = 16 * 1024 * 1024


class Moved(msgspec.Struct, frozen=True):
    """What was carried over: each table's rows and digest, the same on both sides. waiting: recipients to be delivered to."""

    tables: dict[str, Tally]
    waiting: int
    resumed: bool


def migrate(data_dir: Path, url: str, secret_key: str, now: Instant, progress: Progress) -> Moved:
    """Carries everything over, or goes on with that.

    StoreLocked: a server runs.  TransferRefused: the target is not empty, or this database was moved elsewhere.
    StoreUnavailable: a database was lost; run it again.
    """
    with _locked(data_dir, "sendkit migrate") as path:
        _bring_to_head(path)
        engine = PostgresEngine(url)
        try:
            with postgres.answering(), sqlite.reading(path) as source:
                check_readable(source, secret_key)
                source_name = _identity(data_dir, source)
                moved_to = noted(source, marks.MOVED)
                if moved_to not in (None, _shown(url)):
                    raise TransferRefused(f"this database was carried over to {moved_to} already; see --undo")
                state = "moved" if moved_to else _state(path)
                moved = _Migration(engine, source, source_name, state, now, progress).run()
            # Here first: from now on until the last statement neither of them serves.
            _set_mark(path, _shown(url))
            with postgres.answering():
                _finish(engine, source_name)
            return moved
        finally:
            engine.close()


def undo(data_dir: Path) -> str | None:
    """Takes the mark away that the SQLite database has moved; whereto it had."""
    with _locked(data_dir, "sendkit migrate --undo") as path:
        with sqlite.reading(path) as source:
            moved_to = noted(source, marks.MOVED)
        _set_mark(path, None)
        return moved_to


@contextmanager
def _locked(data_dir: Path, what: str) -> Iterator[Path]:
    path = data_dir / "sendkit.db"
    if not path.exists():
        raise TransferRefused(f"there is no database {path}; is SENDKIT_DATA_DIR right?")
    lock = DataLock(data_dir, what)
    try:
        yield path
    finally:
        lock.release()


def _bring_to_head(path: Path) -> None:
    """As a start of this version would; it also writes back what is left in the log."""
    engine = SqliteEngine(path)
    try:
        engine.migrate(lambda connection: None)
    except Exception as error:
        raise engine.translated(error) or error from error
    finally:
        engine.close()


def _identity(data_dir: Path, source: Source) -> str:
    instance_name(data_dir)  # makes the file
    return f"{noted(source, marks.FINGERPRINT)}-{read_text(data_dir / 'instance')}"


def _state(path: Path) -> str:
    """Changes with every change of the database; its log has been written back."""
    found = path.stat()
    return f"{found.st_size}-{found.st_mtime_ns}"


def _shown(url: str) -> str:
    """The database's name and host, without the password."""
    parts = conninfo_to_dict(url)
    return f"{parts.get('dbname', '')} at {parts.get('host', 'localhost')}:{parts.get('port', 5432)}"


def _set_mark(path: Path, moved_to: str | None) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM meta WHERE key = ?", (marks.MOVED,))
        if moved_to is not None:
            connection.execute("INSERT INTO meta VALUES (?, ?)", (marks.MOVED, moved_to))
        connection.execute("COMMIT")


def _finish(engine: PostgresEngine, source_name: str) -> None:
    def unmark(connection: Connection) -> None:
        connection.execute(delete(schema.meta).where(schema.meta.c.key.in_((marks.INCOMING, marks.CAME_FROM))))
        connection.execute(insert(schema.meta).values(key=marks.CAME_FROM, value=source_name))

    engine.migrate(unmark)


class _Migration:
    """One run, from the first batch that is missing to the comparison."""

    def __init__(
        self, engine: PostgresEngine, source: Source, name: str, state: str, now: Instant, progress: Progress
    ) -> None:
        self._engine = engine
        self._source = source
        self._name = name
        self._state = state
        self._now = now
        self._progress = progress
        self._resumed = False

    def run(self) -> Moved:
        """Copies and compares."""
        self._engine.migrate(self._begin)
        with self._engine.open_writer() as connection:
            raw = postgres.raw_of(connection)
            done = self._read_mark(connection)
            assert done is not None
            left = [(n, table, done.after if n == done.tables else None) for n, table in enumerate(TABLES)]
            left = left[done.tables :]
            self._progress.begin("Carrying over", sum(count(self._source, table, after) for _, table, after in left))
            for n, table, after in left:
                self._copy(connection, table, n, after)
            with raw.transaction():
                postgres.finish(raw)
        return self._compare()

    def _begin(self, connection: Connection) -> None:
        """Finds where to go on, or makes an empty database ready. Under the lock that other starts wait for."""
        done = self._read_mark(connection)
        if done is None:
            came_from = select(schema.meta.c.value).where(schema.meta.c.key == marks.CAME_FROM)
            if connection.execute(came_from).scalar() == self._name:
                raise TransferRefused(
                    "this installation was carried over to that database before, and completely. To serve it there, set "
                    "SENDKIT_DATABASE_URL; to carry it over once more, drop and create that database"
                )
            require_empty(connection, self._engine.now(connection) or self._now)
        elif done.source != self._name:
            raise TransferRefused("another installation is being carried over to that database; give an empty one")
        elif done.state == self._state or self._state == "moved":
            self._resumed = True
            return
        self._begin_anew(connection)

    def _begin_anew(self, connection: Connection) -> None:
        raw = postgres.raw_of(connection)
        clear_first_rows(postgres.PostgresTarget(raw))
        raw.execute("TRUNCATE " + ", ".join(f'"{table.name}"' for table in TABLES if table.name != "meta"))
        fingerprint = noted(self._source, marks.FINGERPRINT)
        connection.execute(insert(schema.meta).values(key=marks.FINGERPRINT, value=fingerprint))
        progress = marks.Progress(self._name, self._state)
        connection.execute(insert(schema.meta).values(key=marks.INCOMING, value=_encoded(progress)))
        postgres.make_partitions(raw, self._now, oldest(self._source))

    def _read_mark(self, connection: Connection) -> marks.Progress | None:
        query = select(schema.meta.c.value).where(schema.meta.c.key == marks.INCOMING)
        found = connection.execute(query).scalar()
        return None if found is None else msgspec.json.decode(found, type=marks.Progress)

    def _copy(self, connection: Connection, table: Carried, number: int, after: tuple[int | str, ...] | None) -> None:
        """Copies what is missing of a table; each transaction takes the mark along."""
        target = postgres.PostgresTarget(postgres.raw_of(connection))
        for group in _grouped(table, self._source.batches(table, after)):
            with postgres.raw_of(connection).transaction():
                for batch in group:
                    target.write(table, batch)
                self._note(connection, number, table.key_of(group[-1][-1]))
            self._progress.step(sum(map(len, group)))
        self._note(connection, number + 1, None)

    def _note(self, connection: Connection, tables: int, after: tuple[int | str, ...] | None) -> None:
        noted = marks.Progress(self._name, self._state, tables, after)
        change = update(schema.meta).where(schema.meta.c.key == marks.INCOMING).values(value=_encoded(noted))
        connection.execute(change)

    def _compare(self) -> Moved:
        """TransferRefused when a table is not the same on both sides; the next run then begins anew."""
        tallies = {}
        with self._engine.open_writer() as connection:
            raw = postgres.raw_of(connection)
            self._progress.begin("Comparing", 2 * sum(count(self._source, table) for table in TABLES))
            with raw.transaction():
                there = postgres.PostgresSource(raw)
                for table in TABLES:
                    tallies[table.name] = tally(self._source, table, self._progress.step)
                    found = tally(there, table, self._progress.step)
                    if found != tallies[table.name]:
                        break
                else:
                    query = "SELECT count(*) FROM recipient WHERE next_attempt_at IS NOT NULL"
                    return Moved(tallies, int(there.values(query)[0][0]), self._resumed)
            self._state = "different"
            self._note(connection, 0, None)
        raise TransferRefused(
            f"table {table.name} is not the same on both sides ({tallies[table.name].rows} rows here, {found.rows} "
            "there): did somebody write to one of them? The next run begins anew"
        )


def _encoded(progress: marks.Progress) -> str:
    return msgspec.json.encode(progress).decode()


def _grouped(table: Carried, batches: Iterator[Batch]) -> Iterator[list[Batch]]:
    """Batches that are committed together."""
    group: list[Batch] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows += len(batch)
        size += sum(len(row[position]) for position in table.blobs for row in batch)
        if rows >= COMMIT_ROWS or size >= COMMIT_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group
