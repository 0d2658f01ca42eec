"""The PostgreSQL engine: how connections are opened, transactions are run, and errors are read.

A transaction goes out as one message, BEGIN to COMMIT, and costs one round trip (pipeline mode). It leaves a mark in
`node_commit`: that is what is looked for when the answer to COMMIT got lost. Behind a
pooler in transaction mode (PgBouncer) nothing may outlive a transaction on a connection, so no statement is prepared,
settings are local, and nobody listens for notifications.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, LiteralString, TypeVar

import psycopg
import sqlalchemy
import structlog
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, QueuePool

from sendkit_server.model.instant import Instant
from sendkit_server.store.engine import CommitLost, Group, Mark
from sendkit_server.store.errors import OutcomeUnknown, StoreError, StoreFull, StoreUnavailable
from sendkit_server.store.migrate import migrate_postgres
from sendkit_server.store.postgres import hot, partitions
from sendkit_server.store.postgres.hot import Raw
from sendkit_server.store.postgres.listener import Listener

READERS = 4
LEAST_VERSION = 150_000
READ_TIMEOUT_MS = 5_000
LOOK_TIMEOUT_MS = 2_000
DEADLOCK_TRIES = 3

# A plan is kept for as long as it fits a table's statistics, and a young installation's tables have none: without this
# a plan that was made for empty tables would scan full ones.
_WRITER_SETTINGS = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "synchronous_commit": "on",
    # A node that is stopped between two statements must not keep the locks of its transaction: nobody could bury it.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "5s",
    "statement_timeout": "30s",
}
_MARK = "INSERT INTO node_commit (owner, number) VALUES (%s, %s)"
# A server that is gone without a word is noticed after a quarter of a minute.
_WATCHED = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3,
            "tcp_user_timeout": 15_000}  # fmt: skip
_NO_SPACE = (errors.DiskFull, errors.OutOfMemory)
_NOT_NOW = (psycopg.OperationalError, errors.ReadOnlySqlTransaction)

T = TypeVar("T")
HotOperation = Callable[[Raw, list[Any]], hot.Results]
_HOT: dict[str, HotOperation] = {
    "accept": hot.accept_many,
    "claim": hot.claim_many,
    "complete": hot.complete_many,
}
log = structlog.get_logger("store")
# What psycopg logs about a connection that was lost it raises, too.
logging.getLogger("psycopg").setLevel(logging.ERROR)


class PostgresEngine:
    """Implements engine.Engine for one database. url: postgresql://user:password@host:port/database?option=…"""

    name = "postgres"
    exclusive = False

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            given = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise StoreError(f"SENDKIT_DATABASE_URL cannot be read: {one_line(error)}") from None
        self._closed = False
        self._options: dict[str, Any] = {**_WATCHED, "application_name": "sendkit", **given}
        self.pooled = self._examine()
        self._writing = self._engine(self._connect_writer, poolclass=NullPool)
        self.reading: sqlalchemy.Engine = self._engine(
            self._connect_reader,
            poolclass=QueuePool,
            pool_size=READERS,
            max_overflow=0,
            pool_timeout=READ_TIMEOUT_MS / 1000,
            pool_pre_ping=True,
        )

    def _engine(self, creator: Callable[[], psycopg.Connection[Any]], **options: Any) -> sqlalchemy.Engine:
        # Transactions are begun and ended by the methods below; a read of several statements needs none.
        return create_engine("postgresql+psycopg://", creator=creator, isolation_level="AUTOCOMMIT", **options)

    def migrate(self, then: Callable[[Connection], None]) -> None:
        """In one transaction, with a lock."""
        with self.open_writer() as connection:
            migrate_postgres(connection, then)

    def open_writer(self) -> Connection:
        """A writing connection."""
        return self._writing.connect()

    def _connect_writer(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        if not self.pooled:
            connection.execute(_settings(local=False))
        return connection

    def _begin(self, raw: Raw, mark: Mark) -> None:
        raw.execute("BEGIN")
        if self.pooled:
            raw.execute(_settings(local=True))
        if mark.owner:
            raw.execute(_MARK, (mark.owner, mark.number))

    def wake(self, connection: Connection) -> None:
        """By NOTIFY."""
        hot.wake(_raw(connection))

    def listen(self, wake: Callable[[], None]) -> Callable[[], None] | None:
        """By LISTEN on a connection of its own; not behind a pooler, which would lose it."""
        return None if self.pooled else Listener(self._connect, wake).stop

    def transact(self, connection: Connection, groups: Sequence[Group], mark: Mark) -> list[list[Any]]:
        """In one round trip, but for claims, whose second question depends on the first's answer."""
        raw = _raw(connection)
        for tries in range(DEADLOCK_TRIES):
            try:
                return self._transact(raw, groups, mark)
            except (errors.DeadlockDetected, errors.SerializationFailure):
                # Two nodes at the recipients of the same messages; nothing of it has happened.
                self.rollback(connection)
                if tries + 1 == DEADLOCK_TRIES:
                    raise
        raise AssertionError("unreachable")

    def _transact(self, raw: Raw, groups: Sequence[Group], mark: Mark) -> list[list[Any]]:
        pending: list[hot.Results] = []
        try:
            with raw.pipeline():
                self._begin(raw, mark)
                for kind, values in groups:
                    pending.append(_HOT[kind](raw, values))
                raw.execute("COMMIT")
            return [each() for each in pending]
        except psycopg.Error as error:
            if not _is_lost(raw, error):
                raise
            # All of it goes out at once, COMMIT with it; when that had not been reached there are no results, and none needed.
            results = [_if_committed(*group, each) for group, each in zip(groups, pending, strict=False)]
            raise CommitLost(one_line(error), results) from error

    def run(self, connection: Connection, function: Callable[[Connection], T], mark: Mark) -> T:
        """Runs a management function."""
        raw = _raw(connection)
        self._begin(raw, mark)
        result = function(connection)
        try:
            raw.execute("COMMIT")
        except psycopg.Error as error:
            if _is_lost(raw, error):
                raise CommitLost(one_line(error), result) from error
            raise
        if connection.in_transaction():
            connection.commit()
        return result

    def read(self, function: Callable[[Connection], T]) -> T:
        """A connection of our own is read-only for ever; one that a pooler lends only in a transaction."""
        pool = self.reading.pool
        try:
            return self._read(function)
        finally:
            if self._closed:
                # `close` has closed what was in the pool then; this reader's connection came back to it only now.
                pool.dispose()

    def _read(self, function: Callable[[Connection], T]) -> T:
        with self.reading.connect() as connection:
            if not self.pooled:
                return function(connection)
            raw = _raw(connection)
            raw.execute("BEGIN READ ONLY")
            raw.execute("SELECT set_config('statement_timeout', %s, true)", (str(READ_TIMEOUT_MS),))
            try:
                return function(connection)
            finally:
                raw.rollback()

    def rollback(self, connection: Connection) -> None:
        """Undoes the transaction."""
        raw = _raw(connection)
        if not raw.closed:
            raw.rollback()
        if connection.in_transaction():
            connection.rollback()

    def was_committed(self, connection: Connection, mark: Mark) -> bool | None:
        """Whether the transaction's mark is there. If not, it is set: one that is still on its way, in a pooler or a busy
        server, then finds it taken and cannot commit any more."""
        if not mark.owner:
            return None
        raw = _raw(connection)
        try:
            with raw.transaction():
                raw.execute("SELECT set_config('lock_timeout', %s, true)", (str(LOOK_TIMEOUT_MS),))
                taken = raw.execute(f"{_MARK} ON CONFLICT DO NOTHING", (mark.owner, mark.number))
        except errors.LockNotAvailable as error:
            raise OutcomeUnknown("the transaction whose COMMIT was not answered still runs") from error
        return taken.rowcount == 0

    def translated(self, error: Exception) -> StoreError | None:
        """Operational errors are the database's; constraint and programming errors are not."""
        if isinstance(error, StoreError):
            return error if isinstance(error, StoreUnavailable) else None
        if isinstance(error, PoolTimeout | InterfaceError):
            return StoreUnavailable(one_line(error))
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, _NO_SPACE):
            return StoreFull(one_line(cause))
        if isinstance(cause, _NOT_NOW):
            return StoreUnavailable(one_line(cause))
        return None

    def now(self, connection: Connection) -> Instant | None:
        """The server's clock."""
        found = _raw(connection).execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetchone()
        assert found is not None
        return int(found[0])

    def maintain(self, now: Instant) -> None:
        """Makes the partitions of the next weeks. StoreUnavailable."""
        try:
            with self.open_writer() as connection:
                partitions.ensure(_raw(connection), now)
        except Exception as error:
            raise self.translated(error) or error from error

    def drop_before(self, connection: Connection, table: str, before: Instant) -> list[str]:
        """See partitions."""
        return partitions.drop_before(_raw(connection), table, before)

    def log_bytes(self) -> int:
        """The server watches over its own."""
        return 0

    def close(self) -> None:
        """Closes the readers, and one that is still read from when that is done."""
        self._closed = True
        self.reading.dispose()
        self._writing.dispose()

    # Connecting.

    def _examine(self) -> bool:
        """Whether a pooler stands in between: then the server behind a connection is not the one that greeted."""
        try:
            connection = self._connect(prepare=False)
        except psycopg.Error as error:
            raise StoreUnavailable(f"cannot connect to SENDKIT_DATABASE_URL: {one_line(error)}") from error
        try:
            if connection.info.server_version < LEAST_VERSION:
                raise StoreError(f"PostgreSQL 15 or newer is needed; this is {connection.info.server_version // 10000}")
            with connection.transaction():
                found = connection.execute("SELECT pg_backend_pid()").fetchone()
            return found is not None and found[0] != connection.info.backend_pid
        finally:
            connection.close()

    def _connect(self, *, prepare: bool | None = None) -> psycopg.Connection[Any]:
        connection = psycopg.connect(autocommit=True, **self._options)
        if not (prepare if prepare is not None else not self.pooled):
            connection.prepare_threshold = None
        return connection

    def _connect_reader(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        if not self.pooled:
            connection.execute("SET default_transaction_read_only = on")
            connection.execute(f"SET statement_timeout = {READ_TIMEOUT_MS}")
        return connection


def _settings(*, local: bool) -> LiteralString:
    """What makes _WRITER_SETTINGS so. local: only for this transaction."""
    set_one: LiteralString = "set_config('{}', '{}', true)" if local else "set_config('{}', '{}', false)"
    return "SELECT " + ", ".join(set_one.format(name, value) for name, value in _WRITER_SETTINGS.items())


def one_line(error: BaseException) -> str:
    """libpq's words, which have several lines."""
    return " ".join(str(error).split())


def _if_committed(kind: str, values: list[Any], results: hot.Results) -> list[Any]:
    """What a group's results are, should it have committed. Whether completions were still owned was in the answer
    that got lost; they were when the transaction began."""
    return [True] * len(values) if kind == "complete" else results()


def _is_lost(raw: Raw, error: psycopg.Error) -> bool:
    """Whether the connection has ended, or the server has just said that it ends it (class 57P)."""
    return raw.closed or (error.sqlstate or "").startswith("57P")


def _raw(connection: Connection) -> Raw:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return raw
