"""What a running server looks after by itself: disk, clock, certificates, last-used times, retention, outgoing port 25,
and whether everything that decides whether mail arrives is in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection

from sendkit_server.accept import Acceptor
from sendkit_server.config import Settings
from sendkit_server.deliver.deliverer import Deliverer
from sendkit_server.deliver.route import Direct, Route
from sendkit_server.manage import retention
from sendkit_server.manage.doctor import Doctor
from sendkit_server.model import refusal
from sendkit_server.model.clock import SteadyClock
from sendkit_server.model.finding import Finding, FindingStatus
from sendkit_server.model.instant import DAY_MS, MINUTE_MS, Instant
from sendkit_server.model.mail import ApiKey, Warning_
from sendkit_server.net.probe import ProbeResult
from sendkit_server.net.tls_server import ServerTls
from sendkit_server.store.errors import StoreError
from sendkit_server.store.queries import keys as key_queries
from sendkit_server.store.queries import queue as queue_queries
from sendkit_server.store.store import Store

WATCH_S = 5.0
JUMP_MS = 10 * MINUTE_MS  # which takes two hours to follow
PROBE_AGAIN_S = 60.0
WARNINGS = 20  # of the doctor; more are for `sendkit doctor`
FIRST_LOOK_S = 60.0  # a server that has just been set up, its DNS too
QUEUE_LOOK_S = 1.0
QUEUE_LOOK_ALONE_S = 30.0  # nobody else can have written
RETENTION_MS = 10 * MINUTE_MS

PORT_25_BLOCKED = Warning_(
    "port_25_blocked",
    "This server cannot connect to port 25 of other mail servers, so nothing is being delivered directly.",
    "Ask the hosting provider to open outgoing port 25, or set SENDKIT_ROUTE to a relay: "
    "smarthost://user:password@relay.example:587",
)
CLOCK_JUMPED = Warning_(
    "clock_jumped",
    "The system's clock was set while this server ran: mail keeps to its plan, and this server to its own time.",
    "Restart it once the system's clock is right.",
)

log = structlog.get_logger("app")


def routes_down(ways: Iterable[dict[str, Any]]) -> list[Warning_]:
    """Of those ways (as Deliverer.ways tells them) that are down."""
    return [
        Warning_(
            "route_down",
            f"The route {way['route']} (to {way['to']}) is down since {way['down_since']}.",
            "`sendkit routes` shows why. Mail looks by itself, now and then, whether it works again.",
        )
        for way in ways
        if way["status"] == "down"
    ]


class Watch:
    """Every few seconds. What it finds wrong it logs once, and tells as long as it lasts."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        acceptor: Acceptor,
        clock: SteadyClock,
        tls: Callable[[], ServerTls | None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._acceptor = acceptor
        self._clock = clock
        self._tls = tls
        self._data_dir: Path = settings.data_dir
        self._used_keys: dict[tuple[int, str], Instant] = {}
        self._clock_jumped = False
        self._retention_due: Instant = 0
        self._maintenance_due: Instant = clock.now() + DAY_MS  # the store did it when it started

    def warnings(self) -> list[Warning_]:
        """What an operator should mend."""
        found = []
        if self._acceptor.closed is refusal.DISK_FULL:
            found.append(
                Warning_(
                    "disk_full",
                    "There is less free disk than SENDKIT_MIN_FREE_DISK: mail is refused, delivery goes on.",
                    f"Free space at {self._data_dir}.",
                )
            )
        if self._clock_jumped:
            found.append(CLOCK_JUMPED)
        return found

    def key_used(self, key: ApiKey) -> None:
        """Written with the next round."""
        self._used_keys[key.team_id, key.id] = self._clock.now()

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                self._look_at_disk()
                self._look_at_clock()
                tls = self._tls()
                if tls is not None:
                    tls.reload_if_changed()
                await self._write_used_keys()
                await self._expire()
            except Exception as error:
                # Whatever it was, the next round may do better; mail goes on meanwhile.
                trace = None if isinstance(error, StoreError) else error
                log.warning("watch.round_failed", error=str(error), exc_info=trace)
            await asyncio.sleep(WATCH_S)

    def _look_at_disk(self) -> None:
        if not self._store.engine.exclusive:
            return  # the database is somewhere else, and refuses by itself
        free = self._store.free_disk_bytes()
        short = free < self._settings.min_free_disk
        if short and self._acceptor.closed is None:
            self._acceptor.closed = refusal.DISK_FULL
            log.error("disk.low", free_bytes=free, data_dir=str(self._data_dir))
        elif not short and self._acceptor.closed is refusal.DISK_FULL:
            self._acceptor.closed = None
            log.info("disk.recovered", free_bytes=free)

    def _look_at_clock(self) -> None:
        ahead_ms = self._clock.behind_ms()
        jumped = abs(ahead_ms) >= JUMP_MS
        if jumped != self._clock_jumped:
            self._clock_jumped = jumped
            log.warning("clock.jumped" if jumped else "clock.agrees_again", ahead_ms=ahead_ms)

    async def _write_used_keys(self) -> None:
        used, self._used_keys = self._used_keys, {}
        if used:
            await self._store.write_quietly(lambda connection: key_queries.touch_keys(connection, used))

    async def _expire(self) -> None:
        now = self._clock.now()
        if now >= self._maintenance_due:
            self._maintenance_due = now + DAY_MS
            await asyncio.to_thread(self._store.engine.maintain, now)
        if now >= self._retention_due:
            self._retention_due = now + RETENTION_MS
            await retention.expire(self._store, retention.Kept.of(self._settings), now)


class DoctorWatch:
    """Looks by itself whether this server and its domains are well: soon after the start, then at its interval."""

    def __init__(self, interval_ms: int | None, doctor: Doctor, clock: Callable[[], Instant]) -> None:
        self._interval_ms = interval_ms
        self._doctor = doctor
        self._clock = clock

    def warnings(self) -> list[Warning_]:
        """The errors of the last look, the first WARNINGS of them. Port 25 has a watch of its own."""
        errors = [
            one for one in self._doctor.findings.values() if one.status is FindingStatus.ERROR and one.name != "port_25"
        ]
        return [
            Warning_(f"doctor_{one.name}", _of_domain(one), one.fix or "see `sendkit doctor`")
            for one in errors[:WARNINGS]
        ]

    async def run(self) -> None:
        """For ever, unless there is no interval."""
        if self._interval_ms is None:
            return
        wait_s = min(FIRST_LOOK_S, self._interval_ms / 1000)
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._interval_ms / 1000
            try:
                # A little less than the interval: what was looked at in the last round is due again.
                await self._doctor.look(self._clock() - self._interval_ms * 9 // 10)
            except Exception as error:
                # A look that fails is no reason to stop delivering.
                trace = None if isinstance(error, StoreError) else error
                log.warning("doctor.look_failed", error=str(error), exc_info=trace)


def _of_domain(finding: Finding) -> str:
    return finding.found if finding.domain is None else f"{finding.domain}: {finding.found}"


class QueueWatch:
    """Tells delivery what the operator holds and wants tried now: at once when this process wrote it, else by looking."""

    def __init__(self, store: Store, deliverer: Deliverer, clock: Callable[[], Instant]) -> None:
        self._store = store
        self._deliverer = deliverer
        self._clock = clock
        self._look_s = QUEUE_LOOK_ALONE_S if store.engine.exclusive else QUEUE_LOOK_S
        self._written = asyncio.Event()
        self._obeyed: dict[str, Instant] = {}
        store.on_forget.append(self._written.set)

    async def look(self) -> None:
        """Reads it once, and obeys. StoreUnavailable."""
        now = self._clock()
        hand = await self._store.read(lambda connection: queue_queries.hand(connection, now))
        self._deliverer.set_held(hand.held)
        for site, at in hand.retried.items():
            if self._obeyed.get(site) != at:
                self._deliverer.lift(site)
        self._obeyed = hand.retried

    async def run(self) -> None:
        """For ever."""
        while True:
            self._written.clear()
            try:
                await self.look()
            except StoreError as error:
                log.warning("watch.store_unavailable", error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_s):
                    await self._written.wait()


class PlansWatch:
    """Once after the start: a clock that was set back while no server ran, by a year perhaps, would leave deferred mail
    waiting until it has caught up. So no next try stays further away than a retry ever is."""

    def __init__(self, store: Store, deliverer: Deliverer, clock: Callable[[], Instant], longest_ms: int) -> None:
        self._store = store
        self._deliverer = deliverer
        self._clock = clock
        self._longest_ms = longest_ms

    async def run(self) -> None:
        """Until it is done; a store that is away is asked again."""
        moved = 0
        while True:
            try:
                while found := await self._store.write_quietly(self._slice):
                    moved += found
                break
            except StoreError as error:
                log.warning("watch.store_unavailable", error=str(error))
            await asyncio.sleep(QUEUE_LOOK_S)
        if moved:
            log.warning(
                "queue.brought_forward", recipients=moved, why="the clock was set back, or the schedule shortened"
            )
            self._deliverer.wake()

    def _slice(self, connection: Connection) -> int:
        now = self._clock()
        return queue_queries.bring_forward_slice(connection, now, now + self._longest_ms)


class Port25Watch:
    """Tells early what a user of a cloud otherwise learns days later: outgoing port 25 is closed."""

    def __init__(self, settings: Settings, routes: tuple[Route, ...], deliverer: Deliverer) -> None:
        self.blocked = False
        self._deliverer = deliverer
        self._has_left = False
        only_direct = all(isinstance(route, Direct) for route in routes)
        self._domains = settings.probed_domains if only_direct else ()

    def mail_left(self) -> None:
        """What left by whatever route proves that mail can leave."""
        self._has_left, self.blocked = True, False

    async def run(self) -> None:
        """Until a mail has left."""
        known: bool | None = True
        while self._domains and not self._has_left:
            result = await self._deliverer.probe(self._domains)
            self.blocked = result.reachable is False and not self._has_left
            if result.reachable is not known:
                known = result.reachable
                _tell(result)
            await asyncio.sleep(PROBE_AGAIN_S)
        self.blocked = False


def _tell(result: ProbeResult) -> None:
    if result.reachable:
        log.info("port_25_open", tried=list(result.lines))
    elif result.reachable is False:
        log.warning("port_25_blocked", tried=list(result.lines), fix=PORT_25_BLOCKED.fix)
    else:
        log.warning("port_25_unknown", tried=list(result.lines), why="DNS named no mail host to connect to")
