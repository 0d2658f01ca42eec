"""The one group-committing writer: nothing else writes.

An operation is a value handed to `submit`. One thread takes all that wait, groups equal kinds, applies them in one
transaction, commits (with an fsync, here or at the server), and only then resolves the futures: a reply that follows one
is a reply about durable data. While a commit runs the next group gathers, so the group's size follows the load.

Only when a group raises is it rolled back and halved, until a bad value fails alone. Management functions run in
transactions of their own between groups. A failed commit is never tried again: every future of the group gets
StoreUnavailable and the connection is opened anew (an fsync that failed once may "succeed" the second time without the
data being there). When the connection was lost nobody knows whether COMMIT happened: those futures stay open until the
database is back and has been asked. What is not there is written once more, if somebody still waits for it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.store.engine import CommitLost, Engine, Mark
from sendkit_server.store.errors import OutcomeUnknown, StoreError, StoreUnavailable

MAX_GROUP = 512
MAX_WAITING = 20_000  # operations; only a database that hangs lets that many gather
CLOSE_S = 5.0  # for a database that hangs while the process is told to end
LOOK_FIRST_S, LOOK_AGAIN_S = 0.01, 0.5  # while an outcome is unknown
REOPEN_S = 0.2  # the least time between two tries to connect
LONG_S = 1.0  # a database that refuses after that has kept all waiting who came meanwhile

T = TypeVar("T")
log = structlog.get_logger("store")


class Operation(msgspec.Struct, eq=False):
    """One operation on its way. kind "": value is a function of the connection, run in a transaction of its own."""

    kind: str
    value: Any
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    at: float
    result: Any = None
    error: BaseException | None = None
    taken: bool = False
    given_up: bool = False
    again: bool = False


class _Unknown(msgspec.Struct):
    """A transaction whose COMMIT was not answered."""

    mark: Mark
    operations: list[Operation]
    results: Sequence[Any]


class Writer:
    """Owns the writing connection and its thread. owner: the incarnation in whose name transactions are marked."""

    def __init__(self, engine: Engine) -> None:
        self.owner = 0
        self.commits = 0
        self._engine = engine
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._connection: Connection | None = engine.open_writer()
        self._closed = False
        self._taking = threading.Lock()
        self._number = 0
        self._unknown: list[_Unknown] = []
        self._again: list[Operation] = []
        self._trouble: StoreUnavailable | None = None  # what the database said to this group
        self._shut_until = 0.0
        self._refused_at = 0.0
        self._refusal: StoreUnavailable | None = None
        self._look_in_s = LOOK_FIRST_S

    @property
    def marks_from(self) -> int:
        """Marks of transactions before this one are not needed any more."""
        return self._unknown[0].mark.number if self._unknown else self._number - 1

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def hand_in(self, kind: str, value: Any) -> Operation:
        """Hands over one operation; its future resolves once it is durable, to the operation's result."""
        loop = asyncio.get_running_loop()
        operation = Operation(kind, value, loop, loop.create_future(), monotonic())
        if self._closed:
            operation.future.set_exception(StoreUnavailable("the store is closed"))
        elif self._queue.qsize() > MAX_WAITING:
            operation.future.set_exception(StoreUnavailable("the database does not answer"))
        else:
            self._queue.put(operation)
        return operation

    def submit(self, kind: str, value: Any) -> asyncio.Future[Any]:
        """As hand_in, for one that will not be given up."""
        return self.hand_in(kind, value).future

    def give_up(self, operation: Operation, why: StoreUnavailable) -> bool:
        """Takes an operation back that has waited too long; False when it is at the database already."""
        with self._taking:
            operation.given_up = True
            if operation.taken:
                return False
            operation.value = None  # a mail's body: while a database hangs, many of these wait
        if not operation.future.done():
            operation.future.set_exception(why)
        return True

    def close(self) -> None:
        """Finishes what was handed in, then closes the connection."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join(timeout=CLOSE_S)
            if self._thread.is_alive():
                log.error("store.does_not_end", waiting=self._queue.qsize())

    def abandon(self) -> None:
        """Closes the connection of a writer whose thread was never started."""
        self._closed = True
        self._close_connection()

    # The thread.

    def _run(self) -> None:
        while True:
            group, last = self._next_group()
            if self._unknown:
                self._look_for_unknown(final=last)
                again, self._again = self._again, []
                self._apply(again)
            if group:
                self._process(group)
            if last:
                self._close_connection()
                return

    def _next_group(self) -> tuple[list[Operation], bool]:
        try:
            first = self._queue.get(timeout=self._look_in_s if self._unknown else None)
        except queue.Empty:
            return [], False
        group = [first]
        while len(group) < MAX_GROUP and group[-1] is not None:
            try:
                group.append(self._queue.get_nowait())
            except queue.Empty:
                break
        with self._taking:
            taken = [operation for operation in group if operation is not None and not operation.given_up]
            for operation in taken:
                operation.taken = True
        return taken, group[-1] is None

    def _process(self, group: list[Operation]) -> None:
        if monotonic() >= self._shut_until:
            self._trouble = None
        if self._refusal is not None:
            # Who came while the last one waited in vain has waited, too, and is told the same.
            _fail([operation for operation in group if operation.at < self._refused_at], self._refusal)
            group = [operation for operation in group if operation.at >= self._refused_at]
            self._refusal = None if group else self._refusal
        self._apply([operation for operation in group if operation.kind])
        for operation in group:
            if not operation.kind:
                self._call(operation)

    def _apply(self, operations: list[Operation]) -> None:
        """Applies hot operations together, or, when a value is to blame, in halves."""
        if not operations:
            return
        kinds: dict[str, list[Operation]] = {}
        for operation in operations:
            kinds.setdefault(operation.kind, []).append(operation)
        ordered = [operation for equal in kinds.values() for operation in equal]
        groups = [(kind, [operation.value for operation in equal]) for kind, equal in kinds.items()]
        mark = self._next_mark()
        try:
            results = self._transact(lambda connection: self._engine.transact(connection, groups, mark))
        except CommitLost as lost:
            self._remember(mark, ordered, [one for each in lost.results for one in each])
        except StoreError as error:
            _fail(ordered, error)
        except Exception as error:
            if len(operations) == 1:
                _fail(operations, error)
            else:
                middle = len(operations) // 2
                self._apply(operations[:middle])
                self._apply(operations[middle:])
        else:
            _succeed(ordered, [one for each in results for one in each])

    def _call(self, operation: Operation) -> None:
        """Runs a management function."""
        mark = self._next_mark()
        try:
            result = self._transact(lambda connection: self._engine.run(connection, operation.value, mark))
        except CommitLost as lost:
            self._remember(mark, [operation], [lost.results])
        except Exception as error:
            _fail([operation], error)
        else:
            _succeed([operation], [result])

    def _next_mark(self) -> Mark:
        self._number += 1
        return Mark(self.owner, self._number)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """One transaction. StoreError: a matter of the database; CommitLost; any other error: of the values."""
        connection = self._ready_connection()
        began = monotonic()
        try:
            result = work(connection)
        except CommitLost as lost:
            log.error("store.commit_lost", error=str(lost), transaction=self._number)
            self._lose_connection(StoreUnavailable(str(lost)))
            raise
        except Exception as error:
            failed = self._failed(error)
            if isinstance(failed, StoreUnavailable) and monotonic() - began > LONG_S:
                self._refused_at, self._refusal = monotonic(), failed
            raise failed from error
        self.commits += 1
        return result

    def _failed(self, error: Exception) -> Exception:
        """Rolls back; the error as the callers are to see it."""
        translated = self._engine.translated(error)
        if translated is not None:
            log.error("store.write_failed", error=str(error))
        try:
            if self._connection is not None:
                self._engine.rollback(self._connection)
        except Exception as rollback_error:
            log.error("store.rollback_failed", error=str(rollback_error))
            translated = translated or StoreUnavailable(str(rollback_error))
        if translated is not None:
            self._lose_connection(translated)
        return translated or error

    # The connection, and what is unknown because it was lost.

    def _ready_connection(self) -> Connection:
        """The connection, opened anew when it was lost; StoreUnavailable while that cannot be done."""
        if self._connection is not None:
            return self._connection
        # A database that is locked or away has been waited for already; all that queue behind would wait as long again.
        if self._trouble is not None:
            raise _as_new(self._trouble)
        try:
            self._connection = self._engine.open_writer()
            self._settle_unknown(self._connection)
        except Exception as error:
            translated = self._engine.translated(error)
            self._lose_connection(translated or StoreUnavailable(str(error)))
            self._shut_until = monotonic() + REOPEN_S
            raise translated or error from error
        return self._connection

    def _lose_connection(self, error: StoreError) -> None:
        self._trouble = error if isinstance(error, StoreUnavailable) else StoreUnavailable(str(error))
        if self._connection is not None:
            self._connection.invalidate()
        self._close_connection()

    def _remember(self, mark: Mark, operations: list[Operation], results: Sequence[Any]) -> None:
        self._look_in_s = LOOK_FIRST_S
        self._unknown.append(_Unknown(mark, operations, results))

    def _look_for_unknown(self, *, final: bool) -> None:
        if monotonic() >= self._shut_until:
            self._trouble = None
        self._look_in_s = LOOK_AGAIN_S
        try:
            self._ready_connection()
        except Exception as error:
            if final:
                # Shutting down: whoever waits is told that nobody knows.
                unknown, self._unknown = self._unknown, []
                for one in unknown:
                    _fail(one.operations, OutcomeUnknown(str(error)))

    def _settle_unknown(self, connection: Connection) -> None:
        while self._unknown:
            one = self._unknown[0]
            committed = self._engine.was_committed(connection, one.mark)
            log.warning("store.commit_looked_up", transaction=one.mark.number, committed=committed)
            if committed:
                self.commits += 1
                _succeed(one.operations, one.results)
            elif committed is None:
                _fail(one.operations, OutcomeUnknown("the database was lost on COMMIT; look before you try again"))
            else:
                self._once_more(one.operations)
            del self._unknown[0]

    def _once_more(self, operations: Sequence[Operation]) -> None:
        """It is not there: so it may be written again, unless its client was told so and comes again itself."""
        for operation in operations:
            if operation.kind and not operation.again and not operation.given_up:
                operation.again = True
                self._again.append(operation)
            else:
                _fail([operation], StoreUnavailable("the database was lost before the transaction committed"))

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except Exception as error:
            log.error("store.close_failed", error=str(error))


def _succeed(operations: Sequence[Operation], results: Sequence[Any]) -> None:
    for operation, result in zip(operations, results, strict=True):
        operation.result = result
    _resolve(operations)


def _fail(operations: Sequence[Operation], error: BaseException) -> None:
    for operation in operations:
        operation.error = _as_new(error) if isinstance(error, StoreUnavailable) else error
    _resolve(operations)


def _as_new(error: StoreUnavailable) -> StoreUnavailable:
    """The same for one more who asks: an exception that is raised twice drags the traces of both along."""
    return type(error)(str(error))


def _resolve(operations: Sequence[Operation]) -> None:
    """Resolves all futures of one loop in one wake-up."""
    loops = {operation.loop for operation in operations}
    for loop in loops:
        mine = [operation for operation in operations if operation.loop is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, mine)


def _settle(operations: list[Operation]) -> None:
    for operation in operations:
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.result)
