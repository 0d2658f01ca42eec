"""What a database engine is to the store: the only things that `sqlite/` and `postgres/` each do their own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import sqlalchemy
from sqlalchemy import Connection

from sendkit_server.model.instant import Instant
from sendkit_server.store.errors import OutcomeUnknown, StoreError

T = TypeVar("T")

Group = tuple[str, list[Any]]
"""Values of one kind of hot operation: ("accept", [NewMail…]), ("claim", [Claim…]), ("complete", [Completion…])."""


class Mark(msgspec.Struct, frozen=True):
    """Names one transaction of one incarnation, so that it can be looked for when the answer to COMMIT got lost."""

    owner: int
    number: int


class CommitLost(OutcomeUnknown):
    """The connection ended after COMMIT may have been sent. results: what the transaction returned, should it be there."""

    def __init__(self, words: str, results: Any) -> None:
        super().__init__(words)
        self.results = results


class Engine(Protocol):
    """One database. Everything that writes is called by the writer's thread alone."""

    name: str
    reading: sqlalchemy.Engine
    exclusive: bool
    """Whether this process is the only one: then no other incarnation can be alive."""

    def migrate(self, then: Callable[[Connection], None]) -> None:
        """Brings the database to this program's schema, then runs a function there, under a lock that others wait for."""

    def open_writer(self) -> Connection:
        """The connection that all writing goes through."""

    def transact(self, connection: Connection, groups: Sequence[Group], mark: Mark) -> list[list[Any]]:
        """Applies hot operations in one transaction; durable once it returns one result a value.

        CommitLost; any other error: nothing is written once `rollback` has been called.
        """

    def run(self, connection: Connection, function: Callable[[Connection], T], mark: Mark) -> T:
        """Runs a function in a transaction of its own; otherwise as transact."""

    def read(self, function: Callable[[Connection], T]) -> T:
        """Runs a function on a connection that cannot write, for a bounded time. In a thread of the readers' pool."""

    def rollback(self, connection: Connection) -> None:
        """Undoes what is begun."""

    def was_committed(self, connection: Connection, mark: Mark) -> bool | None:
        """Looks whether a transaction is there whose COMMIT was not answered; None when it left no mark.

        OutcomeUnknown while it still runs.
        """

    def translated(self, error: Exception) -> StoreError | None:
        """The StoreError that a driver's error means; None when it is a matter of the values."""

    def now(self, connection: Connection) -> Instant | None:
        """The database's clock; None where it is this machine's."""

    def wake(self, connection: Connection) -> None:
        """Tells every node, once this transaction has committed, that something may be due."""

    def listen(self, wake: Callable[[], None]) -> Callable[[], None] | None:
        """Calls `wake`, from a thread of its own, when another process has woken all; what ends that. None: nobody can."""

    def maintain(self, now: Instant) -> None:
        """Makes room ahead, such as the next weeks' partitions. Called at start and then daily."""

    def drop_before(self, connection: Connection, table: str, before: Instant) -> list[str]:
        """Drops the partitions of a table that are older than that and that no waiting mail needs; their names."""

    def log_bytes(self) -> int:
        """Size of the write-ahead log, where it is this process's to watch; else 0."""

    def close(self) -> None:
        """Closes the readers; the writer closes its own connection."""
