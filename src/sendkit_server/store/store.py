"""The store as every room above sees it: hot operations, management writes, reads, the directory.

What differs between engines lives in the engine's folder; this class only joins the engine, the writer and the readers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection, func, insert, select, update

from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import ApiKey, Content
from sendkit_server.store import rows, schema, seal
from sendkit_server.store.directory import Cache, SendingDomain, find_domain, find_key, hash_secret, is_expired
from sendkit_server.store.engine import Engine, Mark
from sendkit_server.store.errors import OutcomeUnknown, StoreError, StoreUnavailable, WrongSecret
from sendkit_server.store.files import instance_name
from sendkit_server.store.lease import Lease
from sendkit_server.store.lock import DataLock
from sendkit_server.store.queries import nodes
from sendkit_server.store.queries.keys import FIRST_TEAM
from sendkit_server.store.sealed import OlderKey, older_keys
from sendkit_server.store.sqlite.engine import READERS, SqliteEngine
from sendkit_server.store.suppressed import Suppressed
from sendkit_server.store.transfer.marks import refuse_to_serve
from sendkit_server.store.values import Claim, Claimed, Completion, NewMail, Repeat
from sendkit_server.store.writer import Operation, Writer

PATIENCE_S = 10.0  # how long whoever waits for the database is kept waiting
VERSION = version("sendkit-server")

T = TypeVar("T")
log = structlog.get_logger("store")


def elapsed_s() -> float:
    """A clock that is never set, and goes on while the process is stopped or, where there is one, the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Store:
    """An open store. Made by `open_store`; `close` finishes what was handed in.

    lease: this process's incarnation among the nodes; its owner is 0 until `start`, and of a store that only manages.
    suppressed: the addresses that are not sent to.  older_keys: of return paths made before the secret key was changed.
    """

    def __init__(
        self, engine: Engine, lock: DataLock, secret_key: str, data_dir: Path, older_keys: tuple[OlderKey, ...] = ()
    ) -> None:
        self.engine = engine
        self.secret_key = secret_key
        self.older_keys = older_keys
        self.data_dir = data_dir
        self.lease = Lease(elapsed_s)
        self._lock = lock
        self._writer = Writer(engine)
        self._reading = ThreadPoolExecutor(READERS, "store-reader")
        self._keys: Cache[bytes, ApiKey | None] = Cache()
        self._domains: Cache[tuple[int, str], SendingDomain | None] = Cache()
        self._ahead_ns = 0
        self._closed = False
        self.suppressed = Suppressed(self.read)
        self.on_forget: list[Callable[[], None]] = []

    @property
    def owner(self) -> int:
        """The number of this process's incarnation."""
        return self.lease.owner

    def start(self, now: Instant, roles: str = "") -> None:
        """Takes an incarnation, and frees what dead ones owned as far as that is certain. StoreError."""
        try:
            with self.engine.open_writer() as connection:
                at_database = self.engine.now(connection)
                if at_database is not None:
                    now = at_database
                    self.set_clock(now, time.time_ns())
                self.engine.maintain(now)
                who = self.who(roles)
                asked_at = self.lease.elapsed()
                owner = self.engine.run(
                    connection,
                    lambda connection: nodes.register(
                        connection, who, self.engine.now(connection) or now, alone=self.engine.exclusive
                    ),
                    Mark(0, 0),
                )
        except Exception as error:
            raise self.engine.translated(error) or error from error
        self.begin(owner, asked_at)
        self._writer.start()

    def start_managing(self) -> None:
        """For a command that only manages: the process is no node, and other nodes do not see it."""
        self._writer.start()

    def who(self, roles: str) -> nodes.Who:
        """This process as the other nodes see it."""
        return nodes.Who(instance_name(self.data_dir), socket.gethostname(), os.getpid(), roles, VERSION)

    def set_clock(self, now: Instant, wall_ns: int) -> None:
        """The database said that it was `now` when this machine's clock said wall_ns."""
        self._ahead_ns = now * 1_000_000 - wall_ns

    def wall_ns(self) -> int:
        """The wall clock that all nodes share: the database's where it has one."""
        return time.time_ns() + self._ahead_ns

    def begin(self, owner: int, asked_at: float) -> None:
        """From now on this process acts as this incarnation. asked_at: when it asked to, by the lease's clock."""
        self.lease.begin(owner, asked_at, for_ever=self.engine.exclusive)
        self._writer.owner = owner

    def close(self) -> None:
        """Commits what was handed in, closes every connection and gives the directory free."""
        self._closed = True
        self._writer.close()
        # A reader whose database hangs is not waited for.
        self._reading.shutdown(wait=False, cancel_futures=True)
        self.engine.close()
        self._lock.release()

    def close_unstarted(self) -> None:
        """As close, for a store that was opened and never started."""
        self._writer.abandon()
        self._reading.shutdown()
        self.engine.close()
        self._lock.release()

    # -- hot operations ------------------------------------------------------------------------------------------

    def accept(self, mail: NewMail) -> asyncio.Future[Repeat | None]:
        """Stores a mail; durable once the future is done, to the earlier call if it repeats one, and then nothing of it is
        stored. StoreUnavailable: neither."""
        return self._writer.submit("accept", mail)

    def accept_in_time(self, mail: NewMail) -> Operation:
        """As accept, for a caller who may lose patience (`give_up`)."""
        return self._writer.hand_in("accept", mail)

    def give_up(self, operation: Operation) -> None:
        """Takes back what the database did not take in time. What is at the database already is not touched: its
        future tells in the end what became of it."""
        self._writer.give_up(operation, StoreUnavailable("the database did not take it in time"))

    async def claim(self, claim: Claim) -> Claimed:
        """Due recipients, owned by this node from now on."""
        claimed: Claimed = await self._writer.submit("claim", claim)
        return claimed

    async def complete(self, completion: Completion) -> bool:
        """Writes what a try came to. False: this node does not own the recipients any more, nothing is written."""
        owned: bool = await self._writer.submit("complete", completion)
        return owned

    # -- management and reads ------------------------------------------------------------------------------------

    async def write(self, function: Callable[[Connection], T]) -> T:
        """Runs a management function in one transaction; the directory forgets what it knew when it has committed."""
        result = await self.write_quietly(function)
        self.forget()
        return result

    async def write_quietly(self, function: Callable[[Connection], T]) -> T:
        """As `write`, for what the directory does not know of (last-used times, clean-up).

        It must take ≤ 20 ms, or come in slices. OutcomeUnknown when the database was lost on COMMIT, or hangs.
        """
        operation = self._writer.hand_in("", function)
        done, _ = await asyncio.wait([operation.future], timeout=PATIENCE_S)
        if not done:
            self.give_up(operation)
            if not operation.future.done():
                # Whoever gets it later finds nobody waiting.
                operation.future.add_done_callback(lambda late: late.cancelled() or late.exception())
                raise OutcomeUnknown("the database has not answered; look before you try again")
        result: T = operation.future.result()
        return result

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Runs a function on a read-only connection in a reading thread, ≤ 2 s. StoreUnavailable when it cannot."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        reading = asyncio.get_running_loop().run_in_executor(self._reading, self._read, function)
        done, _ = await asyncio.wait([reading], timeout=PATIENCE_S)
        if not done:
            reading.cancel()
            raise StoreUnavailable("the database does not answer")
        if reading.cancelled():
            raise StoreUnavailable("the store was closed before it was read")
        return reading.result()

    def _read(self, function: Callable[[Connection], T]) -> T:
        try:
            return self.engine.read(function)
        except Exception as error:
            translated = self.engine.translated(error)
            if translated is None:
                raise
            raise translated from error

    async def prove(self, now: Instant) -> None:
        """Reads and writes, so that a ready store is known and not hoped. StoreUnavailable when it cannot."""
        alive = update(schema.node).where(schema.node.c.id == self.owner).values(beat_at=now)
        await self.write_quietly(lambda connection: connection.execute(alive))
        await self.read(lambda connection: connection.execute(select(schema.team.c.id).limit(1)).scalar())

    async def content(self, team_id: int, content_id: str) -> Content:
        """A stored content. StoreUnavailable when it is not there or does not decode."""
        table = schema.content
        query = select(table.c.body).where(table.c.team_id == team_id, table.c.id == content_id)
        body = await self.read(lambda connection: connection.execute(query).scalar())
        if body is None:
            raise StoreUnavailable(f"content {content_id} is missing")
        try:
            return rows.content_of(body)
        except ValueError as error:
            raise StoreUnavailable(f"{content_id}: {error}") from error

    async def next_due(self) -> Instant | None:
        """When the earliest waiting recipient that nobody owns is due."""
        table = schema.recipient
        query = select(func.min(table.c.next_attempt_at)).where(
            table.c.owner.is_(None), table.c.next_attempt_at.is_not(None), table.c.fence >= 0
        )
        found: Instant | None = await self.read(lambda connection: connection.execute(query).scalar())
        return found

    # -- the directory -------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Makes every cached key, domain and suppression be read again."""
        self._keys.forget()
        self._domains.forget()
        self.suppressed.forget()
        for forget in self.on_forget:
            forget()

    def cached_key(self, secret: str, now: Instant) -> tuple[ApiKey | None] | None:
        """The key if it is known without reading: (key,), (None,) for a wrong or expired one, None for unknown."""
        found = self._keys.get(hash_secret(secret))
        if found is None:
            return None
        key = found[0]
        return (None,) if key is None or is_expired(key, now) else (key,)

    async def key(self, secret: str, now: Instant) -> ApiKey | None:
        """The key of this secret; None when it is unknown, revoked or expired."""
        cached = self.cached_key(secret, now)
        if cached is not None:
            return cached[0]
        secret_hash, generation = hash_secret(secret), self._keys.generation
        key = await self.read(lambda connection: find_key(connection, secret_hash))
        self._keys.put(secret_hash, key, generation)
        return None if key is None or is_expired(key, now) else key

    def cached_domain(self, team_id: int, name: str) -> tuple[SendingDomain | None] | None:
        """As cached_key, for a team's domain."""
        return self._domains.get((team_id, name))

    async def domain(self, team_id: int, name: str) -> SendingDomain | None:
        """The team's domain of this name (A-label, lower case)."""
        cached = self.cached_domain(team_id, name)
        if cached is not None:
            return cached[0]
        generation = self._domains.generation
        found = await self.read(lambda connection: find_domain(connection, team_id, name))
        self._domains.put((team_id, name), found, generation)
        return found

    # -- figures -------------------------------------------------------------------------------------------------

    def free_disk_bytes(self) -> int:
        """Free space where the database lies."""
        return shutil.disk_usage(self.data_dir).free

    def log_bytes(self) -> int:
        """Size of the write-ahead log, where it is ours."""
        return self.engine.log_bytes()

    @property
    def marks_from(self) -> int:
        """The number of the oldest transaction whose mark may still be looked for."""
        return self._writer.marks_from

    @property
    def commits(self) -> int:
        """Transactions committed since the start."""
        return self._writer.commits


def open_store(data_dir: Path, secret_key: str, what: str, database_url: str | None = None) -> Store:
    """Opens, migrates and locks the store of a data directory.

    what: the command that opens it, for the error another one gets.  database_url: None for SQLite in the directory.
    StoreLocked, SchemaTooNew, WrongSecret, StoreError.
    """
    lock = DataLock(data_dir, what)
    try:
        engine = _engine(data_dir, database_url)
        try:
            older: list[OlderKey] = []
            engine.migrate(lambda connection: older.extend(_first_rows(connection, secret_key)))
        except Exception as error:
            raise engine.translated(error) or error from error
        return Store(engine, lock, secret_key, data_dir, tuple(older))
    except BaseException:
        lock.release()
        raise


def _engine(data_dir: Path, database_url: str | None) -> Engine:
    if database_url is not None:
        # Imported here: who keeps to SQLite needs no driver for PostgreSQL.
        try:
            from sendkit_server.store.postgres.engine import PostgresEngine
        except ImportError as error:
            raise StoreError(f"{error}: pip install 'sendkit-server[postgres]'") from None

        return PostgresEngine(database_url)
    path = data_dir / "sendkit.db"
    if not path.exists():
        path.touch(mode=0o600)
    return SqliteEngine(path)


def _first_rows(connection: Connection, secret_key: str) -> tuple[OlderKey, ...]:
    refuse_to_serve(connection)
    _check_secret(connection, secret_key)
    _ensure_default_team(connection)
    return older_keys(connection, secret_key)


def _check_secret(connection: Connection, secret_key: str) -> None:
    """Refuses another secret key than the one the database was made with: nothing sealed would open."""
    table = schema.meta
    mine = seal.fingerprint(secret_key)
    known = connection.execute(select(table.c.value).where(table.c.key == "secret_fingerprint")).scalar()
    if known is None:
        connection.execute(insert(table).values(key="secret_fingerprint", value=mine))
    elif known != mine:
        raise WrongSecret(
            "SENDKIT_SECRET_KEY (or <data>/secret-key) is not the one this database was made with; nothing sealed "
            "with it would open. Put the old key back."
        )


def _ensure_default_team(connection: Connection) -> None:
    table = schema.team
    if connection.execute(select(table.c.id).limit(1)).scalar() is None:
        connection.execute(insert(table).values(name=FIRST_TEAM, created_at=0))
