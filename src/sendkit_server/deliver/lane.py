"""One lane leads to one site (a set of MX hosts, or a smarthost), and nothing in it waits for another lane.

Parcels wait here, a few more than there are connections are composed ahead of each priority, and each connection takes the
next ready one. The first connection proves the site; then as many are opened as parcels are ready, up to the limit. When no
connection can be had and none is left, the lane pauses: what waits is told so at once, without trying each in turn,
and the site is asked again by a single connection when the pause is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from sendkit_server.deliver.connection import Carried, Connection
from sendkit_server.deliver.desk import Desk
from sendkit_server.deliver.dial import Dials, NoConnection, Site
from sendkit_server.deliver.line import Line
from sendkit_server.deliver.office import LaneView, Office, Tried
from sendkit_server.deliver.outcome import OUR_FAULT, classify, obstacles
from sendkit_server.deliver.pace import Limits, Pace
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.deliver.plan import Way
from sendkit_server.deliver.room import Amount, Load
from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.model.instant import Instant, api_time
from sendkit_server.model.mail import Priority
from sendkit_server.model.outcome import Exchange, Outcome, Result
from sendkit_server.net.guard import Guard
from sendkit_server.wire.smtp_client import Capabilities, Mail, Step, Trouble

MAX_REQUEUES = 3  # a server that closes each connection before the first mail must not be asked for ever
CROWDED_S = 60.0  # how long a lane keeps to the connections it had when one more was refused
FORGOTTEN_S = 60.0  # a lane with nothing to do is dropped after this
PRIORITIES = tuple(Priority)


class Lane:
    """Waiting parcels and open connections of one site."""

    def __init__(
        self,
        site: Site,
        way: Way,
        guard: Guard,
        settings: DeliverySettings,
        office: Office,
        desk: Desk,
        dialer: Dials,
        limits: Limits,
    ) -> None:
        self.pace = Pace(limits)
        self.site = site
        self.way = way
        self.domains: set[str] = set()  # whose mail leads here
        self.paused_until: Instant | None = None
        self.last_answer = ""
        self._guard = guard
        self._settings = settings
        self._office = office
        self._desk = desk
        self._dialer = dialer
        self.in_memory = Load()  # all that is here, what is on the wire included
        self._waiting = Line(self.in_memory)
        self._composing = [0 for _ in PRIORITIES]
        self._ready = Line(self.in_memory)
        self._carrying = 0
        self._on_wire: set[Parcel] = set()
        self._idle: list[asyncio.Future[Parcel | None]] = []
        self._connections: set[Connection] = set()
        self._opening = 0
        self._failures = 0
        self._trouble: NoConnection | None = None
        self._crowded_limit = 0
        self._crowded_until = 0.0
        self._mails_a_connection = limits.messages_per_connection
        self._pushed_back = ""
        self._resuming: asyncio.TimerHandle | None = None
        self._closing = False
        self._released = asyncio.Event()
        self._turned_away_at: Amount | None = None
        self._loop = asyncio.get_running_loop()
        self._used_at = self._loop.time()

    # What the deliverer asks for.

    @property
    def parcels(self) -> int:
        """Parcels in the lane's memory, those on the wire included."""
        return len(self._waiting) + sum(self._composing) + len(self._ready) + self._carrying

    def turns_away(self) -> bool:
        """Whether more should wait in the store, but for urgent mail. If so, the office is told when that is over."""
        full = self._office.is_full(self.in_memory, urgent=False)
        self._turned_away_at = self.in_memory.amount(urgent=False) if full else None
        return full

    def turns_all_away(self) -> bool:
        """Whether even urgent mail should wait in the store."""
        return self._office.is_full(self.in_memory, urgent=True)

    @property
    def is_elsewhere(self) -> bool:
        """Whether other nodes have all the connections that the site may get."""
        return self._office.site_limit(self.site.name, self.pace.limits.connections) == 0

    def is_paused(self) -> bool:
        """Whether the site is left alone for now."""
        return self.paused_until is not None and self.paused_until > self._office.now()

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing is lost when the lane is dropped."""
        busy = self.parcels or self._connections or self._opening or self.is_paused()
        return not busy and self._loop.time() - self._used_at > FORGOTTEN_S

    def put(self, parcel: Parcel) -> None:
        """Take a parcel in."""
        self._used_at = self._loop.time()
        if self._closing or self.is_elsewhere:
            self._office.hand_back(parcel)
            return
        if self.paused_until is not None and self._trouble is not None and self.is_paused():
            self._office.unreachable(parcel, self.way, self._trouble, self.paused_until, tried=False)
            return
        if parcel.composed is not None:
            self._ready.append(parcel)
        else:
            last = self._waiting.last(parcel.message.priority)
            if last is not None and self._joins(last, parcel):
                self._waiting.join(last, parcel)
            else:
                self._waiting.append(parcel)
        self._pump()

    def view(self) -> LaneView:
        """For people."""
        until, reason = self._pause()
        return LaneView(
            self.site.name,
            self.way.name,
            self.parcels - self._carrying,
            self._carrying,
            len(self._connections),
            self.last_answer,
            until,
            reason,
        )

    def _pause(self) -> tuple[Instant | None, str]:
        """Until when nothing is sent, and why; (None, "") when it is not so."""
        if self.is_paused():
            return self.paused_until, self._trouble.outcome.text if self._trouble else ""
        pushed_s = self.pace.pause_until - self._loop.time()
        if pushed_s > 0:
            return self._office.now() + round(pushed_s * 1000), f"The site pushes back: {self._pushed_back}"
        return None, ""

    def carries(self, message_id: str) -> bool:
        """Whether a mail is on the wire."""
        return any(parcel.message.id == message_id for parcel in self._on_wire)

    def delay(self) -> str | None:
        """Why what is in the lane's memory waits; None when nothing is known to keep it."""
        until, reason = self._pause()
        if until is not None:
            return f"paused until {api_time(until)}: {reason}"
        if self.pace.limits.rate and self.pace.wait_s(self._loop.time()) > 0:
            return f"it gets {self.pace.limits.rate} mails a minute"
        if 0 < self._allowed() <= len(self._on_wire) < self.parcels:
            return (
                "the only connection is at work"
                if len(self._on_wire) == 1
                else f"all {len(self._on_wire)} connections are at work"
            )
        return None

    def go_on(self) -> None:
        """A connection may be opened again."""
        self._pump()

    def lift(self) -> None:
        """Ask the site again now, however it answered before."""
        self.paused_until = None
        self._failures = 0
        self.pace.lift()
        self._pump()

    def withdraw(self, is_meant: Callable[[Parcel], bool]) -> list[Parcel]:
        """Give back those of its parcels that wait; what is being composed or carried comes to is_stopped by itself."""
        found: list[Parcel] = []
        for line in (self._ready, self._waiting):
            meant = [parcel for parcel in line if is_meant(parcel)]
            if not meant:
                continue
            others = [parcel for parcel in line if parcel not in meant]
            line.clear()
            for parcel in others:
                line.append(parcel)
            found += meant
        return found

    def close_idle(self) -> bool:
        """Close the connection that was idle longest; False when all are at work."""
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)
                return True
        return False

    def share_changed(self) -> None:
        """Other nodes have come or gone: keep to the new share, and use it."""
        if self._closing:
            return
        if self.is_elsewhere:
            parcels = [*self._ready, *self._waiting]
            self._ready.clear()
            self._waiting.clear()
            for parcel in parcels:
                self._office.hand_back(parcel)
        over = len(self._connections) - self._allowed()
        for _ in range(over):
            self.close_idle()
        self._pump()

    def release(self) -> list[Parcel]:
        """Stop: give back what is not on the wire; what is, ends as it ends."""
        self._closing = True
        self._released.set()
        parcels = [*self._ready, *self._waiting]
        self._ready.clear()
        self._waiting.clear()
        self._wake_idle()
        return parcels

    def abort(self) -> None:
        """Cut all connections."""
        for connection in list(self._connections):
            connection.abort("delivery stopped")

    # Waiting → composing → ready → a connection.

    def _joins(self, last: Parcel, parcel: Parcel) -> bool:
        count = len(last.addresses) + len(parcel.addresses)
        same = last.message.id == parcel.message.id and last.way is parcel.way
        return same and count <= self._settings.recipients_per_transaction

    def _pump(self) -> None:
        # Composing ahead hides its time behind the network's; far ahead it would only fill memory. Each priority for itself:
        # bulk mail that came composed must not keep what is urgent from being composed.
        ahead = 8 + 2 * len(self._connections) if self._connections and self._waiting else 0
        for priority in PRIORITIES if ahead else ():
            while self._waiting.count(priority) and self._composing[priority] + self._ready.count(priority) < ahead:
                parcel = self._waiting.popleft_of(priority)
                self._composing[priority] += 1
                self.in_memory.add(parcel.weight)
                self._desk.add(parcel, self._composed)
        while self._ready and self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(self._ready.popleft())
        self._open_more()

    def _composed(self, parcel: Parcel, refused: Outcome | None) -> None:
        self._composing[parcel.message.priority] -= 1
        self.in_memory.remove(parcel.weight)
        if refused is not None:
            tried = Tried(None, None, None, self._office.now(), 0, (Exchange(0, "*", refused.text),))
            self._office.settle(parcel, self.way, tried, [refused] * len(parcel.addresses))
        elif not self._office.is_stopped(parcel):
            self.put(parcel)
            return
        self._pump()

    # Connections.

    def _open_more(self) -> None:
        if self._closing or self._resumes_later():
            return
        if self._connections:
            wanted = min(len(self._ready), self._allowed() - len(self._connections)) - self._opening
        else:
            wanted = min(1 if self._waiting or self._ready else 0, self._allowed()) - self._opening
        for _ in range(wanted):
            if not self._office.may_open(self):
                return
            self._opening += 1
            self._office.start(self._open_and_serve())

    def _allowed(self) -> int:
        share = self._office.site_limit(self.site.name, self.pace.limits.connections)
        allowed = self.pace.connections(share)
        return allowed if self._loop.time() >= self._crowded_until else min(allowed, self._crowded_limit)

    async def _open_and_serve(self) -> None:
        try:
            found = await self._dial()
            if isinstance(found, NoConnection):
                self._not_opened(found)
            else:
                await self._use(found)
        finally:
            self._office.closed()

    async def _dial(self) -> Connection | NoConnection:
        try:
            return await self._dialer.dial(self.site, self._guard)
        except Exception as error:
            self._office.fault("delivery.fault", error)
            return NoConnection(OUR_FAULT, (), self._office.now(), 0)
        finally:
            self._opening -= 1

    async def _use(self, connection: Connection) -> None:
        self._failures = 0
        self.paused_until = None
        self._connections.add(connection)
        try:
            await self._serve(connection)
        finally:
            connection.quit()
            self._connections.discard(connection)
            self._used_at = self._loop.time()
            if not self._closing:
                self._pump()

    def _not_opened(self, none: NoConnection) -> None:
        self.last_answer = none.outcome.text
        if self._connections:
            # The site is there, it only wants no more of us at once.
            self._crowded_limit = len(self._connections)
            self._crowded_until = self._loop.time() + CROWDED_S
            return
        if self._opening:
            return
        self._failures += 1
        self._trouble = none
        ends = self.paused_until = self._office.now() + self._office.pause_ms(self._failures)
        parcels = [*self._ready, *self._waiting]
        self._ready.clear()
        self._waiting.clear()
        if none.sessions:
            for domain in {job.site for parcel in parcels for job in parcel.jobs}:
                self._office.count_sessions(domain, none.sessions)
        for place, parcel in enumerate(parcels):
            self._office.unreachable(parcel, self.way, none, ends, tried=place == 0)

    async def _serve(self, connection: Connection) -> None:
        while connection.usable and not self._closing and connection.mails < self._mails_a_connection:
            if len(self._connections) > self._allowed():
                return
            parcel = self._ready.popleft() if self._ready else await self._next(connection)
            if parcel is None:
                return
            if not connection.mails:
                # Only now: what this connection takes itself needs no further one.
                self._pump()
            self._carrying += 1
            weight = parcel.weight  # it may lose recipients on the way
            self.in_memory.add(weight)
            try:
                if await self._in_turn(connection):
                    await self._carry(connection, parcel)
                else:
                    self._take_back(parcel)
            except Exception as error:
                # Whatever it was, the mail must not be forgotten; and the connection is in an unknown state.
                self._office.fault("delivery.fault", error)
                tried = Tried(None, None, None, self._office.now(), 0, ())
                self._office.settle(parcel, self.way, tried, [OUR_FAULT] * len(parcel.addresses))
                connection.abort("delivery stopped")
            finally:
                self._carrying -= 1
                self.in_memory.remove(weight)
            if self._waiting:
                self._pump()
            if self._turned_away_at is not None and self.in_memory.has_halved(self._turned_away_at):
                self._turned_away_at = None
                self._office.eased()
            await self._office.may_go_on()
        if connection.usable:
            # It took all it was thought to take; perhaps it takes more.
            most = self.pace.limits.messages_per_connection
            self._mails_a_connection = min(most, 2 * self._mails_a_connection)

    async def _next(self, connection: Connection) -> Parcel | None:
        """The next ready parcel; None when there was none for a while, or the server has gone."""
        if not self._waiting and not any(self._composing) and self._office.is_crowded():
            return None
        idle: asyncio.Future[Parcel | None] = self._loop.create_future()

        def over() -> None:
            if not idle.done():
                idle.set_result(None)

        self._idle.append(idle)
        self._pump()
        timer = self._loop.call_later(self._settings.timeouts.idle_s, over)
        connection.on_lost = over
        try:
            return await idle
        finally:
            timer.cancel()
            connection.on_lost = None
            if idle in self._idle:
                self._idle.remove(idle)

    def _wake_idle(self) -> None:
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)

    # One parcel over one connection.

    async def _carry(self, connection: Connection, parcel: Parcel) -> None:
        target = connection.target
        assert target is not None and parcel.composed is not None
        if self._office.is_stopped(parcel):
            return
        capabilities = connection.capabilities
        if parcel.composed.eightbit and not capabilities.eightbit:
            refused = await self._desk.seven_bit(parcel)
            if refused is not None:
                self._cannot_travel(connection, parcel, [refused] * len(parcel.addresses))
                return
        composed = parcel.composed
        sender = self._office.return_path(parcel)
        blocked = _obstacles(capabilities, parcel, sender)
        addresses = tuple(parcel.addresses)
        if blocked is not None:
            addresses = tuple([a for a, outcome in zip(addresses, blocked, strict=True) if outcome is None])
            if not addresses:
                self._cannot_travel(connection, parcel, [outcome for outcome in blocked if outcome is not None])
                return
        if connection.sessions:
            self._count_session(connection, parcel)
        reused = connection.mails > 0
        mail = Mail(sender, addresses, composed.raw, composed.eightbit, composed.smtputf8)
        self._on_wire.add(parcel)
        try:
            carried = await connection.carry(mail)
        finally:
            self._on_wire.discard(parcel)
        if carried.withheld:
            self._take_back(parcel)
            return
        self.last_answer = carried.transcript[-1].text
        if carried.passed_on is not None:
            tried = _tried(connection, carried)
            self._office.passed_on(parcel, self.way, tried, carried.passed_on, is_broken=carried.is_broken)
            return
        if reused and carried.untouched and self._goes_again(parcel, connection, carried):
            return
        self._learn(carried)
        outcomes = _outcomes(carried, target.host)
        if blocked is not None:
            sent = iter(outcomes)
            outcomes = [next(sent) if outcome is None else outcome for outcome in blocked]
        self._office.settle(parcel, self.way, _tried(connection, carried), outcomes)

    def _count_session(self, connection: Connection, parcel: Parcel) -> None:
        for domain in {job.site for job in parcel.jobs} - connection.counted_for:
            # Hosts that were given up before this one count once, for whom they were asked.
            self._office.count_sessions(domain, connection.sessions[-1 if connection.counted_for else 0 :])
            connection.counted_for.add(domain)

    async def _in_turn(self, connection: Connection) -> bool:
        """Waits for the site's pace; False when that takes longer than a connection is kept, or this one has ended."""
        while not self._closing and (wait_s := self.pace.wait_s(self._loop.time())) > 0:
            if wait_s > self._settings.timeouts.idle_s:
                connection.quit()
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._released.wait()
        if not connection.usable or self._closing:
            return False
        self.pace.goes(self._loop.time(), self._office.nodes())
        return True

    def _resumes_later(self) -> bool:
        """Whether the site is paused; then its mail goes on by itself when that is over."""
        wait_s = self.pace.wait_s(self._loop.time())
        if wait_s <= 0 or self._connections:
            return False
        if (self._waiting or self._ready) and self._resuming is None:
            self._resuming = self._loop.call_later(wait_s, self._resume)
        return True

    def _resume(self) -> None:
        self._resuming = None
        self._pump()

    def _learn(self, carried: Carried) -> None:
        """What the answers say about how much this site wants."""
        now = self._loop.time()
        transient = [
            verdict
            for verdict in carried.verdicts
            if verdict.reply is not None
            and (verdict.reply.code == 421 or (400 <= verdict.reply.code < 500 and verdict.step is not Step.RCPT))
        ]
        if not transient:
            if any(verdict.reply is not None for verdict in carried.verdicts):
                self.pace.took(now)
            return
        leave = any(verdict.reply is not None and verdict.reply.code == 421 for verdict in transient)
        if self.pace.refused(now, leave=leave):
            reply = transient[0].reply
            assert reply is not None
            self._pushed_back = reply.transcript

    def _goes_again(self, parcel: Parcel, connection: Connection, carried: Carried) -> bool:
        """Whether the server closed without looking at this mail, which then goes over another connection at once."""
        if carried.verdicts[0].trouble not in (None, Trouble.LOST) or parcel.requeued >= MAX_REQUEUES:
            return False
        # It took this many and then closed: the next connections keep to that.
        self._mails_a_connection = max(1, min(self._mails_a_connection, connection.mails - 1))
        parcel.requeued += 1
        self._take_back(parcel)
        return True

    def _take_back(self, parcel: Parcel) -> None:
        """Nothing has happened to this mail: it is the next one again."""
        if self._closing:
            self._office.hand_back(parcel)
        else:
            self._ready.appendleft(parcel)

    def _cannot_travel(self, connection: Connection, parcel: Parcel, outcomes: list[Outcome]) -> None:
        target = connection.target
        assert target is not None
        lines = (*connection.transcript, Exchange(0, "*", f"not sent: {outcomes[0].text}"))
        tried = Tried(target.host, target.address, connection.tls, self._office.now(), 0, lines)
        self._office.settle(parcel, self.way, tried, outcomes)


def _tried(connection: Connection, carried: Carried) -> Tried:
    target = connection.target
    assert target is not None
    return Tried(
        target.host, target.address, connection.tls, carried.started_at, carried.milliseconds, carried.transcript
    )


def _obstacles(capabilities: Capabilities, parcel: Parcel, sender: str) -> list[Outcome | None] | None:
    """None when the mail can travel to all, the usual case."""
    composed = parcel.composed
    assert composed is not None
    found = obstacles(
        capabilities,
        parcel.addresses,
        sender,
        len(composed.raw),
        eightbit=composed.eightbit,
        smtputf8=composed.smtputf8,
    )
    return found if any(found) else None


def _outcomes(carried: Carried, host: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    taken = False
    for verdict in carried.verdicts:
        outcome = classify(verdict, host, others_taken=taken)
        taken = taken or verdict.step in (Step.DATA, Step.MESSAGE) or outcome.result is Result.DELIVERED
        outcomes.append(outcome)
    return outcomes
