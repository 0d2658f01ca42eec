"""The one group-committing writer: nothing else writes.

An operation is a value handed to `submit`. One thread takes all that wait, groups equal kinds, applies each kind in
one call inside one transaction, commits (on SQLite with an fsync), and only then resolves the futures: a reply that
follows one is a reply about durable data. While a commit runs the next group gathers, so the group's size follows the load.

Only when a group raises is it rolled back and its operations run singly in savepoints, so that one bad value fails
alone. Management functions run in transactions of their own between groups. A failed commit is never tried again: every
future of the group gets StoreUnavailable and the connection is opened anew (an fsync that failed once may "succeed" the
second time without the data being there).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.store.errors import StoreError, StoreUnavailable

MAX_GROUP = 512

T = TypeVar("T")
log = structlog.get_logger("store")


class Engine(Protocol):
    """What the writer needs of a database engine."""

    def open_writer(self) -> Connection:
        """The connection that all writing goes through; transactions are begun and ended by the methods below."""

    def begin(self, connection: Connection) -> None: ...
    def commit(self, connection: Connection) -> None: ...
    def rollback(self, connection: Connection) -> None: ...
    def apply(self, connection: Connection, kind: str, values: list[Any]) -> list[Any]:
        """Applies values of one kind of hot operation, returns one result a value."""

    def translated(self, error: Exception) -> StoreError | None:
        """The StoreError that a driver's error means; None when it is no matter of the database."""


class _Operation(msgspec.Struct):
    """kind "": value is a function of the connection, run in a transaction of its own."""

    kind: str
    value: Any
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Owns the writing connection and its thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._connection: Connection | None = engine.open_writer()
        self._closed = False
        self.commits = 0

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, kind: str, value: Any) -> asyncio.Future[Any]:
        """Hands over one hot operation; the future resolves once it is durable, to the operation's result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the store is closed"))
        else:
            self._queue.put(_Operation(kind, value, loop, future))
        return future

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Runs a management function in a transaction of its own; it must take ≤ 20 ms, or come in slices."""
        result: T = await self.submit("", function)
        return result

    def close(self) -> None:
        """Finishes what was handed in, then closes the connection."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def abandon(self) -> None:
        """Closes the connection of a writer whose thread was never started."""
        self._closed = True
        self._close_connection()

    def _run(self) -> None:
        while True:
            group, last = self._next_group()
            if group:
                self._process(group)
            if last:
                self._close_connection()
                return

    def _next_group(self) -> tuple[list[_Operation], bool]:
        first = self._queue.get()
        if first is None:
            return [], True
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, True
            group.append(following)
        return group, False

    def _process(self, group: list[_Operation]) -> None:
        hot = [operation for operation in group if operation.kind]
        if hot and not self._transaction(hot, self._apply_kinds):
            self._transaction(hot, self._apply_singly)
        _resolve(hot)
        trouble = _trouble(hot)
        functions = [operation for operation in group if not operation.kind]
        for operation in functions:
            # A locked database has been waited for already; each would only wait as long again, and all behind it.
            operation.error = trouble
            if trouble is None:
                self._transaction([operation], self._apply_function)
                trouble = _trouble([operation])
        _resolve(functions)

    def _transaction(self, operations: list[_Operation], apply: Callable[[Connection, list[_Operation]], None]) -> bool:
        """True once its outcome is known; False: nothing is written, a value of the group is to blame."""
        try:
            connection = self._connection = self._connection or self._engine.open_writer()
            self._engine.begin(connection)
            apply(connection, operations)
            self._engine.commit(connection)
            self.commits += 1
        except Exception as error:
            return self._failed(operations, error, may_blame=apply == self._apply_kinds)
        return True

    def _failed(self, operations: list[_Operation], error: Exception, *, may_blame: bool) -> bool:
        translated = self._engine.translated(error)
        if translated is not None:
            log.error("store.write_failed", error=str(error), operations=len(operations))
        try:
            if self._connection is not None:
                self._engine.rollback(self._connection)
        except Exception as rollback_error:
            log.error("store.rollback_failed", error=str(rollback_error))
            translated = translated or StoreUnavailable(str(rollback_error))
        if translated is not None:
            self._close_connection()
        elif may_blame and len(operations) > 1:
            return False
        for operation in operations:
            operation.error = operation.error or translated or error
        return True

    def _apply_kinds(self, connection: Connection, operations: list[_Operation]) -> None:
        kinds: dict[str, list[_Operation]] = {}
        for operation in operations:
            kinds.setdefault(operation.kind, []).append(operation)
        for kind, equal in kinds.items():
            results = self._engine.apply(connection, kind, [operation.value for operation in equal])
            for operation, result in zip(equal, results, strict=True):
                operation.result = result

    def _apply_singly(self, connection: Connection, operations: list[_Operation]) -> None:
        for operation in operations:
            connection.exec_driver_sql("SAVEPOINT single")
            try:
                operation.result = self._engine.apply(connection, operation.kind, [operation.value])[0]
            except Exception as error:
                if self._engine.translated(error) is not None:
                    raise
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT single")
                operation.error = error
            connection.exec_driver_sql("RELEASE SAVEPOINT single")

    def _apply_function(self, connection: Connection, operations: list[_Operation]) -> None:
        for operation in operations:
            operation.result = operation.value(connection)

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except Exception as error:
            log.error("store.close_failed", error=str(error))


def _trouble(operations: list[_Operation]) -> StoreUnavailable | None:
    """What the database said when it took none of these."""
    errors = (operation.error for operation in operations)
    return next((error for error in errors if isinstance(error, StoreUnavailable)), None)


def _resolve(group: list[_Operation]) -> None:
    """Resolves all futures of one loop in one wake-up."""
    loops = {operation.loop for operation in group}
    for loop in loops:
        mine = [operation for operation in group if operation.loop is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, mine)


def _settle(operations: list[_Operation]) -> None:
    for operation in operations:
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.result)
