"""Which addresses are suppressed, as accept and delivery ask it for every mail: nearly always answered from memory.

Of each team in use a hash of every suppressed address is kept (about 70 bytes each). It is brought up to date by reading
what was added lately, at most once a second and in the background while mail flows; and now and then all is read, should
the clocks of two nodes ever have disagreed about what is late. An address that is not among the
hashes is certainly not suppressed, or has been for less than two seconds; one that is among them is looked up in the
database, so that one whose suppression was removed is let through at once, whichever process removed it.

Hot path: `clear`, once at accept and three times in delivery. Measured on a 2-core machine: 0.2 µs for a team without
suppressions, 0.5 µs with 100,000. Reading those takes 0.2 s once, reading what is new 0.9 ms, looking one up 0.3 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from sendkit_server.model.address import Mailbox
from sendkit_server.model.ids import instant_of
from sendkit_server.model.instant import SECOND_MS, Instant
from sendkit_server.store.queries import suppressions as queries

FRESH_S = 1.0  # after which it is read again, in the background
STALE_S = 2.0  # after which nobody relies on it
ALL_S = 600.0
SLICE = 10_000
# An id is made before its row is committed, perhaps by another node: so far back each reading looks.
OVERLAP_MS = 15 * SECOND_MS

T = TypeVar("T")
log = structlog.get_logger("store")


class Read(Protocol):
    """Store.read."""

    def __call__(self, function: Callable[[Connection], T]) -> Awaitable[T]:
        """Runs a function on a read-only connection."""


class _Team:
    """What is known of one team. at, all_at: when the last reading, and the last of everything, began; monotonic seconds.

    newest: the last id that was read.
    """

    __slots__ = ("all_at", "at", "hashes", "newest", "reading")

    def __init__(self) -> None:
        self.hashes: set[int] = set()
        self.at = float("-inf")
        self.all_at = float("-inf")
        self.newest = ""
        self.reading: asyncio.Task[None] | None = None


class Suppressed:
    """One store's."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._teams: dict[int, _Team] = {}
        self._generation = 0

    def clear(self, team_id: int, mailboxes: Iterable[Mailbox]) -> bool:
        """Whether certainly none of these is suppressed; False: ask `among`."""
        team = self._teams.get(team_id)
        if team is None:
            return False
        age_s = monotonic() - team.at
        if age_s > FRESH_S:
            if age_s > STALE_S:
                return False
            self._reading(team_id, team)
        hashes = team.hashes
        return not hashes or not any(hash(mailbox.matching) in hashes for mailbox in mailboxes)

    async def among(self, team_id: int, mailboxes: Iterable[Mailbox]) -> dict[str, str]:
        """Those of these that are suppressed, by Mailbox.matching, and the reason of each. StoreUnavailable."""
        team = await self._fresh(team_id)
        suspects = {
            matching: hash(matching) for mailbox in mailboxes if hash(matching := mailbox.matching) in team.hashes
        }
        if not suspects:
            return {}
        at = team.at
        found = await self._read(lambda connection: queries.suppressed(connection, team_id, suspects))
        if at == team.at:
            # Else it may have been suppressed once more, and read again, meanwhile.
            team.hashes.difference_update(hashed for matching, hashed in suspects.items() if matching not in found)
        return found

    def suppress(
        self,
        connection: Connection,
        team_id: int,
        address: str,
        reason: str,
        detail: Mapping[str, object],
        now: Instant,
    ) -> bool:
        """Suppresses an address (queries.suppressions.add) in a transaction of the caller's, and knows it from then on."""
        is_new = queries.add(connection, team_id, address, reason, detail, now)
        self.add(team_id, address)
        return is_new

    def suppress_soft(self, connection: Connection, team_id: int, address: str, now: Instant) -> bool:
        """As suppress, if the last mails to this address all bounced softly."""
        is_enough = queries.add_after_soft_bounces(connection, team_id, address, now)
        if is_enough:
            self.add(team_id, address)
        return is_enough

    def add(self, team_id: int, address: str) -> None:
        """This process has just suppressed an address. May be called by any thread."""
        team = self._teams.get(team_id)
        if team is not None:
            team.hashes.add(hash(address))

    def forget(self) -> None:
        """Something was written: nobody relies on what is known before it was read again."""
        self._generation += 1
        for team in self._teams.values():
            team.at = float("-inf")

    async def _fresh(self, team_id: int) -> _Team:
        team = self._teams.setdefault(team_id, _Team())
        while monotonic() - team.at > STALE_S:
            # Whoever gives up waiting must not end it for the others.
            await asyncio.shield(self._reading(team_id, team))
        return team

    def _reading(self, team_id: int, team: _Team) -> asyncio.Task[None]:
        """The reading that is under way, or one that begins now."""
        if team.reading is None or team.reading.done():
            team.reading = asyncio.get_running_loop().create_task(self._bring_up_to_date(team_id, team))
            team.reading.add_done_callback(_told)
        return team.reading

    async def _bring_up_to_date(self, team_id: int, team: _Team) -> None:
        at, generation = monotonic(), self._generation
        is_all = at - team.all_at > ALL_S or not team.newest
        since, after_id = 0 if is_all else max(0, instant_of(team.newest) - OVERLAP_MS), ""
        while True:
            last = after_id
            rows = await self._read(lambda connection: queries.added_since(connection, team_id, since, last, SLICE))  # noqa: B023
            team.hashes.update(hash(row.address) for row in rows)
            if rows:
                after_id = rows[-1].id
                team.newest = max(team.newest, after_id)
            if len(rows) < SLICE:
                break
        if is_all:
            team.all_at = at
        if generation == self._generation:
            team.at = at


def _told(reading: asyncio.Task[None]) -> None:
    """One that nobody waits for fails without harm: it is tried again, and somebody waits before it is too late."""
    if not reading.cancelled() and (error := reading.exception()) is not None:
        log.warning("store.suppressions_not_read", error=str(error))
