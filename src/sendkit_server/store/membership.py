"""This process among the nodes of one database: it says that it lives, learns who else does, and buries the dead.

A node that was not heard of for 30 seconds is ended by whichever other notices it first: that is written down, what it
owned is free, and when it comes back its next heartbeat tells it so. It then forgets what it had in memory and goes on
as a new incarnation. Time is the database's, so that nodes whose clocks differ agree about who is late.

On SQLite there is only one process, so nobody has to be convinced of anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import time_ns

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.model.instant import Instant
from sendkit_server.store.errors import StoreError
from sendkit_server.store.lease import BEAT_S, Lease
from sendkit_server.store.queries import nodes
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

RETRY_S = 1.0
# After a time without the database others may be alive and just as late: let them speak before they are buried.
GRACE_S = 12.0
NOTICED_S = 1.5 * BEAT_S  # after which every living node has seen a newcomer

log = structlog.get_logger("node")


class Beaten(msgspec.Struct, frozen=True):
    """What a heartbeat brought back. alive: whether nobody has ended this incarnation; peers: all that live."""

    alive: bool
    now: Instant
    peers: Sequence[AnyRow]


class Membership:
    """Runs in the event loop: a loop that hangs does not beat, and loses what it owns as it should.

    on_peers: told the numbers of all living incarnations that deliver, in order, after each heartbeat; None while this
    one is too new for the others to have made room.  on_lost: told when this incarnation was ended.  on_kept: told after
    each heartbeat that prolonged the lease.
    """

    def __init__(
        self,
        store: Store,
        roles: str,
        clock: Callable[[], Instant],
        *,
        on_peers: Callable[[Sequence[int] | None], None],
        on_lost: Callable[[], None],
        on_kept: Callable[[], None],
    ) -> None:
        self._store = store
        self._lease: Lease = store.lease
        self._roles = roles
        self._clock = clock
        self._on_peers = on_peers
        self._on_lost = on_lost
        self._on_kept = on_kept
        self._steady_since: float | None = None
        self._known_since = self._lease.elapsed()
        self._leaving = False

    async def run(self) -> None:
        """Beats for ever. Only where there can be others."""
        while not self._store.engine.exclusive:
            try:
                await self.beat()
                pause_s = BEAT_S
            except StoreError as error:
                self._steady_since = None
                log.warning("node.no_heartbeat", error=str(error), lease_holds=self._lease.holds())
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)

    async def beat(self) -> None:
        """One heartbeat, and what follows from it."""
        asked_at = self._lease.elapsed()
        wall_before = time_ns()
        beaten = await self._store.write_quietly(self._beat)
        self._store.set_clock(beaten.now, (wall_before + time_ns()) // 2)
        if self._leaving:
            return
        if not beaten.alive:
            await self._begin_anew()
            return
        self._lease.prolong(asked_at)
        self._on_kept()
        self._tell_peers(beaten.peers, asked_at)
        if self._steady_since is None:
            self._steady_since = asked_at
        if asked_at - self._steady_since >= GRACE_S:
            await self._bury()

    def _beat(self, connection: Connection) -> Beaten:
        now = self._store.engine.now(connection) or self._clock()
        alive = nodes.beat(connection, self._lease.owner, now, self._store.marks_from)
        return Beaten(alive, now, nodes.living(connection, now))

    def _tell_peers(self, peers: Sequence[AnyRow], at: float) -> None:
        delivering = [int(row.id) for row in peers if "deliver" in row.roles.split(",")]
        others = [owner for owner in delivering if owner != self._lease.owner]
        is_new = bool(others) and at - self._known_since < NOTICED_S
        self._on_peers(None if is_new else delivering)

    async def _begin_anew(self) -> None:
        ended = self._lease.owner
        log.error("node.ended_by_others", node=ended)
        self._lease.end()
        self._on_lost()
        who = self._store.who(self._roles)

        def register(connection: Connection) -> int:
            now = self._store.engine.now(connection) or self._clock()
            return nodes.register(connection, who, now, alone=False)

        asked_at = self._lease.elapsed()
        self._store.begin(await self._store.write_quietly(register), asked_at)
        self._known_since = self._lease.elapsed()
        log.warning("node.began_anew", node=self._lease.owner, before=ended)

    async def _bury(self) -> None:
        def bury(connection: Connection) -> tuple[list[int], int]:
            now = self._store.engine.now(connection) or self._clock()
            ended = nodes.end_expired(connection, now)
            freed = nodes.free_orphans(connection)
            if freed:
                self._store.engine.wake(connection)
            return ended, freed

        ended, freed = await self._store.write_quietly(bury)
        while freed:
            log.warning("node.took_over", ended=ended, recipients=freed)
            ended, freed = await self._store.write_quietly(bury)

    async def leave(self) -> None:
        """This process ends: what it still owns is free at once, and its part of the limits the others'."""
        self._leaving = True

        def end(connection: Connection) -> None:
            nodes.end(connection, self._lease.owner, self._store.engine.now(connection) or self._clock())
            self._store.engine.wake(connection)

        if not self._store.engine.exclusive:
            await self._store.write_quietly(end)
