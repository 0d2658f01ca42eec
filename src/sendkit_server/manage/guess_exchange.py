"""Makes what one process has counted of wrong keys and passwords known to all, and to itself after a restart.

Once a second what is new becomes one row, however many tries it was, and the rows of the others are read. So a flood writes no
more than MAX_GUESSES_A_ROW a second, and while nobody guesses nothing is written; on SQLite, where there are no others, nothing is
read either. Ages go by the database's clock and count on by one that is never set. A row from the future, left by a clock that was
ahead, does not count: else a clock that is set back would lock people out until it had caught up.

While the database is away each process goes by what it knows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.manage.guesses import WINDOW_S, Guess, Guesses
from sendkit_server.model.ids import ENTROPY_BYTES, instant_of, make_id
from sendkit_server.model.instant import Instant
from sendkit_server.store.errors import OutcomeUnknown, StoreError
from sendkit_server.store.queries import guesses as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

EXCHANGE_S = 1.0
WINDOW_MS = int(WINDOW_S * 1000)
OVERLAP_MS = 15_000  # longer than a commit takes: a row may come to light after younger ones
MAX_GUESSES_A_ROW = 200
PROCESS_BYTES = 8

Counted = list[tuple[str, str, str, int]]
"""A row's content: kind, client, target, how many."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Counted).decode

log = structlog.get_logger("guesses")


class GuessExchange:
    """Of one process. entropy: n random bytes, from any thread."""

    def __init__(
        self,
        store: Store,
        guesses: Guesses,
        clock: Callable[[], Instant],
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store = store
        self._guesses = guesses
        self._clock = clock
        self._entropy = entropy
        self._process = entropy(PROCESS_BYTES).hex()
        self._heard_until: Instant | None = None
        self._heard: frozenset[str] = frozenset()

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EXCHANGE_S)
            try:
                await self.tell()
                if not self._store.engine.exclusive:
                    await self.hear()
            except StoreError:
                continue  # it is told with a later round
            except Exception:
                log.exception("guesses.fault")

    async def tell(self) -> None:
        """Writes what others do not know of. StoreError."""
        taken = self._guesses.take_untold(MAX_GUESSES_A_ROW)
        if not taken:
            return
        counted = _encode([(*guess, count) for guess, count in taken.items()]).decode()

        def write(connection: Connection) -> None:
            row_id = make_id(queries.ID, self._now(connection), self._entropy(ENTROPY_BYTES))
            queries.insert_row(connection, row_id, self._process, counted)

        try:
            await self._store.write_quietly(write)
        except OutcomeUnknown:
            raise  # perhaps they were told; what is told twice would count twice
        except StoreError:
            self._guesses.put_back(taken)
            raise

    async def hear(self) -> None:
        """Reads what others have told since the last time; at first what still counts, this process's own of before a
        restart as well. StoreError."""

        def read(connection: Connection) -> tuple[Instant, Sequence[AnyRow]]:
            now = self._now(connection)
            since = now - WINDOW_MS
            if self._heard_until is not None:
                since = max(since, min(self._heard_until, now) - OVERLAP_MS)
            return now, queries.list_rows(connection, since, now, self._process)

        now, rows = await self._store.read(read)
        for row in rows:
            if row.id not in self._heard:
                self._take_in(row, (now - instant_of(row.id)) / 1000)
        self._heard_until, self._heard = now, frozenset(row.id for row in rows)

    def _take_in(self, row: AnyRow, age_s: float) -> None:
        try:
            counted = _decode(row.counted)
        except msgspec.DecodeError:
            return  # of a version that words it differently
        for kind, client, target, count in counted:
            self._guesses.hear(Guess(kind, client, target), count, age_s)

    def _now(self, connection: Connection) -> Instant:
        return self._store.engine.now(connection) or self._clock()
