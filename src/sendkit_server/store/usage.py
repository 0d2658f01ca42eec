"""How much has been used of what is limited: counted in memory, kept in the database, added up over all processes.

Each count belongs to a window: a minute, a day, a month. It is read when it is first asked for, and while it is in use its
additions are written, and the others' read, every second; so two nodes together may exceed a limit by what they do in that
second, and a kill forgets no more than that. What is not limited is not counted and costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from sendkit_server.model.instant import Instant
from sendkit_server.store.errors import StoreError
from sendkit_server.store.queries import usage as queries
from sendkit_server.store.queries.usage import Counted
from sendkit_server.store.store import Store

WRITE_S = 1.0
IDLE_MS = 120_000  # what nobody has asked for so long is not kept in memory


class _Count(msgspec.Struct):
    known: int  # what the database has
    unwritten: int = 0
    asked_at: Instant = 0


class Use(NamedTuple):
    """Whether an amount was within the limit, and how much is used with it, or without it when it was not."""

    fits: bool
    used: int


class Usage:
    """All counts of one process."""

    def __init__(self, store: Store, clock: Callable[[], Instant]) -> None:
        self._store = store
        self._clock = clock
        self._counts: dict[Counted, _Count] = {}
        self._reading: dict[Counted, asyncio.Task[_Count]] = {}

    async def take(self, counted: Counted, amount: int, limit: int, now: Instant) -> Use:
        """Adds an amount, if the limit allows it. StoreUnavailable."""
        # Asked for each call and each mail: what is known is answered without another coroutine.
        count = self._counts.get(counted) or await self._asked(counted)
        count.asked_at = now
        used = count.known + count.unwritten
        if used + amount > limit:
            return Use(False, used)
        count.unwritten += amount
        return Use(True, used + amount)

    def give_back(self, counted: Counted, amount: int) -> None:
        """What was taken was not used after all."""
        count = self._counts.get(counted)
        if count is not None:
            count.unwritten -= amount

    async def since(self, team_id: int, kind: str, name: str, now: Instant) -> Instant:
        """When something was first asked about here; it is now if it never was."""
        counted = Counted(team_id, kind, name, 0)
        count = self._counts.get(counted) or await self._asked(counted)
        count.asked_at = now
        if not count.known:
            count.known = await self._store.write_quietly(lambda connection: queries.first(connection, counted, now))
        return count.known

    async def run(self) -> None:
        """Writes and reads for ever."""
        while True:
            await asyncio.sleep(WRITE_S)
            try:
                await self.write()
            except StoreError:
                continue  # it is written with the next round

    async def write(self) -> None:
        """Writes what is not written, reads what others have, and forgets what nobody asks for."""
        now = self._clock()
        for counted, count in list(self._counts.items()):
            if not count.unwritten and now - count.asked_at > IDLE_MS:
                del self._counts[counted]
        added = {counted: count.unwritten for counted, count in self._counts.items() if count.unwritten}
        if not added and (self._store.engine.exclusive or not self._counts):
            return
        wanted = list(self._counts)
        if added:
            found = await self._store.write_quietly(lambda connection: queries.add(connection, added, wanted))
        else:
            found = await self._store.read(lambda connection: queries.read(connection, wanted))
        for counted, known in found.items():
            count = self._counts[counted]
            count.known = known
            count.unwritten -= added.get(counted, 0)

    async def _asked(self, counted: Counted) -> _Count:
        """The count as the database has it, which all who ask meanwhile wait for."""
        reading = self._reading.get(counted)
        if reading is None:
            reading = self._reading[counted] = asyncio.create_task(self._read(counted))
        return await asyncio.shield(reading)

    async def _read(self, counted: Counted) -> _Count:
        try:
            found = await self._store.read(lambda connection: queries.read(connection, [counted]))
            count = self._counts[counted] = _Count(found[counted], asked_at=self._clock())
            return count
        finally:
            del self._reading[counted]
